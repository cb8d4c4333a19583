#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "core/bf16.hpp"
#include "core/lane_math.hpp"

// Sixteen floats at once: one register with AVX-512, two with AVX2, four without either. Included
// by decode_kernels.inl only, once for each level, whose namespace keeps the three apart.
namespace chronoward::CHRONOWARD_LEVEL {

using Wide = float __attribute__((vector_size(64)));
using WideBits = std::int32_t __attribute__((vector_size(64)));

inline Wide load_wide(const float* from) { return load_lanes<Wide>(from); }

#ifdef __AVX512F__

inline Wide load_wide(const Bf16* from) {
  return lanes_of_halves<Wide>(load_lanes<Halves<Wide>>(from));
}

/// By hand, because gcc 12 widens in halves. Masked by "all lanes", which costs nothing: the forms
/// without a mask warn of what they leave uninitialized on purpose.
inline Wide load_wide(const std::int8_t* from) {
  constexpr __mmask16 all = 0xFFFF;
  return _mm512_maskz_cvtepi32_ps(all, _mm512_maskz_cvtepi8_epi32(all, load_lanes<__m128i>(from)));
}

#else

inline Wide load_wide(const Bf16* from) {
  const auto halves = load_lanes<Halves<Wide>>(from);
  return bits_as_lanes<Wide>(__builtin_convertvector(halves, WideBits) << 16);
}

inline Wide load_wide(const std::int8_t* from) {
  const auto bytes = load_lanes<std::int8_t __attribute__((vector_size(16)))>(from);
  return __builtin_convertvector(__builtin_convertvector(bytes, WideBits), Wide);
}

#endif

inline Wide load_wide(const std::int32_t* from) {
  return __builtin_convertvector(load_lanes<WideBits>(from), Wide);
}

inline void store_wide(float* to, const Wide& x) { store_lanes(to, x); }

inline Wide splat(float x) { return lanes_of<Wide>(x); }

inline WideBits as_bits(const Wide& x) { return lanes_as_bits(x); }

inline Wide wide_exp(Wide x) { return lane_exp<Wide>(x); }

inline Wide wide_log(Wide x) { return lane_log<Wide>(x); }

/// Lanes one after the other: the same order whatever the registers.
inline float sum_of(const Wide& x) {
  float sum = 0.0F;
  for (std::size_t i = 0; i < 16; ++i) sum += x[i];
  return sum;
}

}  // namespace chronoward::CHRONOWARD_LEVEL
