#pragma once

#include <array>
#include <cstdint>

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and
// splitmix64 (Steele, Lea, Flood 2014). The only random source of chronoward: a number depends on
// its key and counter, never on what was drawn before it.
namespace chronoward {

using PhiloxCounter = std::array<std::uint32_t, 4>;

/// One block of four random words. The key's low 32 bits are Random123's key[0].
constexpr PhiloxCounter philox4x32(std::uint64_t key, PhiloxCounter counter) noexcept {
  auto k0 = static_cast<std::uint32_t>(key);
  auto k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53U} * counter[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57U} * counter[2];
    counter = {
        static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ k0, static_cast<std::uint32_t>(p1),
        static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return counter;
}

/// A word as a number strictly between 0 and 1: the middle of its 2^-32 cell.
constexpr double philox_uniform(std::uint32_t word) noexcept {
  return (static_cast<double>(word) + 0.5) * 0x1p-32;
}

constexpr std::uint64_t splitmix64(std::uint64_t x) noexcept {
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

/// Hash of a sequence of words; the order matters. hash64() = 0, then h = splitmix64(h ^ part).
template <typename... Parts>
constexpr std::uint64_t hash64(Parts... parts) noexcept {
  std::uint64_t hash = 0;
  ((hash = splitmix64(hash ^ static_cast<std::uint64_t>(parts))), ...);
  return hash;
}

}  // namespace chronoward
