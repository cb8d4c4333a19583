#include "core/bf16_dot.hpp"

#include <cstring>
#include <stdexcept>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CHRONOWARD_CAN_DOT 1
#include <immintrin.h>
#else
#define CHRONOWARD_CAN_DOT 0
#endif

namespace chronoward {

#if CHRONOWARD_CAN_DOT

namespace {

#define CHRONOWARD_DOT __attribute__((target("avx512f,avx512bw,avx512bf16")))
constexpr std::size_t kPanel = 16, kRows = 8, kPanels = 3;

CHRONOWARD_DOT inline __m512bh pairs(const Bf16* from) {
  __m512bh x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

/// One pair in every lane.
CHRONOWARD_DOT inline __m512bh pair(const Bf16* from) {
  std::int32_t both = 0;
  std::memcpy(&both, from, sizeof both);
  const __m512i all = _mm512_set1_epi32(both);
  return reinterpret_cast<const __m512bh&>(all);
}

/// R rows by P panels, all sums in registers.
template <std::size_t R, std::size_t P>
CHRONOWARD_DOT inline void tile(const AmxProduct<Bf16, float>& p, std::size_t row,
                                std::size_t panel) {
  __m512 sums[R][P];
  float* out = p.out + row * p.out_stride + panel * kPanel;
  for (std::size_t r = 0; r < R; ++r) {
    for (std::size_t c = 0; c < P; ++c) {
      sums[r][c] =
          p.adds ? _mm512_loadu_ps(out + r * p.out_stride + c * kPanel) : _mm512_setzero_ps();
    }
  }
  const Bf16* a = p.a + row * p.depth;
  const Bf16* b = p.b + panel * p.depth * kPanel;
  for (std::size_t k = 0; k < p.depth; k += 2) {
    __m512bh columns[P];
#pragma GCC unroll 4
    for (std::size_t c = 0; c < P; ++c) columns[c] = pairs(b + (c * p.depth + k) * kPanel);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) {
      const __m512bh each = pair(a + r * p.depth + k);
#pragma GCC unroll 4
      for (std::size_t c = 0; c < P; ++c) {
        sums[r][c] = _mm512_dpbf16_ps(sums[r][c], each, columns[c]);
      }
    }
  }
  for (std::size_t r = 0; r < R; ++r) {
    for (std::size_t c = 0; c < P; ++c) {
      _mm512_storeu_ps(out + r * p.out_stride + c * kPanel, sums[r][c]);
    }
  }
}

template <std::size_t P>
CHRONOWARD_DOT inline void all_rows(const AmxProduct<Bf16, float>& p, std::size_t n_rows,
                                    std::size_t panel) {
  std::size_t row = 0;
  for (; row + kRows <= n_rows; row += kRows) tile<kRows, P>(p, row, panel);
  if (row + 4 <= n_rows) tile<4, P>(p, row, panel), row += 4;
  for (; row < n_rows; ++row) tile<1, P>(p, row, panel);
}

CHRONOWARD_DOT void run(const AmxProduct<Bf16, float>& p, std::size_t n_rows) {
  std::size_t panel = 0;
  for (; panel + kPanels <= p.n_panels; panel += kPanels) all_rows<kPanels>(p, n_rows, panel);
  if (panel + 2 <= p.n_panels) all_rows<2>(p, n_rows, panel), panel += 2;
  if (panel < p.n_panels) all_rows<1>(p, n_rows, panel);
}

}  // namespace

bool has_bf16_dot() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512bf16");
}

void bf16_dot_product(const AmxProduct<Bf16, float>& product, std::size_t n_rows) {
  run(product, n_rows);
}

#else

bool has_bf16_dot() { return false; }

void bf16_dot_product(const AmxProduct<Bf16, float>&, std::size_t) {
  throw std::logic_error("no products of bf16 here");
}

#endif

}  // namespace chronoward
