#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

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

template <typename Vector>
using Halves =
    std::conditional_t<sizeof(Vector) == 64, std::uint16_t __attribute__((vector_size(32))),
                       std::uint16_t __attribute__((vector_size(16)))>;

/// Floats whose upper halves are these. Sixteen only where AVX-512 holds them: a shuffle there, one
/// instruction where gcc 12 makes seven of the conversion; elsewhere it would be taken lane by
/// lane.
template <typename Vector>
CHRONOWARD_INLINE Vector lanes_of_halves(const Halves<Vector>& x) {
  if constexpr (sizeof(Vector) == 64) {
    const auto wide =
        __builtin_shufflevector(Halves<Vector>{}, x, 0, 16, 0, 17, 0, 18, 0, 19, 0, 20, 0, 21, 0,
                                22, 0, 23, 0, 24, 0, 25, 0, 26, 0, 27, 0, 28, 0, 29, 0, 30, 0, 31);
    return load_lanes<Vector>(&wide);
  } else {
    return bits_as_lanes<Vector>(__builtin_convertvector(x, LaneBits<Vector>) << 16);
  }
}

/// The upper halves of floats, given as bits; sixteen only where AVX-512 holds them.
template <typename Vector>
CHRONOWARD_INLINE Halves<Vector> upper_halves(const LaneBits<Vector>& bits) {
  if constexpr (sizeof(Vector) == 64) {
    std::uint16_t __attribute__((vector_size(64))) halves;
    std::memcpy(&halves, &bits, sizeof halves);
    return __builtin_shufflevector(halves, halves, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25,
                                   27, 29, 31);
  } else {
    return __builtin_convertvector((bits >> 16) & 0xFFFF, Halves<Vector>);
  }
}

/// exp(x) for x <= 0, exactly 0 below -87; NaN stays NaN.
template <typename Vector>
CHRONOWARD_INLINE Vector lane_exp(const Vector& x) {
  const Vector low = lanes_of<Vector>(-87.0F);
  const Vector bounded = x < low ? low : x;
  const Vector shifted = bounded * 1.44269504088896341F + 12582912.0F;  // rounds to an integer
  const Vector n = shifted - 12582912.0F;
  const Vector r = (bounded - n * 0.693359375F) - n * -2.12194440e-4F;
  const Vector value = exp_polynomial(r);
  const LaneBits<Vector> power = (lanes_as_bits(shifted) - 0x4B400000 + 127) << 23;
  const Vector scaled = value * bits_as_lanes<Vector>(power);
  const Vector kept = x != x ? x : scaled;
  return x < low ? Vector{} : kept;
}

/// log(x) for finite x >= 1.
template <typename Vector>
CHRONOWARD_INLINE Vector lane_log(const Vector& x) {
  const LaneBits<Vector> bits = lanes_as_bits(x);
  const Vector half = bits_as_lanes<Vector>((bits & 0x007FFFFF) | 0x3F000000);  // 0.5 <= half < 1
  const LaneBits<Vector> is_small = half < lanes_of<Vector>(0.707106781186547524F);  // -1: true
  const Vector exponent = __builtin_convertvector((bits >> 23) - 126 + is_small, Vector);
  const Vector m = (is_small != 0 ? half + half : half) - 1.0F;
  return log_polynomial(m, exponent);
}

}  // namespace chronoward
