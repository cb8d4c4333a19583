#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/fastmath.hpp"

// exp and log of fastmath.hpp on vectors of eight or sixteen floats, for code whose registers are
// chosen by hand. Everything here is part of the function that calls it, whatever its processor.
namespace chronoward {

/// Integers as wide as the floats of a vector: what comparing two of them gives.
template <typename Vector>
using LaneBits = decltype(Vector{} < Vector{});

template <typename Vector, typename T>
CHRONOWARD_INLINE Vector load_lanes(const T* from) {
  Vector x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

template <typename Vector, typename T>
CHRONOWARD_INLINE void store_lanes(T* to, const Vector& x) {
  std::memcpy(to, &x, sizeof x);
}

/// x in every lane (x - 0 is x, also where x is -0, so no subtraction is left).
template <typename Vector, typename T>
CHRONOWARD_INLINE Vector lanes_of(T x) {
  return x - Vector{};
}

template <typename Vector>
CHRONOWARD_INLINE Vector bits_as_lanes(const LaneBits<Vector>& bits) {
  Vector x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

template <typename Vector>
CHRONOWARD_INLINE LaneBits<Vector> lanes_as_bits(const Vector& x) {
  LaneBits<Vector> bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

/// exp(x) for x <= 0, exactly 0 below -87; NaN stays NaN. Cephes' polynomial, see fastmath.hpp.
template <typename Vector>
CHRONOWARD_INLINE Vector lane_exp(const Vector& x) {
  const Vector low = lanes_of<Vector>(-87.0F);
  const Vector bounded = x < low ? low : x;
  const Vector shifted = bounded * 1.44269504088896341F + 12582912.0F;  // rounds to an integer
  const Vector n = shifted - 12582912.0F;
  const Vector r = (bounded - n * 0.693359375F) - n * -2.12194440e-4F;
  Vector p = lanes_of<Vector>(1.9875691500E-4F);
  p = p * r + 1.3981999507E-3F;
  p = p * r + 8.3334519073E-3F;
  p = p * r + 4.1665795894E-2F;
  p = p * r + 1.6666665459E-1F;
  p = p * r + 5.0000001201E-1F;
  const Vector value = (p * r * r + r) + 1.0F;
  const LaneBits<Vector> power = (lanes_as_bits(shifted) - 0x4B400000 + 127) << 23;
  const Vector scaled = value * bits_as_lanes<Vector>(power);
  const Vector kept = x != x ? x : scaled;
  return x < low ? Vector{} : kept;
}

/// log(x) for finite x >= 1. Cephes' polynomial, see fastmath.hpp.
template <typename Vector>
CHRONOWARD_INLINE Vector lane_log(const Vector& x) {
  const LaneBits<Vector> bits = lanes_as_bits(x);
  const Vector half = bits_as_lanes<Vector>((bits & 0x007FFFFF) | 0x3F000000);  // 0.5 <= half < 1
  const LaneBits<Vector> is_small = half < lanes_of<Vector>(0.707106781186547524F);  // -1: true
  const Vector exponent = __builtin_convertvector((bits >> 23) - 126 + is_small, Vector);
  const Vector m = (is_small != 0 ? half + half : half) - 1.0F;
  const Vector z = m * m;
  Vector p = lanes_of<Vector>(7.0376836292E-2F);
  p = p * m - 1.1514610310E-1F;
  p = p * m + 1.1676998740E-1F;
  p = p * m - 1.2420140846E-1F;
  p = p * m + 1.4249322787E-1F;
  p = p * m - 1.6668057665E-1F;
  p = p * m + 2.0000714765E-1F;
  p = p * m - 2.4999993993E-1F;
  p = p * m + 3.3333331174E-1F;
  const Vector tail = p * m * z + exponent * -2.12194440e-4F - 0.5F * z;
  return (m + tail) + exponent * 0.693359375F;
}

}  // namespace chronoward
