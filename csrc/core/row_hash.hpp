#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

// Hashes of records, to find those that stand twice; equal hashes are compared field by field.
namespace chronoward {

/// One pattern for all NaNs and one for both zeros.
inline std::uint64_t bits_of(double x) {
  if (std::isnan(x)) return std::bit_cast<std::uint64_t>(std::numeric_limits<double>::quiet_NaN());
  return std::bit_cast<std::uint64_t>(x == 0.0 ? 0.0 : x);
}

inline std::uint64_t mix(std::uint64_t h, std::uint64_t x) {  // splitmix64's finalizer
  h = (h ^ x) + 0x9e3779b97f4a7c15ULL;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ULL;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebULL;
  return h ^ (h >> 31);
}

/// A hash of words: a sum of products with odd numbers, which the processor makes side by side; a
/// chain of `mix` would wait for each.
template <typename... Words>
std::uint64_t hash_of(Words... words) {
  std::uint64_t sum = 0, factor = 0x9e3779b97f4a7c15ULL;
  ((sum += factor * static_cast<std::uint64_t>(words), factor *= 0xd1342543de82ef95ULL), ...);
  return mix(0, sum);
}

/// Two numbers of 32 bits as one word.
inline std::uint64_t word_of(std::int32_t low, std::int32_t high) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(high)) << 32 |
         static_cast<std::uint32_t>(low);
}

}  // namespace chronoward
