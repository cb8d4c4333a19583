#include "core/dot_product.hpp"

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

#define CHRONOWARD_DOT \
  __attribute__((target("avx512f,avx512bw,avx512bf16,avx512vnni"), always_inline)) inline
constexpr std::size_t kPanel = 16;

/// Sixteen sums, to which products of neighbours are added.
struct Pairs {
  __m512 sums;
  CHRONOWARD_DOT static Pairs load(const float* from) { return {_mm512_loadu_ps(from)}; }
  CHRONOWARD_DOT static Pairs zero() { return {_mm512_setzero_ps()}; }
  CHRONOWARD_DOT void add(__m512i a, __m512i b) {
    sums = _mm512_dpbf16_ps(sums, reinterpret_cast<const __m512bh&>(a),
                            reinterpret_cast<const __m512bh&>(b));
  }
  CHRONOWARD_DOT void store(float* to) const { _mm512_storeu_ps(to, sums); }
};

struct Fours {
  __m512i sums;
  CHRONOWARD_DOT static Fours load(const std::int32_t* from) { return {_mm512_loadu_si512(from)}; }
  CHRONOWARD_DOT static Fours zero() { return {_mm512_setzero_si512()}; }
  CHRONOWARD_DOT void add(__m512i a, __m512i b) { sums = _mm512_dpbusd_epi32(sums, a, b); }
  CHRONOWARD_DOT void store(std::int32_t* to) const { _mm512_storeu_si512(to, sums); }
};

CHRONOWARD_DOT __m512i neighbours(const void* from) {
  std::int32_t all = 0;
  std::memcpy(&all, from, sizeof all);
  return _mm512_set1_epi32(all);
}

/// R rows by P panels, all sums in registers. The instruction for int8 takes its left side to be
/// unsigned: 128 is added to it, and 128 times the column's sum taken off.
template <std::size_t R, std::size_t P, typename Sums, typename T, typename Sum>
CHRONOWARD_DOT void tile(const TiledProduct<T, Sum>& p, std::size_t row, std::size_t panel) {
  constexpr bool is_int8 = sizeof(T) == 1;
  constexpr auto together = TiledProduct<T, Sum>::kTogether;
  const __m512i shift = _mm512_set1_epi8(-128);
  Sums sums[R][P], shifts[P];
  Sum* out = p.out + row * p.out_stride + panel * kPanel;
  for (std::size_t c = 0; c < P; ++c) {
    shifts[c] = Sums::zero();
    for (std::size_t r = 0; r < R; ++r) {
      sums[r][c] = p.adds ? Sums::load(out + r * p.out_stride + c * kPanel) : Sums::zero();
    }
  }
  const T* a = p.a + row * p.depth;
  const T* b = p.b + panel * p.depth * kPanel;
  for (std::size_t k = 0; k < p.depth; k += together) {
    __m512i columns[P];
#pragma GCC unroll 4
    for (std::size_t c = 0; c < P; ++c) {
      columns[c] = _mm512_loadu_si512(b + (c * p.depth + k) * kPanel);
      if constexpr (is_int8) shifts[c].add(shift, columns[c]);
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) {
      __m512i each = neighbours(a + r * p.depth + k);
      if constexpr (is_int8) each = _mm512_xor_si512(each, shift);
#pragma GCC unroll 4
      for (std::size_t c = 0; c < P; ++c) sums[r][c].add(each, columns[c]);
    }
  }
  for (std::size_t r = 0; r < R; ++r) {
    for (std::size_t c = 0; c < P; ++c) {
      if constexpr (is_int8) {
        sums[r][c].sums = _mm512_sub_epi32(sums[r][c].sums, shifts[c].sums);
      }
      sums[r][c].store(out + r * p.out_stride + c * kPanel);
    }
  }
}

template <std::size_t P, typename Sums, typename T, typename Sum>
CHRONOWARD_DOT void all_rows(const TiledProduct<T, Sum>& p, std::size_t panel) {
  std::size_t row = 0;
  for (; row + 8 <= p.n_rows; row += 8) tile<8, P, Sums>(p, row, panel);
  if (row + 4 <= p.n_rows) tile<4, P, Sums>(p, row, panel), row += 4;
  for (; row < p.n_rows; ++row) tile<1, P, Sums>(p, row, panel);
}

/// Three panels at a time stay in the nearest cache while all rows pass over them.
template <typename Sums, typename T, typename Sum>
CHRONOWARD_DOT void all_panels(const TiledProduct<T, Sum>& p) {
  std::size_t panel = 0;
  for (; panel + 3 <= p.n_panels; panel += 3) all_rows<3, Sums>(p, panel);
  if (panel + 2 <= p.n_panels) all_rows<2, Sums>(p, panel), panel += 2;
  if (panel < p.n_panels) all_rows<1, Sums>(p, panel);
}

#define CHRONOWARD_DOTS __attribute__((target("avx512f,avx512bw,avx512bf16,avx512vnni")))
CHRONOWARD_DOTS void run(const TiledProduct<Bf16, float>& p) { all_panels<Pairs>(p); }
CHRONOWARD_DOTS void run(const TiledProduct<std::int8_t, std::int32_t>& p) { all_panels<Fours>(p); }

}  // namespace

bool has_dot_products() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}

#else

namespace {

template <typename Product>
void run(const Product&) {
  throw std::logic_error("no dot products here");
}

}  // namespace

bool has_dot_products() { return false; }

#endif

void dot_product(const TiledProduct<Bf16, float>& product) { run(product); }
void dot_product(const TiledProduct<std::int8_t, std::int32_t>& product) { run(product); }

}  // namespace chronoward
