#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/bf16.hpp"
#include "core/decode_kernels.hpp"

// Inner loops of packed_attention. Scores lie keys down, queries across: each of up to 32 lanes is
// a query of one head, so the softmax needs no sums across registers, and keys and values are read
// where they are.
namespace chronoward::packed {

constexpr std::size_t kQueries = 16;  // queries of a slot, all of one head
constexpr std::size_t kSlots = 2;     // slots that share keys and values
constexpr std::size_t kLanes = kSlots * kQueries;
constexpr std::size_t kTileKeys = 64;  // keys whose scores stay in the nearest cache
constexpr float kNothing = -std::numeric_limits<float>::infinity();

/// out[i][j] (+)= Σ_k a(i, k) b[k][j], where a(i, k) is a[i * a_stride + k], or a[k * a_stride + i]
/// if `is_transposed`. `columns` is a multiple of 16.
struct Product {
  const float* a;
  std::size_t a_stride;
  bool is_transposed;
  const float* b;
  std::size_t b_stride;
  std::size_t rows, depth, columns;
  float* out;
  std::size_t out_stride;
  bool adds;
  // of `pack_a` and `pack_b`; `multiply_bf16` then does not look at a, at b
  const Bf16* packed_a = nullptr;
  const Bf16* packed_b = nullptr;
};

void multiply(const Product& product);

/// Whether this machine has the units for `multiply_bf16`.
bool can_multiply_bf16();

/// The same with both sides rounded to bf16, sums in fp32. `out` has room for whole sixteens of
/// rows, those past the last may be overwritten (with `adds`: kept).
void multiply_bf16(const Product& product);

/// Lays out the left side of many products, (n_rows, depth) that is not transposed, for
/// `multiply_bf16`: `packed_depth(depth)` numbers a row, and a product may have any of the rows.
void pack_a(const float* a, std::size_t a_stride, std::size_t n_rows, std::size_t depth,
            std::vector<Bf16>& packed);
constexpr std::size_t packed_depth(std::size_t depth) { return (depth + 31) / 32 * 32; }

/// Lays out the right side of many products, (depth, columns).
void pack_b(const float* b, std::size_t b_stride, std::size_t depth, std::size_t columns,
            std::vector<Bf16>& packed);

/// columns (width, n_rows) = rows (n_rows, width)ᵀ; both sizes are multiples of 16.
void transpose(const float* rows, std::size_t n_rows, std::size_t width, float* columns);

/// What the lanes of some keys' scores look at.
struct Lanes {
  std::size_t n_lanes;    // 16 or 32
  std::size_t first_key;  // of the keys at hand, inside the segment
  std::size_t n_keys;
  std::size_t n_sure;            // of these keys, that every lane sees
  const std::int32_t* key_time;  // (n_keys,) minutes
  const std::int32_t* now;       // (n_lanes,)
  const std::int32_t* visible;   // (n_lanes,) keys of the segment that each lane sees
  TimeBias bias;
  const float* strength;     // (n_lanes,) a with log, a / tau with linear
  const float* inverse_tau;  // (n_lanes,)
};

/// Takes the bias off scores (n_keys, n_lanes), -infinity where a lane must not look; `top`
/// (n_lanes,) rises to the largest.
void bias_scores(const Lanes& lanes, float* scores, float* top);

/// scores -> exp(scores - top); their sums are added to `sum`.
void exponentials(const Lanes& lanes, const float* top, float* scores, float* sum);

/// What the bias parameters' gradients are made of, by lane: Σ dS·f(x) and Σ dS·x·f'(x); with the
/// linear bias Σ dS·minutes, in `value` alone.
struct Moments {
  float value[kLanes];
  float slope[kLanes];
};

/// Scores without bias become weights exp(score - bias - log_sum), `d_weights` the scores'
/// gradient weight * (d_weight - delta); `moments` are added to.
void score_gradients(const Lanes& lanes, const float* log_sum, const float* delta, float* scores,
                     float* d_weights, Moments& moments);

/// Σ x * y.
float dot(const float* x, const float* y, std::size_t n);

}  // namespace chronoward::packed
