#include "core/packed_kernels.hpp"

#include "core/fastmath.hpp"
#include "core/lane_math.hpp"

namespace chronoward::packed {
namespace {

using Four = float __attribute__((vector_size(16)));
using Eight = float __attribute__((vector_size(32)));
using Sixteen = float __attribute__((vector_size(64)));  // only where AVX-512 holds it

/// R rows from `row` on by C vectors of columns from `column` on, all sums in registers.
template <typename Vector, std::size_t R, std::size_t C, bool Transposed>
CHRONOWARD_INLINE void product_part(const Product& p, std::size_t row, std::size_t column) {
  constexpr std::size_t width = sizeof(Vector) / sizeof(float);
  Vector sums[R][C]{};
  float* out = p.out + row * p.out_stride + column;
  if (p.adds) {
    for (std::size_t r = 0; r < R; ++r) {
      for (std::size_t c = 0; c < C; ++c) {
        sums[r][c] = load_lanes<Vector>(out + r * p.out_stride + c * width);
      }
    }
  }
  const float* a = p.a + row * (Transposed ? 1 : p.a_stride);
  const float* b = p.b + column;
  for (std::size_t k = 0; k < p.depth; ++k) {
    Vector columns[C];
    for (std::size_t c = 0; c < C; ++c) columns[c] = load_lanes<Vector>(b + c * width);
    for (std::size_t r = 0; r < R; ++r) {
      const float x = Transposed ? a[r] : a[r * p.a_stride];
      for (std::size_t c = 0; c < C; ++c) sums[r][c] += x * columns[c];
    }
    a += Transposed ? p.a_stride : 1;
    b += p.b_stride;
  }
  for (std::size_t r = 0; r < R; ++r) {
    for (std::size_t c = 0; c < C; ++c) {
      store_lanes(out + r * p.out_stride + c * width, sums[r][c]);
    }
  }
}

/// All rows by C vectors of columns.
template <typename Vector, std::size_t R, std::size_t C, bool Transposed>
CHRONOWARD_INLINE void product_rows(const Product& p, std::size_t column) {
  std::size_t row = 0;
  for (; row + R <= p.rows; row += R) product_part<Vector, R, C, Transposed>(p, row, column);
  if constexpr (R == 8) {
    if (row + 4 <= p.rows) {
      product_part<Vector, 4, C, Transposed>(p, row, column);
      row += 4;
    }
  }
  for (; row < p.rows; ++row) product_part<Vector, 1, C, Transposed>(p, row, column);
}

template <typename Vector, std::size_t R, bool Transposed>
CHRONOWARD_INLINE void product(const Product& p) {
  constexpr std::size_t width = sizeof(Vector) / sizeof(float);
  std::size_t column = 0;
  for (; column + 2 * width <= p.columns; column += 2 * width) {
    product_rows<Vector, R, 2, Transposed>(p, column);
  }
  if (column < p.columns) product_rows<Vector, R, 1, Transposed>(p, column);
}

template <typename Vector, std::size_t R>
CHRONOWARD_INLINE void product_of(const Product& p) {
  if (p.is_transposed) {
    product<Vector, R, true>(p);
  } else {
    product<Vector, R, false>(p);
  }
}

/// Minutes between each lane's query and a key: subtracted as integers, floats would lose some.
template <typename Vector>
CHRONOWARD_INLINE Vector elapsed(const LaneBits<Vector>& now, std::int32_t time) {
  const LaneBits<Vector> gap = now - time;
  return __builtin_convertvector(gap < 0 ? -gap : gap, Vector);
}

/// What vectors of lanes know of themselves.
template <typename Vector>
struct LaneVectors {
  LaneBits<Vector> now, visible;
  Vector strength, inverse_tau;

