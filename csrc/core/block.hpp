#pragma once

#include <cstddef>
#include <span>

// The elementwise parts of a decoder block for a handful of rows, each in one pass: with 32 rows a
// step, dispatching a dozen tensor operations costs more than the arithmetic. Their truth is
// chronoward.model.blocks; matrix products stay with BLAS. A row's result depends on that row only.
namespace chronoward {

/// out = x / sqrt(mean(x²) + eps) · weight, over rows of weight.size().
void rms_norm(std::span<const float> x, std::span<const float> weight, float eps,
              std::span<float> out);

/// out = silu(gate) · up for rows of (gate, up), each of `width`.
void silu_gate(std::span<const float> gate_up, std::size_t width, std::span<float> out);

struct HeadShape {
  std::size_t n_heads = 0;
  std::size_t n_kv_heads = 0;
  std::size_t d_head = 0;
};

/// Splits rows of (q, k, v) heads, normalizes each query and key head and turns its pairs
/// (i, i + D/2) by the row's angles. Empty weights: no norm; empty cosines: no rotation.
void split_heads(std::span<const float> projected, const HeadShape& shape,
                 std::span<const float> q_weight, std::span<const float> k_weight, float eps,
                 std::span<const float> cosine, std::span<const float> sine, std::span<float> q,
                 std::span<float> k, std::span<float> v);

}  // namespace chronoward
