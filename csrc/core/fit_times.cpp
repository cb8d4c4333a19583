#include "core/fit_times.hpp"

#include <algorithm>
#include <bit>

#include "core/days.hpp"
#include "core/encode.hpp"

namespace chronoward {
void TimeScan::add(const EventTimes& events, std::size_t first, std::size_t last,
                   std::int64_t subject_id, std::int64_t since_us) {
  subject_id_ = subject_id;
  collect(events, first, last);
  add_gaps();
  add_inner();
  add_moments();
  add_years();
  add_starts(since_us);
}

void TimeScan::collect(const EventTimes& e, std::size_t first, std::size_t last) {
  available_.clear();
  visits_.clear();
  inside_.clear();
  birth_us_ = kNullUs;
  for (std::size_t row = first; row < last; ++row) {
    const auto role = static_cast<Role>(e.role[row]);
    if (role == Role::kBirth) birth_us_ = e.time_us[row];
    const std::int64_t us = e.available_us[row];
    if (role < Role::kVisit || us == kNullUs) continue;
    // of one moment come many rows, and one of them is enough
    if (available_.empty() || available_.back() != us) available_.push_back(us);
    const std::int64_t minute = ceil_div(us, kUsPerMin);
    const bool is_inside = e.visit_id[row] != kNullUs;
    const Minutes here(e.visit_id[row], minute);
    if (is_inside && (inside_.empty() || inside_.back() != here)) inside_.push_back(here);
    if (role != Role::kVisit) continue;
    const std::int64_t end_us = e.end_us[row];
    const std::int64_t end =
        end_us == kNullUs ? minute : std::max(ceil_div(end_us, kUsPerMin), minute);
    visits_.emplace_back(minute, end);
    if (is_inside) inside_.emplace_back(e.visit_id[row], end);
  }
  // rows come by available time, visits by their start: mostly nothing to sort
  for (auto* pairs : {&visits_, &inside_}) {
    if (!std::is_sorted(pairs->begin(), pairs->end())) std::sort(pairs->begin(), pairs->end());
  }
  if (!std::is_sorted(available_.begin(), available_.end())) {
    std::sort(available_.begin(), available_.end());
  }
}

void TimeScan::add_duration(DurationKind kind, std::int64_t start, std::int64_t minutes) {
  const auto bits = static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(minutes)));
  const auto group = static_cast<std::size_t>(kind) * kDurationGroups + bits;
  durations_.add_row(group, subject_id_, start, static_cast<double>(minutes));
}

void TimeScan::add_gaps() {
  for (std::size_t i = 1; i < visits_.size(); ++i) {
    const std::int64_t gap = visits_[i].first - visits_[i - 1].second;
    add_duration(DurationKind::kGap, visits_[i - 1].first, std::max<std::int64_t>(gap, 0));
  }
}

void TimeScan::add_inner() {
  for (std::size_t i = 1; i < inside_.size(); ++i) {
    const auto [visit, minute] = inside_[i - 1];
    if (inside_[i].first != visit || inside_[i].second == minute) continue;
    add_duration(DurationKind::kInner, minute, inside_[i].second - minute);
  }
}

void TimeScan::add_moments() {
  for (std::size_t i = 1; i < available_.size(); ++i) {
    if (available_[i] == available_[i - 1]) continue;
    const std::int64_t minute = ceil_div(available_[i - 1], kUsPerMin);
    const std::int64_t next = ceil_div(available_[i], kUsPerMin);
    if (next != minute) add_duration(DurationKind::kMoment, minute, next - minute);
  }
}

void TimeScan::add_years() {
  std::int64_t year_end_us = kNullUs;  // of the last year that was added
  for (const std::int64_t us : available_) {
    if (us < year_end_us) continue;
    const std::int32_t year = year_of_day(floor_div(us, kUsPerDay));
    ++years_[year];
    year_end_us = first_day_of(year + 1) * kUsPerDay;
  }
}

void TimeScan::add_starts(std::int64_t since_us) {
  const std::int64_t event_us = available_.empty() ? kNeverUs : available_.front();
  const bool waits = since_us != kNeverUs && event_us >= since_us + kUsPerDay;
  if (waits && event_us != kNeverUs) add_wait(since_us, event_us);
  const std::int64_t first_us = waits ? since_us : event_us;
  if (first_us == kNeverUs) return;
  const std::int64_t day = floor_div(first_us, kUsPerDay);
  const std::int32_t year = year_of_day(day);
  add_start(StartKind::kDayOfYear, year * std::int64_t{1000} + day - first_day_of(year));
  if (birth_us_ != kNullUs) {
    const std::int64_t age = day - floor_div(birth_us_, kUsPerDay);
    add_start(StartKind::kAge, std::max<std::int64_t>(age, 0));
  }
  const std::int64_t minute = ceil_div(first_us - day * kUsPerDay, kUsPerMin);
  add_start(StartKind::kMinute, std::min<std::int64_t>(minute, 1439));
}

/// The wait from the start of observation to the first event: a gap of both kinds.
void TimeScan::add_wait(std::int64_t since_us, std::int64_t event_us) {
  const std::int64_t begun = floor_div(since_us, kUsPerMin);
  const std::int64_t minutes = ceil_div(event_us, kUsPerMin) - begun;
  add_duration(DurationKind::kGap, begun, minutes);
  add_duration(DurationKind::kMoment, begun, minutes);
  const std::int32_t year = year_of_day(floor_div(since_us, kUsPerDay));
  if (year < year_of_day(floor_div(event_us, kUsPerDay))) ++years_[year];
}

void TimeScan::add_start(StartKind kind, std::int64_t value) {
  const auto group = static_cast<std::size_t>(kind);
  starts_.add_row(group, subject_id_, static_cast<std::int64_t>(kind), static_cast<double>(value));
}

}  // namespace chronoward
