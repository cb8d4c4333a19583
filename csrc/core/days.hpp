#pragma once

#include <chrono>
#include <cstdint>
#include <limits>

namespace chronoward {

inline constexpr std::int64_t kNullUs = std::numeric_limits<std::int64_t>::min();  // no time
inline constexpr std::int64_t kUsPerMin = 60'000'000;
inline constexpr std::int64_t kUsPerDay = 86'400'000'000;
inline constexpr std::int64_t kDayEndUs = 86'399'000'000;  // 23:59:59

constexpr std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  return a / b - static_cast<std::int64_t>(a % b < 0);
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return -floor_div(-a, b); }

/// 00:00:00 of the day, in microseconds since 1970.
constexpr std::int64_t day_of(std::int64_t us) { return floor_div(us, kUsPerDay) * kUsPerDay; }

constexpr bool is_midnight(std::int64_t us) { return us == day_of(us); }

/// Year of a day since 1970.
constexpr std::int32_t year_of_day(std::int64_t day) {
  using namespace std::chrono;
  return static_cast<int>(year_month_day{sys_days{days{day}}}.year());
}

/// The year's first day, since 1970.
constexpr std::int64_t first_day_of(std::int32_t year) {
  using namespace std::chrono;
  return sys_days{std::chrono::year{year} / January / 1}.time_since_epoch().count();
}

}  // namespace chronoward
