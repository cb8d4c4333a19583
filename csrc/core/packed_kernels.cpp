#include "core/packed_kernels.hpp"

#include <cmath>
#include <cstring>

#include "core/fastmath.hpp"

namespace chronoward::packed {
namespace {

constexpr std::size_t kLanes = 8;
using Lanes = float __attribute__((vector_size(32)));
using WideLanes = float __attribute__((vector_size(64)));  // only where AVX-512 holds it

template <typename Vector>
CHRONOWARD_INLINE Vector load(const float* p) {
  Vector x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

template <typename Vector>
CHRONOWARD_INLINE void store(float* p, Vector x) {
  std::memcpy(p, &x, sizeof(x));
}

/// What the two products work on; see the header.
struct Product {
  const float* rows;
  std::size_t row_stride;
  const float* columns;
  std::size_t n_stored;
  std::size_t depth;
  float scale;
  float* out;
  std::size_t out_stride;
};

struct Outer {
  const float* weights;
  std::size_t weight_stride;
  const float* rows;
  std::size_t width;
  std::size_t n;
  float* target;
  std::size_t n_stored;
};

/// Where vector `v` of row `r` begins, counted from a tile on, of a tiled matrix.
template <typename Vector>
CHRONOWARD_INLINE std::size_t place(std::size_t n_stored, std::size_t r, std::size_t v) {
  constexpr std::size_t lanes = sizeof(Vector) / sizeof(float), in_tile = kTile / lanes;
  return (v / in_tile * n_stored + r) * kTile + v % in_tile * lanes;
}

/// R rows from `row` on by C vectors of columns from `t` on, all sums in registers.
template <typename Vector, std::size_t R, std::size_t C>
CHRONOWARD_INLINE void product_part(const Product& p, std::size_t row, std::size_t t) {
  Vector sums[R][C]{};
  const float* rows = p.rows + row * p.row_stride;
  const float* columns = p.columns + t * p.n_stored;
  for (std::size_t d = 0; d < p.depth; ++d) {
    Vector column[C];
    for (std::size_t c = 0; c < C; ++c) {
      column[c] = load<Vector>(columns + place<Vector>(p.n_stored, d, c));
    }
    for (std::size_t r = 0; r < R; ++r) {
      const float x = rows[r * p.row_stride + d];
      for (std::size_t c = 0; c < C; ++c) sums[r][c] += x * column[c];
    }
  }
  constexpr std::size_t lanes = sizeof(Vector) / sizeof(float);
  for (std::size_t r = 0; r < R; ++r) {
    for (std::size_t c = 0; c < C; ++c) {
      store(p.out + (row + r) * p.out_stride + t + c * lanes, sums[r][c] * p.scale);
    }
  }
}

/// All rows by n columns, R rows and T tiles at a time.
template <typename Vector, std::size_t R, std::size_t T>
CHRONOWARD_INLINE void product(const Product& p, std::size_t n) {
  constexpr std::size_t in_tile = kTile * sizeof(float) / sizeof(Vector);
  std::size_t t = 0;
  for (; t + T * kTile <= n; t += T * kTile) {
    for (std::size_t r = 0; r < kRows; r += R) product_part<Vector, R, T * in_tile>(p, r, t);
  }
  for (; t < n; t += kTile) {
    for (std::size_t r = 0; r < kRows; r += R) product_part<Vector, R, in_tile>(p, r, t);
  }
}

/// R rows' part of C vectors of features from `f` on.
template <typename Vector, std::size_t R, std::size_t C>
CHRONOWARD_INLINE void outer_part(const Outer& o, std::size_t row, std::size_t f) {
  constexpr std::size_t lanes = sizeof(Vector) / sizeof(float);
  Vector rows[R][C];
  for (std::size_t r = 0; r < R; ++r) {
    for (std::size_t c = 0; c < C; ++c) {
      rows[r][c] = load<Vector>(o.rows + (row + r) * o.width + f + c * lanes);
    }
  }
  const float* weights = o.weights + row * o.weight_stride;
  float* target = o.target + f * o.n_stored;
  for (std::size_t t = 0; t < o.n; ++t) {
    Vector sums[C];
    for (std::size_t c = 0; c < C; ++c) {
      sums[c] = load<Vector>(target + place<Vector>(o.n_stored, t, c));
    }
    for (std::size_t r = 0; r < R; ++r) {
      const float w = weights[r * o.weight_stride + t];
      for (std::size_t c = 0; c < C; ++c) sums[c] += w * rows[r][c];
    }
    for (std::size_t c = 0; c < C; ++c) {
      store(target + place<Vector>(o.n_stored, t, c), sums[c]);
    }
  }
}

template <typename Vector, std::size_t R, std::size_t T>
CHRONOWARD_INLINE void outer(const Outer& o) {
  constexpr std::size_t in_tile = kTile * sizeof(float) / sizeof(Vector);
  std::size_t f = 0;
  for (; f + T * kTile <= o.width; f += T * kTile) {
    for (std::size_t r = 0; r < kRows; r += R) outer_part<Vector, R, T * in_tile>(o, r, f);
  }
  for (; f < o.width; f += kTile) {
    for (std::size_t r = 0; r < kRows; r += R) outer_part<Vector, R, in_tile>(o, r, f);
  }
}

// How many rows and tiles fit the registers: 32 of 16 floats, or 16 of 8.
#ifdef CHRONOWARD_HAS_CLONES
__attribute__((target("arch=x86-64-v4"))) void multiply(const Product& p, std::size_t n) {
  product<WideLanes, 8, 2>(p, n);
}
__attribute__((target("arch=x86-64-v4"))) void accumulate(const Outer& o) {
  outer<WideLanes, 8, 2>(o);
}
__attribute__((target("arch=x86-64-v3"))) void multiply(const Product& p, std::size_t n) {
  product<Lanes, 4, 1>(p, n);
}
__attribute__((target("arch=x86-64-v3"))) void accumulate(const Outer& o) { outer<Lanes, 4, 1>(o); }
__attribute__((target("default")))
#endif
void multiply(const Product& p, std::size_t n) {
  product<Lanes, 4, 1>(p, n);
}
#ifdef CHRONOWARD_HAS_CLONES
__attribute__((target("default")))
#endif
void accumulate(const Outer& o) {
  outer<Lanes, 4, 1>(o);
}

}  // namespace

void rows_by_columns(const float* rows, std::size_t row_stride, const float* columns,
                     std::size_t n_stored, std::size_t depth, std::size_t n, float scale,
                     float* out, std::size_t out_stride) {
  multiply({rows, row_stride, columns, n_stored, depth, scale, out, out_stride}, n);
}

void add_outer(const float* weights, std::size_t weight_stride, const float* rows,
               std::size_t width, std::size_t n, float* target, std::size_t n_stored) {
  accumulate({weights, weight_stride, rows, width, n, target, n_stored});
}

CHRONOWARD_WIDE_CLONES void minutes_between(const std::int32_t* times, std::size_t n,
                                            std::int32_t now, float* elapsed) {
  for (std::size_t t = 0; t < n; ++t) {
    const std::int32_t gap = now - times[t];  // as integers: floats would lose minutes
    elapsed[t] = static_cast<float>(gap < 0 ? -gap : gap);
  }
}

CHRONOWARD_WIDE_CLONES void add_linear(const float* elapsed, std::size_t n, float slope,
                                       float* scores) {
  for (std::size_t t = 0; t < n; ++t) scores[t] -= slope * elapsed[t];
}

CHRONOWARD_WIDE_CLONES void add_log(const float* elapsed, std::size_t n, float a, float inverse_tau,
                                    float* scores) {
  for (std::size_t t = 0; t < n; ++t) scores[t] -= a * fast_log(1.0F + elapsed[t] * inverse_tau);
}

CHRONOWARD_WIDE_CLONES float exponentials(float* scores, std::size_t n, float* top) {
  Lanes tops = Lanes{} + kNothing;
  for (std::size_t t = 0; t < n; t += kLanes) {
    const auto x = load<Lanes>(scores + t);
    tops = x > tops ? x : tops;
  }
  float most = tops[0];
  for (std::size_t i = 1; i < kLanes; ++i) most = tops[i] > most ? tops[i] : most;
  float sums[kLanes] = {};
  for (std::size_t t = 0; t < n; t += kLanes) {
    for (std::size_t i = 0; i < kLanes; ++i) {
      scores[t + i] = fast_exp(scores[t + i] - most);
      sums[i] += scores[t + i];
    }
  }
  float sum = 0.0F;
  for (const float lane : sums) sum += lane;
  *top = most;
  return sum;
}

float softmax_row(float* scores, std::size_t n, float* inverse) {
  float top = kNothing;
  const float sum = exponentials(scores, n, &top);
  *inverse = 1.0F / sum;
  return top + std::log(sum);
}

CHRONOWARD_WIDE_CLONES void softmax_gradient(float* scores, float* d_weights, std::size_t n,
                                             float log_sum, float delta) {
  for (std::size_t t = 0; t < n; ++t) {
    // recomputed scores may pass the sum they once made by a rounding error
    const float exponent = scores[t] - log_sum;
    scores[t] = fast_exp(exponent < 0.0F ? exponent : 0.0F);
    d_weights[t] = scores[t] * (d_weights[t] - delta);
  }
}

CHRONOWARD_WIDE_CLONES double dot(const float* x, const float* y, std::size_t n) {
  float sums[kLanes] = {};
  std::size_t t = 0;
  for (; t + kLanes <= n; t += kLanes) {
    for (std::size_t i = 0; i < kLanes; ++i) sums[i] += x[t + i] * y[t + i];
  }
  double total = 0.0;
  for (const float lane : sums) total += static_cast<double>(lane);
  for (; t < n; ++t) total += static_cast<double>(x[t] * y[t]);
  return total;
}

CHRONOWARD_WIDE_CLONES void log_moments(const float* d, const float* elapsed, std::size_t n,
                                        float inverse_tau, double* first, double* second) {
  float ones[kLanes] = {}, twos[kLanes] = {};
  for (std::size_t t = 0; t < n; t += kLanes) {
    for (std::size_t i = 0; i < kLanes; ++i) {
      const float x = elapsed[t + i] * inverse_tau;
      ones[i] += d[t + i] * fast_log(1.0F + x);
      twos[i] += d[t + i] * (x / (1.0F + x));
    }
  }
  for (std::size_t i = 0; i < kLanes; ++i) {
    *first += static_cast<double>(ones[i]);
    *second += static_cast<double>(twos[i]);
  }
}

}  // namespace chronoward::packed
