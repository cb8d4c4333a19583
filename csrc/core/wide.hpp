#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/bf16.hpp"
#include "core/lane_math.hpp"

// Sixteen floats at once: one register with AVX-512, two with AVX2, four without either. Included
// by decode_kernels.inl only, once for each level, whose namespace keeps the three apart.
namespace chronoward::CHRONOWARD_LEVEL {

using Wide = float __attribute__((vector_size(64)));
using WideBits = std::int32_t __attribute__((vector_size(64)));

inline Wide load_wide(const float* from) {
  Wide x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

inline Wide load_wide(const Bf16* from) {
  std::uint16_t __attribute__((vector_size(32))) halves;
  std::memcpy(&halves, from, sizeof halves);
  using Words = std::uint32_t __attribute__((vector_size(64)));
  const Words words = __builtin_convertvector(halves, Words) << 16;
  Wide x;
  std::memcpy(&x, &words, sizeof x);
  return x;
}

inline Wide load_wide(const std::int8_t* from) {
  std::int8_t __attribute__((vector_size(16))) bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(__builtin_convertvector(bytes, WideBits), Wide);
}

inline Wide load_wide(const std::int32_t* from) {
  WideBits integers;
  std::memcpy(&integers, from, sizeof integers);
  return __builtin_convertvector(integers, Wide);
}

inline void store_wide(float* to, const Wide& x) { std::memcpy(to, &x, sizeof x); }

/// x in every lane (x - 0 is x, also where x is -0, so no subtraction is left).
inline Wide splat(float x) { return x - Wide{}; }

inline Wide as_floats(WideBits bits) {
  Wide x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline WideBits as_bits(Wide x) {
  WideBits bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline Wide wide_exp(Wide x) { return lane_exp<Wide>(x); }

inline Wide wide_log(Wide x) { return lane_log<Wide>(x); }

/// Lanes one after the other: the same order whatever the registers.
inline float sum_of(const Wide& x) {
  float sum = 0.0F;
  for (std::size_t i = 0; i < 16; ++i) sum += x[i];
  return sum;
}

}  // namespace chronoward::CHRONOWARD_LEVEL
