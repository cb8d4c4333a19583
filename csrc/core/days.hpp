#pragma once

#include <cstdint>
#include <limits>

namespace chronoward {

inline constexpr std::int64_t kNullUs = std::numeric_limits<std::int64_t>::min();  // no time
inline constexpr std::int64_t kUsPerDay = 86'400'000'000;
inline constexpr std::int64_t kDayEndUs = 86'399'000'000;  // 23:59:59

/// 00:00:00 of the day, in microseconds since 1970.
constexpr std::int64_t day_of(std::int64_t us) {
  const std::int64_t rest = us % kUsPerDay;
  return us - rest - (rest < 0 ? kUsPerDay : 0);
}

}  // namespace chronoward