  CHRONOWARD_INLINE LaneVectors(const Lanes& lanes, std::size_t lane)
      : now(load_lanes<LaneBits<Vector>>(lanes.now + lane)),
        visible(load_lanes<LaneBits<Vector>>(lanes.visible + lane)),
        strength(load_lanes<Vector>(lanes.strength + lane)),
        inverse_tau(load_lanes<Vector>(lanes.inverse_tau + lane)) {}
};

template <typename Vector, TimeBias Bias>
CHRONOWARD_INLINE void bias_lanes(const Lanes& lanes, std::size_t lane, float* scores, float* top) {
  const LaneVectors<Vector> of(lanes, lane);
  Vector most = load_lanes<Vector>(top + lane);
  for (std::size_t t = 0; t < lanes.n_keys; ++t) {
    float* place = scores + t * lanes.n_lanes + lane;
    Vector score = load_lanes<Vector>(place);
    if constexpr (Bias != TimeBias::none) {
      const Vector minutes = elapsed<Vector>(of.now, lanes.key_time[t]);
      if constexpr (Bias == TimeBias::linear) {
        score -= of.strength * minutes;
      } else {
        score -= of.strength * lane_log<Vector>(1.0F + minutes * of.inverse_tau);
      }
    }
    if (t >= lanes.n_sure) {
      const auto key = static_cast<std::int32_t>(lanes.first_key + t);
      score = of.visible > key ? score : lanes_of<Vector>(kNothing);
    }
    if (Bias != TimeBias::none || t >= lanes.n_sure) store_lanes(place, score);
    most = score > most ? score : most;
  }
  store_lanes(top + lane, most);
}

template <typename Vector>
CHRONOWARD_INLINE void exponential_lanes(const Lanes& lanes, std::size_t lane, const float* top,
                                         float* scores, float* sum) {
  const Vector most = load_lanes<Vector>(top + lane);
  Vector total = load_lanes<Vector>(sum + lane);
  for (std::size_t t = 0; t < lanes.n_keys; ++t) {
    float* place = scores + t * lanes.n_lanes + lane;
    const Vector weight = lane_exp<Vector>(load_lanes<Vector>(place) - most);
    store_lanes(place, weight);
    total += weight;
  }
  store_lanes(sum + lane, total);
}

/// Arrays that `score_gradients` works on, all by lane.
struct Gradients {
  const float* log_sum;
  const float* delta;
  float* scores;
  float* d_weights;
  Moments& moments;
};

template <typename Vector, TimeBias Bias>
CHRONOWARD_INLINE void gradient_lanes(const Lanes& lanes, std::size_t lane, const Gradients& g) {
  const LaneVectors<Vector> of(lanes, lane);
  const auto log_sum = load_lanes<Vector>(g.log_sum + lane);
  const auto delta = load_lanes<Vector>(g.delta + lane);
  auto value = load_lanes<Vector>(g.moments.value + lane);
  auto slope = load_lanes<Vector>(g.moments.slope + lane);
  for (std::size_t t = 0; t < lanes.n_keys; ++t) {
    const auto at = t * lanes.n_lanes + lane;
    Vector exponent = load_lanes<Vector>(g.scores + at) - log_sum;
    Vector x{}, f{};
    if constexpr (Bias != TimeBias::none) {
      x = elapsed<Vector>(of.now, lanes.key_time[t]);
      if constexpr (Bias == TimeBias::log) {
        x *= of.inverse_tau;
        f = lane_log<Vector>(1.0F + x);
      } else {
        f = x;
      }
      exponent -= of.strength * f;
    }
    // recomputed scores may pass the sum they once made by a rounding error
    exponent = exponent > Vector{} ? Vector{} : exponent;
    Vector weight = lane_exp<Vector>(exponent);
    if (t >= lanes.n_sure) {
      const auto key = static_cast<std::int32_t>(lanes.first_key + t);
      weight = of.visible > key ? weight : Vector{};
    }
    const Vector d_score = weight * (load_lanes<Vector>(g.d_weights + at) - delta);
    store_lanes(g.scores + at, weight);
    store_lanes(g.d_weights + at, d_score);
    if constexpr (Bias != TimeBias::none) value += d_score * f;
    if constexpr (Bias == TimeBias::log) slope += d_score * (x / (1.0F + x));
  }
  store_lanes(g.moments.value + lane, value);
  store_lanes(g.moments.slope + lane, slope);
}

template <typename Vector>
CHRONOWARD_INLINE void bias_all(const Lanes& lanes, float* scores, float* top) {
  for (std::size_t lane = 0; lane < lanes.n_lanes; lane += sizeof(Vector) / sizeof(float)) {
    switch (lanes.bias) {
      case TimeBias::none:
        bias_lanes<Vector, TimeBias::none>(lanes, lane, scores, top);
        break;
      case TimeBias::log:
        bias_lanes<Vector, TimeBias::log>(lanes, lane, scores, top);
        break;
      case TimeBias::linear:
        bias_lanes<Vector, TimeBias::linear>(lanes, lane, scores, top);
        break;
    }
  }
}

template <typename Vector>
CHRONOWARD_INLINE void exponential_all(const Lanes& lanes, const float* top, float* scores,
                                       float* sum) {
  for (std::size_t lane = 0; lane < lanes.n_lanes; lane += sizeof(Vector) / sizeof(float)) {
    exponential_lanes<Vector>(lanes, lane, top, scores, sum);
  }
}

template <typename Vector>
CHRONOWARD_INLINE void gradient_all(const Lanes& lanes, const Gradients& g) {
  for (std::size_t lane = 0; lane < lanes.n_lanes; lane += sizeof(Vector) / sizeof(float)) {
    switch (lanes.bias) {
      case TimeBias::none:
        gradient_lanes<Vector, TimeBias::none>(lanes, lane, g);
        break;
      case TimeBias::log:
        gradient_lanes<Vector, TimeBias::log>(lanes, lane, g);
        break;
      case TimeBias::linear:
        gradient_lanes<Vector, TimeBias::linear>(lanes, lane, g);
        break;
    }
  }
}

// How many rows fit the registers: 32 of 16 floats, or 16 of 8.
#ifdef CHRONOWARD_HAS_CLONES
#define CHRONOWARD_FOR(arch) __attribute__((target(arch)))
CHRONOWARD_FOR("arch=x86-64-v4") void run(const Product& p) { product_of<Sixteen, 8>(p); }
CHRONOWARD_FOR("arch=x86-64-v4") void run(const Lanes& lanes, float* scores, float* top) {
  bias_all<Sixteen>(lanes, scores, top);
}
CHRONOWARD_FOR("arch=x86-64-v4")
void run(const Lanes& lanes, const float* top, float* scores, float* sum) {
  exponential_all<Sixteen>(lanes, top, scores, sum);
}
CHRONOWARD_FOR("arch=x86-64-v4") void run(const Lanes& lanes, const Gradients& g) {
  gradient_all<Sixteen>(lanes, g);
}
CHRONOWARD_FOR("arch=x86-64-v3") void run(const Product& p) { product_of<Eight, 4>(p); }
CHRONOWARD_FOR("arch=x86-64-v3") void run(const Lanes& lanes, float* scores, float* top) {
  bias_all<Eight>(lanes, scores, top);
}
CHRONOWARD_FOR("arch=x86-64-v3")
void run(const Lanes& lanes, const float* top, float* scores, float* sum) {
  exponential_all<Eight>(lanes, top, scores, sum);
}
CHRONOWARD_FOR("arch=x86-64-v3") void run(const Lanes& lanes, const Gradients& g) {
  gradient_all<Eight>(lanes, g);
}
#else
#define CHRONOWARD_FOR(arch)
#endif
CHRONOWARD_FOR("default") void run(const Product& p) { product_of<Eight, 4>(p); }
CHRONOWARD_FOR("default") void run(const Lanes& lanes, float* scores, float* top) {
  bias_all<Eight>(lanes, scores, top);
}
CHRONOWARD_FOR("default")
void run(const Lanes& lanes, const float* top, float* scores, float* sum) {
  exponential_all<Eight>(lanes, top, scores, sum);
}
CHRONOWARD_FOR("default") void run(const Lanes& lanes, const Gradients& g) {
  gradient_all<Eight>(lanes, g);
}
#undef CHRONOWARD_FOR

}  // namespace

void multiply(const Product& product) { run(product); }

void bias_scores(const Lanes& lanes, float* scores, float* top) { run(lanes, scores, top); }

void exponentials(const Lanes& lanes, const float* top, float* scores, float* sum) {
  run(lanes, top, scores, sum);
}

void score_gradients(const Lanes& lanes, const float* log_sum, const float* delta, float* scores,
                     float* d_weights, Moments& moments) {
  run(lanes, {log_sum, delta, scores, d_weights, moments});
}

void transpose(const float* rows, std::size_t n_rows, std::size_t width, float* columns) {
  for (std::size_t r = 0; r < n_rows; r += 4) {
    for (std::size_t c = 0; c < width; c += 4) {
      const float* from = rows + r * width + c;
      const auto a = load_lanes<Four>(from), b = load_lanes<Four>(from + width);
      const auto d = load_lanes<Four>(from + 2 * width), e = load_lanes<Four>(from + 3 * width);
      const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      const Four ba = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Four de = __builtin_shufflevector(d, e, 0, 4, 1, 5);
      const Four ed = __builtin_shufflevector(d, e, 2, 6, 3, 7);
      float* to = columns + c * n_rows + r;
      store_lanes(to, __builtin_shufflevector(ab, de, 0, 1, 4, 5));
      store_lanes(to + n_rows, __builtin_shufflevector(ab, de, 2, 3, 6, 7));
      store_lanes(to + 2 * n_rows, __builtin_shufflevector(ba, ed, 0, 1, 4, 5));
      store_lanes(to + 3 * n_rows, __builtin_shufflevector(ba, ed, 2, 3, 6, 7));
    }
  }
}

CHRONOWARD_WIDE_CLONES float dot(const float* x, const float* y, std::size_t n) {
  Eight low{}, high{};
  std::size_t t = 0;
  for (; t + 16 <= n; t += 16) {
    low += load_lanes<Eight>(x + t) * load_lanes<Eight>(y + t);
    high += load_lanes<Eight>(x + t + 8) * load_lanes<Eight>(y + t + 8);
  }
  // not one lane after the other: each addition would wait for the last
  const Eight eight = low + high;
  const Four four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
                    __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  const Four two = four + __builtin_shufflevector(four, four, 2, 3, 0, 1);
  float total = two[0] + two[1];
  for (; t < n; ++t) total += x[t] * y[t];
  return total;
}

}  // namespace chronoward::packed
