#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

// Inner loops of packed_attention: eight rows at a time over tiles of sixteen columns. A tiled
// matrix holds sixteen columns of every row, then the next sixteen, so every loop runs along
// memory. The cached attention of decoding shares minutes_between and exponentials.
namespace chronoward::packed {

constexpr std::size_t kTile = 16;
constexpr std::size_t kRows = 8;
constexpr float kNothing = -std::numeric_limits<float>::infinity();

/// n, up to whole tiles.
constexpr std::size_t tiles(std::size_t n) { return (n + kTile - 1) / kTile * kTile; }

/// Where row r and column c of a tiled matrix of n_rows lie.
constexpr std::size_t tiled(std::size_t n_rows, std::size_t r, std::size_t c) {
  return c / kTile * kTile * n_rows + r * kTile + c % kTile;
}

/// out[r][t] = scale * Σ_d rows[r][d] * columns[d][t] for kRows rows, `depth` d and n (a multiple
/// of 16) t; `columns` is tiled and holds n_stored rows.
void rows_by_columns(const float* rows, std::size_t row_stride, const float* columns,
                     std::size_t n_stored, std::size_t depth, std::size_t n, float scale,
                     float* out, std::size_t out_stride);

/// target[t][c] += Σ_r weights[r][t] * rows[r][c] for kRows rows, n targets, `width` features;
/// `target` is tiled and holds n_stored rows.
void add_outer(const float* weights, std::size_t weight_stride, const float* rows,
               std::size_t width, std::size_t n, float* target, std::size_t n_stored);

/// |now - time| of each key, in minutes.
void minutes_between(const std::int32_t* times, std::size_t n, std::int32_t now, float* elapsed);

/// scores -= slope * elapsed.
void add_linear(const float* elapsed, std::size_t n, float slope, float* scores);

/// scores -= a * log(1 + elapsed / tau).
void add_log(const float* elapsed, std::size_t n, float a, float inverse_tau, float* scores);

/// scores -> exp(scores - max); n is a multiple of 8. Returns the sum, and max in `top`.
float exponentials(float* scores, std::size_t n, float* top);

/// The same; returns log Σ exp, and 1/Σ in `inverse`.
float softmax_row(float* scores, std::size_t n, float* inverse);

/// weights = exp(scores - log_sum); d_scores = weights * (d_weights - delta), in place.
void softmax_gradient(float* scores, float* d_weights, std::size_t n, float log_sum, float delta);

/// Σ x * y.
double dot(const float* x, const float* y, std::size_t n);

/// Adds Σ d * log(1 + x) and Σ d * x / (1 + x) with x = elapsed / tau; n is a multiple of 8.
void log_moments(const float* d, const float* elapsed, std::size_t n, float inverse_tau,
                 double* first, double* second);

}  // namespace chronoward::packed
