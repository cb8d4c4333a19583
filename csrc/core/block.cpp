#include "core/block.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "core/fastmath.hpp"

namespace chronoward {
namespace {

constexpr std::size_t kLanes = 8;

/// Sum of squares in eight partial sums, the same order whatever the machine's registers.
inline float squares(const float* x, std::size_t n) {
  float sums[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::size_t j = 0; j < kLanes; ++j) sums[j] += x[i + j] * x[i + j];
  }
  for (; i < n; ++i) sums[0] += x[i] * x[i];
  float sum = 0.0F;
  for (const float lane : sums) sum += lane;
  return sum;
}

CHRONOWARD_CLONES void norm_row(const float* x, const float* weight, std::size_t n, float eps,
                                float* out) {
  const float inverse = 1.0F / std::sqrt(squares(x, n) / static_cast<float>(n) + eps);
  for (std::size_t i = 0; i < n; ++i) out[i] = x[i] * inverse * weight[i];
}

CHRONOWARD_CLONES void turn_row(const float* cosine, const float* sine, std::size_t half,
                                float* x) {
  for (std::size_t i = 0; i < half; ++i) {
    const float first = x[i];
    const float second = x[half + i];
    x[i] = first * cosine[i] - second * sine[i];
    x[half + i] = second * cosine[i] + first * sine[i];
  }
}

CHRONOWARD_CLONES void gate_row(const float* gate, const float* up, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; ++i) {
    const float g = gate[i];
    const float e = fast_exp(g < 0.0F ? g : -g);
    const float numerator = g < 0.0F ? e : 1.0F;
    out[i] = g * (numerator / (1.0F + e)) * up[i];
  }
}

}  // namespace

void rms_norm(std::span<const float> x, std::span<const float> weight, float eps,
              std::span<float> out) {
  const auto n = weight.size();
  if (n == 0 || x.size() % n != 0 || out.size() != x.size()) {
    throw std::invalid_argument("rms_norm: arrays do not fit each other");
  }
  for (std::size_t at = 0; at < x.size(); at += n) {
    norm_row(x.data() + at, weight.data(), n, eps, out.data() + at);
  }
}

void silu_gate(std::span<const float> gate_up, std::size_t width, std::span<float> out) {
  if (width == 0 || out.size() % width != 0 || gate_up.size() != 2 * out.size()) {
    throw std::invalid_argument("silu_gate: arrays do not fit each other");
  }
  for (std::size_t at = 0; at < out.size(); at += width) {
    const float* gate = gate_up.data() + 2 * at;
    gate_row(gate, gate + width, width, out.data() + at);
  }
}

void split_heads(std::span<const float> projected, const HeadShape& shape,
                 std::span<const float> q_weight, std::span<const float> k_weight, float eps,
                 std::span<const float> cosine, std::span<const float> sine, std::span<float> q,
                 std::span<float> k, std::span<float> v) {
  const auto d = shape.d_head;
  const auto width = (shape.n_heads + 2 * shape.n_kv_heads) * d;
  const auto rows = width == 0 ? 0 : projected.size() / width;
  const bool norms = !q_weight.empty();
  const bool fits =
      width != 0 && projected.size() == rows * width && q.size() == rows * shape.n_heads * d &&
      k.size() == rows * shape.n_kv_heads * d && v.size() == k.size() &&
      cosine.size() == sine.size() && (cosine.empty() || cosine.size() == rows * (d / 2)) &&
      q_weight.size() == k_weight.size() && (!norms || q_weight.size() == d);
  if (!fits) throw std::invalid_argument("split_heads: arrays do not fit each other");
  for (std::size_t r = 0; r < rows; ++r) {
    const float* source = projected.data() + r * width;
    const auto take = [&](std::size_t n_heads, const float* weight, float* target) {
      for (std::size_t head = 0; head < n_heads; ++head, source += d, target += d) {
        if (norms) {
          norm_row(source, weight, d, eps, target);
        } else {
          std::copy_n(source, d, target);
        }
        if (!cosine.empty()) {
          turn_row(cosine.data() + r * (d / 2), sine.data() + r * (d / 2), d / 2, target);
        }
      }
    };
    take(shape.n_heads, q_weight.data(), q.data() + r * shape.n_heads * d);
    take(shape.n_kv_heads, k_weight.data(), k.data() + r * shape.n_kv_heads * d);
    std::copy_n(source, shape.n_kv_heads * d, v.data() + r * shape.n_kv_heads * d);
  }
}

}  // namespace chronoward
