#include <algorithm>
#include <stdexcept>
#include <vector>

#include "core/amx.hpp"
#include "core/dot_product.hpp"
#include "core/packed_kernels.hpp"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define CHRONOWARD_HAS_HALVES 1
#include <immintrin.h>
#else
#define CHRONOWARD_HAS_HALVES 0
#endif

// Products of packed_attention by the processor's units for bf16: both sides are rounded on their
// way into those units' layout, which costs a tenth of what the product would in floats.
namespace chronoward::packed {

#if CHRONOWARD_HAS_HALVES

namespace {

#define CHRONOWARD_HALVES __attribute__((target("avx512f,avx512bw,avx512bf16")))
constexpr std::size_t kPanel = 16, kDepth = 32;

constexpr std::size_t whole(std::size_t n, std::size_t step) {
  return (n + step - 1) / step * step;
}

/// Sixteen floats, of which those from n on are zero.
CHRONOWARD_HALVES inline __m512 sixteen(const float* from, std::size_t n) {
  if (n >= kPanel) return _mm512_loadu_ps(from);
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << n) - 1U), from);
}

CHRONOWARD_HALVES inline void store_halves(const __m512bh& x, Bf16* to) {
  _mm512_storeu_si512(to, reinterpret_cast<const __m512i&>(x));
}

/// Rows of `n` floats as rows of `depth` halves.
CHRONOWARD_HALVES void pack_rows(const float* from, std::size_t stride, std::size_t n_rows,
                                 std::size_t n, std::size_t depth, Bf16* to) {
  for (std::size_t r = 0; r < n_rows; ++r) {
    for (std::size_t k = 0; k < depth; k += kDepth) {
      const float* place = from + r * stride + k;
      const auto left = n - k, right = left > kPanel ? left - kPanel : 0;
      const __m512 high = right == 0 ? _mm512_setzero_ps() : sixteen(place + kPanel, right);
      store_halves(_mm512_cvtne2ps_pbh(high, sixteen(place, left)), to + r * depth + k);
    }
  }
}

/// Sixteen columns of `n` rows as pairs of rows, column by column: (depth / 2, 16, 2).
CHRONOWARD_HALVES void pack_pairs(const float* from, std::size_t stride, std::size_t n,
                                  std::size_t depth, Bf16* to) {
  alignas(64) static constexpr std::uint16_t kInterleaved[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i places = _mm512_load_si512(kInterleaved);
  for (std::size_t k = 0; k < depth; k += 2) {
    const __m512 first = k < n ? _mm512_loadu_ps(from + k * stride) : _mm512_setzero_ps();
    const __m512 next = k + 1 < n ? _mm512_loadu_ps(from + (k + 1) * stride) : _mm512_setzero_ps();
    const __m512bh halves = _mm512_cvtne2ps_pbh(next, first);
    const __m512i pairs =
        _mm512_permutexvar_epi16(places, reinterpret_cast<const __m512i&>(halves));
    _mm512_storeu_si512(to + k * kPanel, pairs);
  }
}

/// What one thread packs into, kept from product to product.
struct Packed {
  std::vector<Bf16> a, b;
  std::vector<float> pairs, turned;
};

/// Sixteen columns of the left side at a time, as pairs of rows turned over: pairs are 32 bits.
void pack_transposed(const Product& p, std::size_t depth, Packed& packed) {
  const auto n_pairs = depth / 2;
  packed.pairs.resize(n_pairs * kPanel);
  for (std::size_t i = 0; i < p.rows; i += kPanel) {
    auto* pairs = reinterpret_cast<Bf16*>(packed.pairs.data());
    pack_pairs(p.a + i, p.a_stride, p.depth, depth, pairs);
    transpose(packed.pairs.data(), n_pairs, kPanel,
              reinterpret_cast<float*>(packed.a.data() + i * depth));
  }
}

}  // namespace

bool can_multiply_bf16() { return has_dot_products(); }

void pack_a(const float* a, std::size_t a_stride, std::size_t n_rows, std::size_t depth,
            std::vector<Bf16>& packed) {
  const auto whole_depth = packed_depth(depth);
  // a product reads whole sixteens of rows, from any row on
  packed.resize(std::max(packed.size(), (n_rows + kPanel) * whole_depth));
  pack_rows(a, a_stride, n_rows, depth, whole_depth, packed.data());
  std::fill_n(packed.data() + n_rows * whole_depth, kPanel * whole_depth, Bf16{});
}

void pack_b(const float* b, std::size_t b_stride, std::size_t depth, std::size_t columns,
            std::vector<Bf16>& packed) {
  const auto whole_depth = packed_depth(depth);
  packed.resize(std::max(packed.size(), columns * whole_depth));
  for (std::size_t j = 0; j < columns; j += kPanel) {
    pack_pairs(b + j, b_stride, depth, whole_depth, packed.data() + j * whole_depth);
  }
}

void multiply_bf16(const Product& p) {
  static thread_local Packed packed;
  const auto depth = packed_depth(p.depth), rows = whole(p.rows, kPanel);
  if (p.is_transposed) {
    packed.a.resize(std::max(packed.a.size(), rows * depth));
    pack_transposed(p, depth, packed);
  } else if (p.packed_a == nullptr) {
    pack_a(p.a, p.a_stride, p.rows, p.depth, packed.a);
  }
  if (p.packed_b == nullptr) pack_b(p.b, p.b_stride, p.depth, p.columns, packed.b);
  TiledProduct<Bf16, float> product;
  product.a = p.packed_a == nullptr ? packed.a.data() : p.packed_a;
  product.n_rows = p.rows;
  product.b = p.packed_b == nullptr ? packed.b.data() : p.packed_b;
  product.n_panels = p.columns / kPanel;
  product.depth = depth;
  product.adds = p.adds;
  product.out = p.out;
  product.out_stride = p.out_stride;
  has_amx() ? amx_product(product) : dot_product(product);
}

#else

bool can_multiply_bf16() { return false; }

void multiply_bf16(const Product&) { throw std::logic_error("no units for bf16 here"); }

void pack_a(const float*, std::size_t, std::size_t, std::size_t, std::vector<Bf16>&) {
  throw std::logic_error("no units for bf16 here");
}

void pack_b(const float*, std::size_t, std::size_t, std::size_t, std::vector<Bf16>&) {
  throw std::logic_error("no units for bf16 here");
}

#endif

}  // namespace chronoward::packed
