#include "core/training_rows.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/denormals.hpp"
#include "core/fastmath.hpp"
#include "core/parallel.hpp"

namespace chronoward {
namespace {

constexpr std::size_t kLanes = 16;
constexpr std::size_t kBlock = 256;  // rows whose sums are added up first

CHRONOWARD_INLINE float widen(float x) noexcept { return x; }
CHRONOWARD_INLINE float widen(BFloat16 x) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}
CHRONOWARD_INLINE void narrow(float x, float& out) noexcept { out = x; }
CHRONOWARD_INLINE void narrow(float x, BFloat16& out) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  out.bits = static_cast<std::uint16_t>(x != x ? 0x7FC0U : rounded);
}

template <typename T>
CHRONOWARD_INLINE void widen_row(const T* x, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; ++i) out[i] = widen(x[i]);
}

CHRONOWARD_INLINE float row_dot(const float* x, const float* y, std::size_t n) {
  float sums[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::size_t j = 0; j < kLanes; ++j) sums[j] += x[i + j] * y[i + j];
  }
  for (; i < n; ++i) sums[0] += x[i] * y[i];
  float sum = 0.0F;
  for (const float lane : sums) sum += lane;
  return sum;
}

/// Writes x * inverse * weight; returns the inverse.
template <typename T>
CHRONOWARD_INLINE float norm_row(const float* x, const float* weight, std::size_t n, float eps,
                                 T* out) {
  const float inverse = 1.0F / std::sqrt(row_dot(x, x, n) / static_cast<float>(n) + eps);
  for (std::size_t i = 0; i < n; ++i) narrow(x[i] * inverse * weight[i], out[i]);
  return inverse;
}

/// `d` (n,) is overwritten.
template <typename T>
CHRONOWARD_INLINE void norm_row_backward(const float* x, const float* weight, float inverse,
                                         std::size_t n, float* d, T* d_x, float* d_weight) {
  for (std::size_t i = 0; i < n; ++i) {
    d_weight[i] += d[i] * x[i] * inverse;
    d[i] *= weight[i];
  }
  const float mean = row_dot(d, x, n) * inverse * inverse / static_cast<float>(n);
  for (std::size_t i = 0; i < n; ++i) narrow((d[i] - x[i] * mean) * inverse, d_x[i]);
}

/// Turns each pair (x_i, x_{i + half}); a negative sign turns back.
CHRONOWARD_INLINE void turn_row(const float* cosine, const float* sine, float sign,
                                std::size_t half, float* x) {
  for (std::size_t i = 0; i < half; ++i) {
    const float first = x[i], second = x[half + i], s = sign * sine[i];
    x[i] = first * cosine[i] - second * s;
    x[half + i] = second * cosine[i] + first * s;
  }
}

template <typename T>
struct Norm {
  std::span<const float> x, weight;
  float eps;
  std::span<T> out;
  std::span<float> inverse;

  CHRONOWARD_INLINE void forward(std::size_t begin, std::size_t end) const {
    const auto n = weight.size();
    for (auto r = begin; r < end; ++r) {
      inverse[r] = norm_row(x.data() + r * n, weight.data(), n, eps, out.data() + r * n);
    }
  }
};

template <typename T>
struct NormGradient {
  std::span<const float> x, weight, inverse;
  std::span<const T> d_out;
  std::span<float> d_x;
  std::span<float> d_weight;  // of each block

  CHRONOWARD_INLINE void backward(std::size_t begin, std::size_t end) const {
    const auto n = weight.size();
    std::vector<float> d(n);
    for (auto r = begin; r < end; ++r) {
      widen_row(d_out.data() + r * n, n, d.data());
      norm_row_backward(x.data() + r * n, weight.data(), inverse[r], n, d.data(),
                        d_x.data() + r * n, d_weight.data() + r / kBlock * n);
    }
  }
};

template <typename T>
struct Heads {
  const HeadRows& h;
  std::span<const T> projected;
  std::span<float> q, k, v, inverse;

  CHRONOWARD_INLINE void forward(std::size_t begin, std::size_t end) const {
    const auto d = h.d_head, all = h.n_heads + 2 * h.n_kv_heads, normed = h.n_heads + h.n_kv_heads;
    for (auto t = begin; t < end; ++t) {
      for (std::size_t head = 0; head < all; ++head) {
        const T* row = projected.data() + (t * all + head) * d;
        if (head >= normed) {
          widen_row(row, d, v.data() + (t * h.n_kv_heads + head - normed) * d);
          continue;
        }
        const bool is_query = head < h.n_heads;
        float* out = is_query ? q.data() + (t * h.n_heads + head) * d
                              : k.data() + (t * h.n_kv_heads + head - h.n_heads) * d;
        const auto weight = is_query ? h.query_weight : h.key_weight;
        widen_row(row, d, out);
        if (!weight.empty()) {
          inverse[t * normed + head] = norm_row(out, weight.data(), d, h.eps, out);
        }
        if (!h.cosine.empty()) {
          const auto angle = t * (d / 2);
          turn_row(h.cosine.data() + angle, h.sine.data() + angle, 1.0F, d / 2, out);
        }
      }
    }
  }
};

