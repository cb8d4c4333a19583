#include "core/event_columns.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <tuple>
#include <utility>

namespace chronoward {
namespace {

/// Appends fn(event) of each event.
template <typename T, typename Fn>
void extend(std::vector<T>& column, const std::vector<MendedEvent>& events, const Fn& fn) {
  const std::size_t n = column.size();
  column.resize(n + events.size());
  std::transform(events.begin(), events.end(), column.begin() + static_cast<std::ptrdiff_t>(n), fn);
}

float nulls_first(double x) {
  return std::isnan(x) ? -std::numeric_limits<float>::infinity() : static_cast<float>(x);
}

bool is_earlier(const MendedEvent& a, const MendedEvent& b) {
  return a.available < b.available;  // kNullUs comes first
}

bool is_before(const MendedEvent& a, const MendedEvent& b) {
  if (a.available != b.available) return is_earlier(a, b);
  if (a.role != b.role) return a.role < b.role;
  if (a.table != b.table) return a.table < b.table;
  if (a.code != b.code) return a.code < b.code;
  const auto rest = [](const MendedEvent& e) {
    return std::tuple(e.unit, nulls_first(e.number), e.text, e.time, e.visit_id, e.end_time);
  };
  return rest(a) < rest(b);
}

/// What decides about most events of a moment: role, table, code.
std::uint64_t moment_key(const MendedEvent& e) {
  return std::uint64_t{static_cast<std::uint8_t>(e.role)} << 48 | std::uint64_t{e.table} << 32 |
         static_cast<std::uint32_t>(e.code);
}

/// Puts in order what is in order of time: moment by moment. Keys move until the order is known,
/// events once.
void sort_moments(std::vector<MendedEvent>::iterator begin,
                  std::vector<MendedEvent>::iterator end) {
  std::vector<std::pair<std::uint64_t, std::uint32_t>> keys;  // and the event's place
  std::vector<MendedEvent> ordered;
  while (begin != end) {
    keys.clear();
    bool is_ordered = true;
    auto next = begin;
    for (; next != end && next->available == begin->available; ++next) {
      keys.emplace_back(moment_key(*next), static_cast<std::uint32_t>(next - begin));
      const std::size_t k = keys.size() - 1;
      is_ordered = is_ordered && (k == 0 || keys[k - 1].first < keys[k].first);
    }
    if (!is_ordered) {
      std::sort(keys.begin(), keys.end(), [&](const auto& a, const auto& b) {
        if (a.first != b.first) return a.first < b.first;
        return is_before(begin[a.second], begin[b.second]);
      });
      ordered.clear();
      for (const auto& [key, place] : keys) ordered.push_back(begin[place]);
      std::copy(ordered.begin(), ordered.end(), begin);
    }
    begin = next;
  }
}

}  // namespace

void sort_events(std::vector<MendedEvent>& events) {
  // mostly all is in order of time but for what was appended last: facts about the person, visits
  const auto middle = std::is_sorted_until(events.begin(), events.end(), is_earlier);
  if (events.end() - middle > middle - events.begin()) {
    std::sort(events.begin(), events.end(), is_before);
    return;
  }
  sort_moments(events.begin(), middle);
  if (middle == events.end()) return;
  std::sort(middle, events.end(), is_before);
  std::inplace_merge(events.begin(), middle, events.end(), is_before);
}

void append_events(std::int64_t subject_id, const std::vector<MendedEvent>& events, bool with_units,
                   bool with_texts, bool with_visits, EventPiece& out) {
  out.subject_id.resize(out.subject_id.size() + events.size(), subject_id);
  extend(out.time, events, [](const MendedEvent& e) { return e.time; });
  extend(out.available, events, [](const MendedEvent& e) { return e.available; });
  extend(out.role, events, [](const MendedEvent& e) { return static_cast<std::uint8_t>(e.role); });
  extend(out.table, events, [](const MendedEvent& e) { return std::int32_t{e.table}; });
  extend(out.code, events, [](const MendedEvent& e) { return e.code; });
  extend(out.number, events,
         [](const MendedEvent& e) { return static_cast<float>(e.number + 0.0); });  // one zero
  if (with_units) extend(out.unit, events, [](const MendedEvent& e) { return e.unit; });
  if (with_texts) extend(out.text, events, [](const MendedEvent& e) { return e.text; });
  if (!with_visits) return;
  extend(out.visit_id, events, [](const MendedEvent& e) { return e.visit_id; });
  extend(out.end_time, events, [](const MendedEvent& e) { return e.end_time; });
}

void reserve_events(std::size_t n_events, bool with_units, bool with_texts, bool with_visits,
                    EventPiece& out) {
  out.subject_id.reserve(n_events);
  out.time.reserve(n_events);
  out.available.reserve(n_events);
  out.role.reserve(n_events);
  out.table.reserve(n_events);
  out.code.reserve(n_events);
  out.number.reserve(n_events);
  if (with_units) out.unit.reserve(n_events);
  if (with_texts) out.text.reserve(n_events);
  if (!with_visits) return;
  out.visit_id.reserve(n_events);
  out.end_time.reserve(n_events);
}

}  // namespace chronoward
