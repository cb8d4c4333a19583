#include "core/packed_kernels.hpp"

#include <cmath>
#include <cstring>

#include "core/fastmath.hpp"

namespace chronoward::packed {
namespace {

constexpr std::size_t kLanes = 8;
using Lanes = float __attribute__((vector_size(32)));

Lanes load(const float* p) {
  Lanes x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

void store(float* p, Lanes x) { std::memcpy(p, &x, sizeof(x)); }

}  // namespace

CHRONOWARD_CLONES void four_by_columns(const float* rows, std::size_t row_stride,
                                       const float* columns, std::size_t n_stored,
                                       std::size_t depth, std::size_t n, float scale, float* out,
                                       std::size_t out_stride) {
  for (std::size_t t = 0; t < n; t += kTile) {
    Lanes low[kRows]{}, high[kRows]{};
    const float* column = columns + t * n_stored;
    for (std::size_t d = 0; d < depth; ++d, column += kTile) {
      const Lanes a = load(column);
      const Lanes b = load(column + kLanes);
      for (std::size_t r = 0; r < kRows; ++r) {
        const float x = rows[r * row_stride + d];
        low[r] += x * a;
        high[r] += x * b;
      }
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      store(out + r * out_stride + t, low[r] * scale);
      store(out + r * out_stride + t + kLanes, high[r] * scale);
    }
  }
}

CHRONOWARD_CLONES void add_outer(const float* weights, std::size_t weight_stride, const float* rows,
                                 std::size_t width, std::size_t n, float* target,
                                 std::size_t n_stored) {
  for (std::size_t c = 0; c < width; c += kTile) {
    Lanes low[kRows], high[kRows];
    for (std::size_t r = 0; r < kRows; ++r) {
      low[r] = load(rows + r * width + c);
      high[r] = load(rows + r * width + c + kLanes);
    }
    float* place = target + c * n_stored;
    for (std::size_t t = 0; t < n; ++t, place += kTile) {
      Lanes a = load(place);
      Lanes b = load(place + kLanes);
      for (std::size_t r = 0; r < kRows; ++r) {
        const float w = weights[r * weight_stride + t];
        a += w * low[r];
        b += w * high[r];
      }
      store(place, a);
      store(place + kLanes, b);
    }
  }
}

CHRONOWARD_CLONES void minutes_between(const std::int32_t* times, std::size_t n, std::int32_t now,
                                       float* elapsed) {
  for (std::size_t t = 0; t < n; ++t) {
    const std::int32_t gap = now - times[t];  // as integers: floats would lose minutes
    elapsed[t] = static_cast<float>(gap < 0 ? -gap : gap);
  }
}

CHRONOWARD_CLONES void add_linear(const float* elapsed, std::size_t n, float slope, float* scores) {
  for (std::size_t t = 0; t < n; ++t) scores[t] -= slope * elapsed[t];
}

CHRONOWARD_CLONES void add_log(const float* elapsed, std::size_t n, float a, float inverse_tau,
                               float* scores) {
  for (std::size_t t = 0; t < n; ++t) scores[t] -= a * fast_log(1.0F + elapsed[t] * inverse_tau);
}

CHRONOWARD_CLONES float exponentials(float* scores, std::size_t n, float* top) {
  Lanes tops = Lanes{} + kNothing;
  for (std::size_t t = 0; t < n; t += kLanes) {
    const Lanes x = load(scores + t);
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

CHRONOWARD_CLONES void softmax_gradient(float* scores, float* d_weights, std::size_t n,
                                        float log_sum, float delta) {
  for (std::size_t t = 0; t < n; ++t) {
    // recomputed scores may pass the sum they once made by a rounding error
    const float exponent = scores[t] - log_sum;
    scores[t] = fast_exp(exponent < 0.0F ? exponent : 0.0F);
    d_weights[t] = scores[t] * (d_weights[t] - delta);
  }
}

CHRONOWARD_CLONES double dot(const float* x, const float* y, std::size_t n) {
  float sums[kLanes] = {};
  for (std::size_t t = 0; t < n; t += kLanes) {
    for (std::size_t i = 0; i < kLanes; ++i) sums[i] += x[t + i] * y[t + i];
  }
  double total = 0.0;
  for (const float lane : sums) total += static_cast<double>(lane);
  return total;
}

CHRONOWARD_CLONES void log_moments(const float* d, const float* elapsed, std::size_t n,
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