template <typename T>
struct HeadsGradient {
  const HeadRows& h;
  std::span<const T> projected;
  std::span<const float> inverse, d_q, d_k, d_v;
  std::span<T> d_projected;
  std::span<float> d_query_weight, d_key_weight;  // of each block

  CHRONOWARD_INLINE void backward(std::size_t begin, std::size_t end) const {
    const auto d = h.d_head, all = h.n_heads + 2 * h.n_kv_heads, normed = h.n_heads + h.n_kv_heads;
    std::vector<float> x(d), gradient(d);
    for (auto t = begin; t < end; ++t) {
      for (std::size_t head = 0; head < all; ++head) {
        const auto at = (t * all + head) * d;
        T* out = d_projected.data() + at;
        if (head >= normed) {
          const float* from = d_v.data() + (t * h.n_kv_heads + head - normed) * d;
          for (std::size_t i = 0; i < d; ++i) narrow(from[i], out[i]);
          continue;
        }
        const bool is_query = head < h.n_heads;
        const float* from = is_query ? d_q.data() + (t * h.n_heads + head) * d
                                     : d_k.data() + (t * h.n_kv_heads + head - h.n_heads) * d;
        std::copy_n(from, d, gradient.data());
        if (!h.cosine.empty()) {
          const auto angle = t * (d / 2);
          turn_row(h.cosine.data() + angle, h.sine.data() + angle, -1.0F, d / 2, gradient.data());
        }
        const auto weight = is_query ? h.query_weight : h.key_weight;
        if (weight.empty()) {
          for (std::size_t i = 0; i < d; ++i) narrow(gradient[i], out[i]);
          continue;
        }
        widen_row(projected.data() + at, d, x.data());
        const auto sums = (is_query ? d_query_weight : d_key_weight).subspan(t / kBlock * d, d);
        norm_row_backward(x.data(), weight.data(), inverse[t * normed + head], d, gradient.data(),
                          out, sums.data());
      }
    }
  }
};

// One clone for each processor of every loop above, which is inlined here.
#define CHRONOWARD_PASS(Kind, method)                                                     \
  CHRONOWARD_WIDE_CLONES void run_##method(const Kind<float>& pass, std::size_t begin,    \
                                           std::size_t end) {                             \
    pass.method(begin, end);                                                              \
  }                                                                                       \
  CHRONOWARD_WIDE_CLONES void run_##method(const Kind<BFloat16>& pass, std::size_t begin, \
                                           std::size_t end) {                             \
    pass.method(begin, end);                                                              \
  }
CHRONOWARD_PASS(Norm, forward)
CHRONOWARD_PASS(NormGradient, backward)
CHRONOWARD_PASS(Heads, forward)
CHRONOWARD_PASS(HeadsGradient, backward)
#undef CHRONOWARD_PASS

void require(bool fits, const char* what) {
  if (!fits) throw std::invalid_argument(std::string(what) + ": arrays do not fit each other");
}

/// Calls fn(begin, end) for blocks of rows, several to a thread.
template <typename Fn>
void for_blocks(std::size_t n_rows, int n_threads, const Fn& fn) {
  const auto n_blocks = (n_rows + kBlock - 1) / kBlock;
  parallel_for(n_blocks, n_threads, [&](std::size_t begin, std::size_t end, std::size_t) {
    const WithoutDenormals guard;
    fn(begin * kBlock, std::min(end * kBlock, n_rows));
  });
}

/// Adds the sums of all blocks, in order.
void add_blocks(const std::vector<float>& sums, std::span<float> total) {
  for (std::size_t i = 0; i < sums.size(); ++i) total[i % total.size()] += sums[i];
}

