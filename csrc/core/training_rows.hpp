#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

// What lies between the matrix products of a block in training, and its gradients: one pass over
// each row where torch makes five to ten over the whole batch. T is what the products read and
// write, float or BFloat16; sums are fp32. Sums over rows run in blocks of fixed size that are
// added in order, so results do not depend on the number of threads. All throw
// std::invalid_argument when sizes do not fit.
namespace chronoward {

/// A float whose low half is dropped (round to nearest, ties to even).
struct BFloat16 {
  std::uint16_t bits;
};

/// out (n, width) = silu(gate) * up of each row (gate, up) of `gate_and_up` (n, 2 width).
template <typename T>
void gate_rows(std::span<const T> gate_and_up, std::size_t width, std::span<T> out, int n_threads);

/// Fills the gradient of `gate_and_up`, and puts silu(gate) * up in the place of `d_out`: the
/// weight that it meets next needs it for its own gradient.
template <typename T>
void gate_rows_backward(std::span<const T> gate_and_up, std::size_t width, std::span<T> d_out,
                        std::span<T> d_gate_and_up, int n_threads);

/// out = x / rms(x) * weight of each row of x (n, width); `inverse` (n,) gets 1 / rms.
template <typename T>
void norm_rows(std::span<const float> x, std::span<const float> weight, float eps, std::span<T> out,
               std::span<float> inverse, int n_threads);

template <typename T>
void norm_rows_backward(std::span<const float> x, std::span<const float> weight,
                        std::span<const float> inverse, std::span<const T> d_out,
                        std::span<float> d_x, std::span<float> d_weight, int n_threads);

/// How a row of the joint projection becomes queries, keys and values.
struct HeadRows {
  std::size_t n_heads;
  std::size_t n_kv_heads;
  std::size_t d_head;
  std::span<const float> query_weight;  // (d_head,) of the norms; empty: none
  std::span<const float> key_weight;
  std::span<const float> cosine;  // (T, d_head / 2); empty: no rotation
  std::span<const float> sine;
  float eps;
};

/// Splits `projected` (T, (H + 2 Hkv) D) into q (T, H, D), k and v (T, Hkv, D); normalizes and
/// rotates queries and keys. `inverse` (T, H + Hkv) gets 1 / rms, where there are norms.
template <typename T>
void head_rows(const HeadRows& heads, std::span<const T> projected, std::span<float> q,
               std::span<float> k, std::span<float> v, std::span<float> inverse, int n_threads);

template <typename T>
void head_rows_backward(const HeadRows& heads, std::span<const T> projected,
                        std::span<const float> inverse, std::span<const float> d_q,
                        std::span<const float> d_k, std::span<const float> d_v,
                        std::span<T> d_projected, std::span<float> d_query_weight,
                        std::span<float> d_key_weight, int n_threads);

}  // namespace chronoward
