#pragma once

#include <bit>
#include <cstdint>

// Functions marked so are compiled for AVX2 + FMA too and chosen when the program is loaded.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define CHRONOWARD_HAS_CLONES
#define CHRONOWARD_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
// and for AVX-512
#define CHRONOWARD_WIDE_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CHRONOWARD_CLONES
#define CHRONOWARD_WIDE_CLONES
#endif
// Functions marked so become part of the clone that calls them.
#ifdef CHRONOWARD_HAS_CLONES
#define CHRONOWARD_INLINE inline __attribute__((always_inline))
#else
#define CHRONOWARD_INLINE inline
#endif

// exp and log of floats as straight-line code (Cephes polynomials, 2 ulp), so that loops over them
// vectorize and give the same bits on every lane and machine that rounds the same way.
namespace chronoward {

/// exp(r) for |r| <= log(2) / 2; a float, or a vector of them.
template <typename T>
CHRONOWARD_INLINE T exp_polynomial(const T& r) {
  T p = r * 1.9875691500E-4F + 1.3981999507E-3F;
  p = p * r + 8.3334519073E-3F;
  p = p * r + 4.1665795894E-2F;
  p = p * r + 1.6666665459E-1F;
  p = p * r + 5.0000001201E-1F;
  return (p * r * r + r) + 1.0F;
}

/// log((1 + m) * 2^exponent) for 1 + m in [sqrt(1/2), sqrt(2)); a float, or a vector of them.
template <typename T>
CHRONOWARD_INLINE T log_polynomial(const T& m, const T& exponent) {
  const T z = m * m;
  T p = m * 7.0376836292E-2F - 1.1514610310E-1F;
  p = p * m + 1.1676998740E-1F;
  p = p * m - 1.2420140846E-1F;
  p = p * m + 1.4249322787E-1F;
  p = p * m - 1.6668057665E-1F;
  p = p * m + 2.0000714765E-1F;
  p = p * m - 2.4999993993E-1F;
  p = p * m + 3.3333331174E-1F;
  const T tail = p * m * z + exponent * -2.12194440e-4F - 0.5F * z;
  return (m + tail) + exponent * 0.693359375F;
}

/// exp(x) for x <= 0; exactly 0 below -87; NaN stays NaN.
inline float fast_exp(float x) noexcept {
  const float bounded = x < -87.0F ? -87.0F : x;
  const float shifted = bounded * 1.44269504088896341F + 12582912.0F;  // rounds to an integer
  const float n = shifted - 12582912.0F;
  const float r = (bounded - n * 0.693359375F) - n * -2.12194440e-4F;
  const float value = exp_polynomial(r);
  // The integer sits in the low mantissa bits of `shifted`: no float-to-int conversion of a NaN.
  const std::int32_t exponent = std::bit_cast<std::int32_t>(shifted) - 0x4B400000;
  const float scaled = value * std::bit_cast<float>((exponent + 127) * (1 << 23));
  const float kept = x != x ? x : scaled;
  return x < -87.0F ? 0.0F : kept;
}

/// log(x) for finite x >= 1.
inline float fast_log(float x) noexcept {
  const std::int32_t bits = std::bit_cast<std::int32_t>(x);
  const float half = std::bit_cast<float>((bits & 0x007FFFFF) | 0x3F000000);  // 0.5 <= half < 1
  const bool is_small = half < 0.707106781186547524F;
  const float exponent = static_cast<float>((bits >> 23) - 126 - (is_small ? 1 : 0));
  const float m = (is_small ? half + half : half) - 1.0F;
  return log_polynomial(m, exponent);
}

}  // namespace chronoward
