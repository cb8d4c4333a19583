#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/bf16.hpp"

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

/// exp(x) for x <= 0, exactly 0 below -87; NaN stays NaN. Cephes' polynomial, see fastmath.hpp.
inline Wide wide_exp(Wide x) {
  const Wide low = splat(-87.0F);
  const Wide bounded = x < low ? low : x;
  const Wide shifted = bounded * 1.44269504088896341F + 12582912.0F;  // rounds to an integer
  const Wide n = shifted - 12582912.0F;
  const Wide r = (bounded - n * 0.693359375F) - n * -2.12194440e-4F;
  Wide p = splat(1.9875691500E-4F);
  p = p * r + 1.3981999507E-3F;
  p = p * r + 8.3334519073E-3F;
  p = p * r + 4.1665795894E-2F;
  p = p * r + 1.6666665459E-1F;
  p = p * r + 5.0000001201E-1F;
  const Wide value = (p * r * r + r) + 1.0F;
  const WideBits power = (as_bits(shifted) - 0x4B400000 + 127) << 23;
  const Wide scaled = value * as_floats(power);
  const Wide kept = x != x ? x : scaled;
  return x < low ? Wide{} : kept;
}

/// log(x) for finite x >= 1. Cephes' polynomial, see fastmath.hpp.
inline Wide wide_log(Wide x) {
  const WideBits bits = as_bits(x);
  const Wide half = as_floats((bits & 0x007FFFFF) | 0x3F000000);  // 0.5 <= half < 1
  const WideBits is_small = half < splat(0.707106781186547524F);  // -1 where true
  const Wide exponent = __builtin_convertvector((bits >> 23) - 126 + is_small, Wide);
  const Wide m = (is_small != 0 ? half + half : half) - 1.0F;
  const Wide z = m * m;
  Wide p = splat(7.0376836292E-2F);
  p = p * m - 1.1514610310E-1F;
  p = p * m + 1.1676998740E-1F;
  p = p * m - 1.2420140846E-1F;
  p = p * m + 1.4249322787E-1F;
  p = p * m - 1.6668057665E-1F;
  p = p * m + 2.0000714765E-1F;
  p = p * m - 2.4999993993E-1F;
  p = p * m + 3.3333331174E-1F;
  const Wide tail = p * m * z + exponent * -2.12194440e-4F - 0.5F * z;
  return (m + tail) + exponent * 0.693359375F;
}

/// Lanes one after the other: the same order whatever the registers.
inline float sum_of(const Wide& x) {
  float sum = 0.0F;
  for (std::size_t i = 0; i < 16; ++i) sum += x[i];
  return sum;
}

}  // namespace chronoward::CHRONOWARD_LEVEL