void require_heads(const HeadRows& h, std::size_t n_projected, std::size_t n_q, std::size_t n_k,
                   std::size_t n_v, std::size_t n_inverse) {
  const auto d = h.d_head;
  require(d > 0 && d % 2 == 0 && h.n_kv_heads > 0, "head_rows");
  const auto n = n_q / std::max<std::size_t>(h.n_heads * d, 1);
  const bool has_norm = !h.query_weight.empty();
  require(n_q == n * h.n_heads * d && n_k == n * h.n_kv_heads * d && n_v == n_k &&
              n_projected == n_q + n_k + n_v && h.query_weight.size() == h.key_weight.size() &&
              (!has_norm || h.query_weight.size() == d) && h.cosine.size() == h.sine.size() &&
              (h.cosine.empty() || h.cosine.size() == n * (d / 2)) &&
              (!has_norm || n_inverse == n * (h.n_heads + h.n_kv_heads)),
          "head_rows");
}

}  // namespace

template <typename T>
void norm_rows(std::span<const float> x, std::span<const float> weight, float eps, std::span<T> out,
               std::span<float> inverse, int n_threads) {
  require(!weight.empty() && x.size() == inverse.size() * weight.size() && out.size() == x.size(),
          "norm_rows");
  const Norm<T> pass{x, weight, eps, out, inverse};
  for_blocks(inverse.size(), n_threads,
             [&](std::size_t begin, std::size_t end) { run_forward(pass, begin, end); });
}

template <typename T>
void norm_rows_backward(std::span<const float> x, std::span<const float> weight,
                        std::span<const float> inverse, std::span<const T> d_out,
                        std::span<float> d_x, std::span<float> d_weight, int n_threads) {
  const auto n = weight.size();
  require(n > 0 && x.size() == inverse.size() * n && d_out.size() == x.size() &&
              d_x.size() == x.size() && d_weight.size() == n,
          "norm_rows");
  std::vector<float> sums((inverse.size() + kBlock - 1) / kBlock * n);
  const NormGradient<T> pass{x, weight, inverse, d_out, d_x, sums};
  for_blocks(inverse.size(), n_threads,
             [&](std::size_t begin, std::size_t end) { run_backward(pass, begin, end); });
  add_blocks(sums, d_weight);
}

template <typename T>
void head_rows(const HeadRows& heads, std::span<const T> projected, std::span<float> q,
               std::span<float> k, std::span<float> v, std::span<float> inverse, int n_threads) {
  require_heads(heads, projected.size(), q.size(), k.size(), v.size(), inverse.size());
  const Heads<T> pass{heads, projected, q, k, v, inverse};
  for_blocks(q.size() / (heads.n_heads * heads.d_head), n_threads,
             [&](std::size_t begin, std::size_t end) { run_forward(pass, begin, end); });
}

template <typename T>
void head_rows_backward(const HeadRows& heads, std::span<const T> projected,
                        std::span<const float> inverse, std::span<const float> d_q,
                        std::span<const float> d_k, std::span<const float> d_v,
                        std::span<T> d_projected, std::span<float> d_query_weight,
                        std::span<float> d_key_weight, int n_threads) {
  require_heads(heads, projected.size(), d_q.size(), d_k.size(), d_v.size(), inverse.size());
  require(d_projected.size() == projected.size() &&
              d_query_weight.size() == heads.query_weight.size() &&
              d_key_weight.size() == heads.key_weight.size(),
          "head_rows");
  const auto n = d_q.size() / (heads.n_heads * heads.d_head);
  const auto size = (n + kBlock - 1) / kBlock * heads.query_weight.size();
  std::vector<float> query_sums(size), key_sums(size);
  const HeadsGradient<T> pass{heads, projected,   inverse,    d_q,     d_k,
                              d_v,   d_projected, query_sums, key_sums};
  for_blocks(n, n_threads,
             [&](std::size_t begin, std::size_t end) { run_backward(pass, begin, end); });
  add_blocks(query_sums, d_query_weight);
  add_blocks(key_sums, d_key_weight);
}

#define CHRONOWARD_INSTANTIATE(T)                                                                  \
  template void norm_rows<T>(std::span<const float>, std::span<const float>, float, std::span<T>,  \
                             std::span<float>, int);                                               \
  template void norm_rows_backward<T>(std::span<const float>, std::span<const float>,              \
                                      std::span<const float>, std::span<const T>,                  \
                                      std::span<float>, std::span<float>, int);                    \
  template void head_rows<T>(const HeadRows&, std::span<const T>, std::span<float>,                \
                             std::span<float>, std::span<float>, std::span<float>, int);           \
  template void head_rows_backward<T>(const HeadRows&, std::span<const T>, std::span<const float>, \
                                      std::span<const float>, std::span<const float>,              \
                                      std::span<const float>, std::span<T>, std::span<float>,      \
                                      std::span<float>, int);
CHRONOWARD_INSTANTIATE(float)
CHRONOWARD_INSTANTIATE(BFloat16)
#undef CHRONOWARD_INSTANTIATE

}  // namespace chronoward
