#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "core/bottom_sample.hpp"

namespace chronoward {

inline constexpr std::int64_t kNeverUs = std::numeric_limits<std::int64_t>::max();

/// Times of events as `fit` looks at them; `kNullUs` where there is none.
struct EventTimes {
  std::span<const std::uint8_t> role;
  std::span<const std::int64_t> time_us, available_us, end_us, visit_id;
};

/// Kinds of durations: from visit to visit, from moment to moment inside a visit, and from moment
/// to moment of a subject. A duration's group is kind * kDurationGroups + its number of bits: rare
/// long durations keep a sample of their own.
enum class DurationKind : std::int64_t { kGap = 0, kInner = 1, kMoment = 2 };

inline constexpr std::int64_t kDurationGroups = 64;

/// Kinds of starts: day of the year (with its year: year * 1000 + day), days since birth, minute of
/// the day.
enum class StartKind : std::int64_t { kDayOfYear = 0, kAge = 1, kMinute = 2 };

/// Samples the durations and starts of subjects and counts their years, one subject at a time.
class TimeScan {
 public:
  explicit TimeScan(std::size_t sample_size) : durations_(sample_size), starts_(sample_size) {}

  /// Looks at a subject, rows [first, last). Its timeline starts with its first event, or with
  /// observation where that is a day or more before; then the wait counts as a duration as well.
  ///
  /// @param since_us start of its observation, `kNeverUs` where nothing is known of it.
  void add(const EventTimes& events, std::size_t first, std::size_t last, std::int64_t subject_id,
           std::int64_t since_us);

  BottomSample& durations() { return durations_; }  // groups by kind and number of bits
  BottomSample& starts() { return starts_; }        // groups by StartKind
  const std::map<std::int32_t, std::int64_t>& years() const { return years_; }  // subjects a year

 private:
  using Minutes = std::pair<std::int64_t, std::int64_t>;

  void collect(const EventTimes& events, std::size_t first, std::size_t last);
  void add_gaps();
  void add_inner();
  void add_moments();
  void add_years();
  void add_starts(std::int64_t since_us);
  void add_wait(std::int64_t since_us, std::int64_t event_us);
  void add_duration(DurationKind kind, std::int64_t start, std::int64_t minutes);
  void add_start(StartKind kind, std::int64_t value);

  BottomSample durations_, starts_;
  std::map<std::int32_t, std::int64_t> years_;
  std::int64_t subject_id_ = 0, birth_us_ = 0;
  std::vector<std::int64_t> available_;
  std::vector<Minutes> visits_;  // start and end
  std::vector<Minutes> inside_;  // visit and minute
};

}  // namespace chronoward
