#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/decode_kernels.hpp"

namespace chronoward {

/// One packed row: T tokens of several segments, laid out (T, heads, d_head).
struct PackedRow {
  std::size_t n_tokens;
  std::size_t n_heads;
  std::size_t n_kv_heads;
  std::size_t d_head;
  std::span<const std::int32_t> time_min;  // (T,)
  std::span<const std::int32_t> bounds;    // (n_segments + 1,), non-decreasing, within 0..T
  std::span<const std::int32_t> kv_end;    // (T,) absolute, or empty for causal
  TimeBias bias;
  std::span<const float> a;    // (n_heads,), empty without a bias
  std::span<const float> tau;  // (n_heads,), minutes
  bool in_bf16 = false;        // products of values rounded to bf16, where there are units for it
};

struct PackedInputs {
  std::span<const float> q;  // (T, n_heads, d_head)
  std::span<const float> k;  // (T, n_kv_heads, d_head)
  std::span<const float> v;
};

struct PackedGradients {
  std::span<float> q;
  std::span<float> k;
  std::span<float> v;
  std::span<double> a;  // (n_heads,)
  std::span<double> tau;
};

/// Attention of each query over the keys of its segment before kv_end, less the time bias.
/// `out` (T, n_heads, d_head) and `log_sum` (T, n_heads) must be zero where no segment lies.
/// The result does not depend on the number of threads. Throws std::invalid_argument when shapes,
/// bounds or kv_end do not fit.
void packed_attention(const PackedRow& row, const PackedInputs& inputs, std::span<float> out,
                      std::span<float> log_sum, int n_threads);

/// Gradients, from what `packed_attention` gave. `gradients` must be zero on entry.
void packed_attention_backward(const PackedRow& row, const PackedInputs& inputs,
                               std::span<const float> d_out, std::span<const float> out,
                               std::span<const float> log_sum, const PackedGradients& gradients,
                               int n_threads);

}  // namespace chronoward
