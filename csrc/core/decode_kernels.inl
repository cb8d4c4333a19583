// Compiled once for each level by decode_kernels_v1.cpp, _v3.cpp and _v4.cpp, which say
// CHRONOWARD_LEVEL (a namespace), CHRONOWARD_ROWS and CHRONOWARD_PANELS (sums held in registers).

#include <cmath>

#include "core/decode_kernels.hpp"
#include "core/wide.hpp"

namespace chronoward::CHRONOWARD_LEVEL {

constexpr float kNothing = -__builtin_inff();

/// R rows by P panels, held in registers over the whole depth.
template <std::size_t R, std::size_t P, typename T>
inline void tile(const TileProduct<T>& a, std::size_t row, std::size_t panel) {
  Wide sums[R][P];
  float* out = a.out + row * a.out_stride + panel * kWide;
  for (std::size_t r = 0; r < R; ++r) {
    for (std::size_t p = 0; p < P; ++p) {
      sums[r][p] = a.adds ? load_wide(out + r * a.out_stride + p * kWide) : Wide{};
    }
  }
  const float* x = a.x + row * a.x_stride;
  for (std::size_t b = 0; b < a.n_blocks; ++b, x += a.depth) {
    const T* from[P];
    for (std::size_t p = 0; p < P; ++p) {
      from[p] =
          a.blocks[b * a.block_step + (panel + p) * a.panel_step] + (panel + p) * a.panel_offset;
    }
    for (std::size_t k = 0; k < a.depth; ++k) {
      Wide columns[P];
#pragma GCC unroll 4
      for (std::size_t p = 0; p < P; ++p) columns[p] = load_wide(from[p] + k * a.row_stride);
#pragma GCC unroll 8
      for (std::size_t r = 0; r < R; ++r) {
        const Wide each = splat(x[r * a.x_stride + k]);
#pragma GCC unroll 4
        for (std::size_t p = 0; p < P; ++p) sums[r][p] += each * columns[p];
      }
    }
  }
  for (std::size_t r = 0; r < R; ++r) {
    for (std::size_t p = 0; p < P; ++p) {
      store_wide(out + r * a.out_stride + p * kWide, sums[r][p]);
    }
  }
}

template <std::size_t R, std::size_t P, typename T>
inline void all_rows(const TileProduct<T>& a, std::size_t panel) {
  std::size_t row = 0;
  for (; row + R <= a.n_rows; row += R) tile<R, P>(a, row, panel);
  if constexpr (R > 4) {
    if (row + 4 <= a.n_rows) tile<4, P>(a, row, panel), row += 4;
  }
  if constexpr (R > 2) {
    if (row + 2 <= a.n_rows) tile<2, P>(a, row, panel), row += 2;
  }
  if (row < a.n_rows) tile<1, P>(a, row, panel);
}

/// Rows lie inside panels: P panels stay in the first-level cache while all rows pass over them.
template <typename T>
void product(const TileProduct<T>& a) {
  constexpr std::size_t R = CHRONOWARD_ROWS, P = CHRONOWARD_PANELS;
  std::size_t panel = 0;
  for (; panel + P <= a.n_panels; panel += P) all_rows<R, P>(a, panel);
  if constexpr (P > 2) {
    if (panel + 2 <= a.n_panels) all_rows<R, 2>(a, panel), panel += 2;
  }
  if (panel < a.n_panels) all_rows<R, 1>(a, panel);
}

/// R rows of each head by P panels, which may belong to several heads.
template <std::size_t R, std::size_t P, typename T>
inline void heads_tile(const HeadsProduct<T>& a, std::size_t row, std::size_t first) {
  Wide sums[R][P];
  const T* from[P];
  const float* x[P];
  float* out[P];
  for (std::size_t p = 0; p < P; ++p) {
    const auto head = (first + p) / a.n_panels, panel = (first + p) % a.n_panels;
    from[p] = a.block + head * a.head_step + panel * kWide;
    x[p] = a.x + head * a.x_head_step + row * a.x_stride;
    out[p] = a.out + head * a.out_head_step + row * a.out_stride + panel * kWide;
    for (std::size_t r = 0; r < R; ++r) {
      sums[r][p] = a.adds ? load_wide(out[p] + r * a.out_stride) : Wide{};
    }
  }
  const std::ptrdiff_t ahead = a.next - a.block;
  for (std::size_t k = 0; k < a.depth; ++k) {
#pragma GCC unroll 8
    for (std::size_t p = 0; p < P; ++p) {
      const Wide column = load_wide(from[p] + k * a.row_stride);
      __builtin_prefetch(from[p] + k * a.row_stride + ahead);
#pragma GCC unroll 4
      for (std::size_t r = 0; r < R; ++r) sums[r][p] += splat(x[p][r * a.x_stride + k]) * column;
    }
  }
  for (std::size_t r = 0; r < R; ++r) {
    for (std::size_t p = 0; p < P; ++p) store_wide(out[p] + r * a.out_stride, sums[r][p]);
  }
}

template <std::size_t R, typename T>
inline void heads_rows(const HeadsProduct<T>& a, std::size_t row) {
  const auto n = a.n_heads * a.n_panels;
  constexpr std::size_t P = R == 1 ? 6 : 4;
  std::size_t first = 0;
  for (; first + P <= n; first += P) heads_tile<R, P>(a, row, first);
  for (; first + 2 <= n; first += 2) heads_tile<R, 2>(a, row, first);
  if (first < n) heads_tile<R, 1>(a, row, first);
}

template <typename T>
void heads_product(const HeadsProduct<T>& a) {
  std::size_t row = 0;
  for (; row + 2 <= a.n_rows; row += 2) heads_rows<2>(a, row);
  if (row < a.n_rows) heads_rows<1>(a, row);
}

inline Wide biased(const ScoreRow& row, std::size_t at) {
  const Wide scores = load_wide(row.scores + at) * row.scale;
  if (row.bias == TimeBias::none) return scores;
  const Wide x = load_wide(row.elapsed_min + at) * row.inverse_tau;
  return scores - row.slope * (row.bias == TimeBias::log ? wide_log(1.0F + x) : x);
}

void weigh(const ScoreRow& row, float* top, float* sum) {
  const std::size_t n_used = (row.n + kWide - 1) / kWide;
  Wide tops = splat(kNothing);
  for (std::size_t b = 0; b < n_used; ++b) {
    store_wide(row.scores + b * kWide, biased(row, b * kWide));
    if (b + 1 == n_used) {  // lanes behind the end hold what an earlier row left there
      for (std::size_t t = row.n; t < n_used * kWide; ++t) row.scores[t] = kNothing;
    }
    const Wide x = load_wide(row.scores + b * kWide);
    tops = x > tops ? x : tops;
  }
  float most = tops[0];
  for (std::size_t i = 1; i < kWide; ++i) most = tops[i] > most ? tops[i] : most;
  Wide sums{};
  for (std::size_t b = 0; b < n_used; ++b) {
    const Wide weight = wide_exp(load_wide(row.scores + b * kWide) - most);
    store_wide(row.scores + b * kWide, weight);
    sums += weight;
  }
  for (std::size_t b = n_used; b < row.n_blocks; ++b) store_wide(row.scores + b * kWide, Wide{});
  *top = most;
  *sum = sum_of(sums);
}

void elapsed(const std::int32_t* times, std::size_t n, std::int32_t now, float* out) {
  for (std::size_t t = 0; t < n; t += kWide) {
    WideBits gap;
    std::memcpy(&gap, times + t, sizeof gap);
    gap = now - gap;  // as integers: floats would lose minutes
    gap = gap < 0 ? -gap : gap;
    store_wide(out + t, __builtin_convertvector(gap, Wide));
  }
}

void norm(const float* x, const float* weight, std::size_t n, float eps, float* out) {
  Wide sums{};
  std::size_t i = 0;
  for (; i + kWide <= n; i += kWide) {
    const Wide a = load_wide(x + i);
    sums += a * a;
  }
  float sum = sum_of(sums);
  for (; i < n; ++i) sum += x[i] * x[i];
  const float inverse = 1.0F / std::sqrt(sum / static_cast<float>(n) + eps);
  i = 0;
  for (; i + kWide <= n; i += kWide) {
    store_wide(out + i, load_wide(x + i) * inverse * load_wide(weight + i));
  }
  for (; i < n; ++i) out[i] = x[i] * inverse * weight[i];
}

inline Wide gated(Wide g, Wide up) {
  const WideBits below = g < Wide{};
  const Wide e = wide_exp(below != 0 ? g : -g);
  const Wide numerator = below != 0 ? e : splat(1.0F);
  return g * (numerator / (1.0F + e)) * up;
}

void gate(const float* gates, const float* up, std::size_t n, float* out) {
  std::size_t i = 0;
  for (; i + kWide <= n; i += kWide) {
    store_wide(out + i, gated(load_wide(gates + i), load_wide(up + i)));
  }
  if (i == n) return;
  float last[3][kWide] = {};
  std::memcpy(last[0], gates + i, (n - i) * sizeof(float));
  std::memcpy(last[1], up + i, (n - i) * sizeof(float));
  store_wide(last[2], gated(load_wide(last[0]), load_wide(last[1])));
  std::memcpy(out + i, last[2], (n - i) * sizeof(float));
}

void quantize(const float* x, std::size_t n, float* integers, std::int8_t* bytes, float* scale) {
  Wide tops{}, faults{};
  std::size_t i = 0;
  for (; i + kWide <= n; i += kWide) {
    const Wide a = load_wide(x + i), size = a < Wide{} ? -a : a;
    tops = size > tops ? size : tops;
    faults += a * 0.0F;  // NaN of NaN and of infinity
  }
  float top = 0.0F, fault = sum_of(faults);
  for (std::size_t lane = 0; lane < kWide; ++lane) top = tops[lane] > top ? tops[lane] : top;
  for (; i < n; ++i) {
    top = std::fabs(x[i]) > top ? std::fabs(x[i]) : top;
    fault += x[i] * 0.0F;
  }
  *scale = top * (1.0F / 127.0F) + fault;
  const float inverse = top > 1e-30F && fault == 0.0F ? 127.0F / top : 0.0F;
  constexpr float kMagic = 12582912.0F;  // what is added to it is rounded to an integer, ties even
  for (i = 0; i < n; i += kWide) {
    float last[kWide] = {};
    if (i + kWide > n) std::memcpy(last, x + i, (n - i) * sizeof(float));
    const Wide shifted = load_wide(i + kWide > n ? last : x + i) * inverse + kMagic;
    const Wide rounded = shifted - kMagic;
    if (bytes == nullptr) {
      store_wide(integers + i, fault == 0.0F ? rounded : Wide{});
      continue;
    }
    using Bytes = std::int8_t __attribute__((vector_size(kWide)));
    const WideBits whole = fault == 0.0F ? as_bits(shifted) - 0x4B400000 : WideBits{};
    const Bytes narrow = __builtin_convertvector(whole, Bytes);
    std::memcpy(bytes + i, &narrow, sizeof narrow);
  }
}

template <typename S>
void rescale(const S* sums, const float* scales, std::size_t n, float scale, bool adds,
             float* out) {
  for (std::size_t i = 0; i < n; i += kWide) {
    const Wide x = load_wide(sums + i) * (scale * load_wide(scales + i));
    store_wide(out + i, adds ? load_wide(out + i) + x : x);
  }
}

extern const DecodeKernels kKernels;
const DecodeKernels kKernels{
    &product<float>,
    &product<Bf16>,
    &product<std::int8_t>,
    &heads_product<float>,
    &heads_product<Bf16>,
    &weigh,
    &elapsed,
    &norm,
    &gate,
    &quantize,
    &rescale<float>,
    &rescale<std::int32_t>,
};

}  // namespace chronoward::CHRONOWARD_LEVEL
