#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace chronoward {

inline constexpr std::int64_t kNeverUs = std::numeric_limits<std::int64_t>::max();

/// Events of whole subjects as `fit` looks at their times; `kNullUs` where there is none.
struct FitEvents {
  std::span<const std::int64_t> subject_id;
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

/// What durations, starts and years there are, in no order that matters.
struct FitTimes {
  std::vector<std::int64_t> duration_group, duration_subject, duration_start_min;
  std::vector<double> duration_min;
  std::vector<std::int64_t> start_kind, start_subject;
  std::vector<double> start_value;
  std::vector<std::int64_t> years;  // one entry a subject and year with an event
};

/// Looks at the times of some subjects. A timeline starts with its first event, or with observation
/// where that is a day or more before; then the wait counts as a duration as well.
///
/// @param events subjects contiguous; inside a subject in any order.
/// @param since_us (subjects,) start of each subject's observation in order of the subjects,
///     `kNeverUs` where nothing is known of it.
/// @throws std::invalid_argument columns that do not fit each other.
FitTimes scan_times(const FitEvents& events, std::span<const std::int64_t> since_us);

}  // namespace chronoward
