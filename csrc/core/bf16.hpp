#pragma once

#include <bit>
#include <cstdint>

namespace chronoward {

/// The upper half of a float.
struct Bf16 {
  std::uint16_t bits = 0;
};

/// Rounds to nearest, ties to even; NaN stays NaN.
inline Bf16 to_bf16(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = bits + 0x7FFFU + ((bits >> 16) & 1U);
  return {static_cast<std::uint16_t>((x != x ? bits | 0x00400000U : rounded) >> 16)};
}

}  // namespace chronoward
