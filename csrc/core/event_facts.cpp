#include "core/event_facts.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

namespace chronoward {
namespace {

std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }

}  // namespace

std::size_t EventFacts::place_of_kind(const MendedEvent& event) {
  const std::uint64_t key =
      (static_cast<std::uint64_t>(event.role) * n_tables_ + event.table) * n_codes_ +
      at(event.code);
  OfCode& code = codes_[at(event.code)];
  if (code.kind != key) {
    const auto [found, is_new] = kind_place_.try_emplace(key, kinds_.size());
    if (is_new) kinds_.push_back({.key = key});
    code.kind = key;
    code.place = found->second;
  }
  return code.place;
}

void EventFacts::add(std::int64_t subject_id, std::span<const MendedEvent> events) {
  if (events.empty()) return;
  ++ordinal_;
  std::array<bool, 2> is_of_sex{};
  for (const MendedEvent& event : events) {
    if (event.role != Role::kSex) continue;
    is_of_sex[0] |= event.code == known_.female;
    is_of_sex[1] |= event.code == known_.male;
  }
  for (const MendedEvent& event : events) {
    OfKind& kind = kinds_[place_of_kind(event)];
    if (event.role != Role::kCode) continue;
    OfCode& code = codes_[at(event.code)];
    ++code.n_events;
    if (code.last_subject != ordinal_) {
      code.last_subject = ordinal_;
      ++code.n_subjects;
    }
    for (std::size_t sex = 0; sex < 2; ++sex) {
      if (!is_of_sex[sex] || kind.last_subject[sex] == ordinal_) continue;
      kind.last_subject[sex] = ordinal_;
      ++kind.n_subjects[sex];
    }
  }
  add_times(subject_id, events);
  add_visits(events);
}

void EventFacts::add_times(std::int64_t subject_id, std::span<const MendedEvent> events) {
  constexpr std::int64_t kLate = std::numeric_limits<std::int64_t>::max();
  std::int64_t first = kLate, birth = kLate, last = kNullUs;
  for (const MendedEvent& event : events) {
    if (event.time == kNullUs) continue;
    std::int64_t& least = event.role == Role::kBirth ? birth : first;
    least = std::min(least, event.time);
    last = std::max({last, event.time, event.available, event.end_time});
    if (event.role == Role::kDeath) deaths_.push_back({subject_id, event.time});
  }
  if (first == kLate) first = birth;
  if (first != kLate) lives_.push_back({subject_id, first, last});
}

void EventFacts::add_visits(std::span<const MendedEvent> events) {
  made_.clear();
  for (const MendedEvent& event : events) {
    n_visits_ += event.role == Role::kVisit;
    n_code_ += event.role == Role::kCode;
    if (event.role == Role::kVisit && event.code == known_.artificial) {
      made_.push_back(event.visit_id);
    }
  }
  if (made_.empty()) return;
  n_made_ += static_cast<std::int64_t>(made_.size());
  std::sort(made_.begin(), made_.end());
  for (const MendedEvent& event : events) {
    if (event.role != Role::kCode || event.visit_id == kNullUs) continue;
    n_artificial_ += std::binary_search(made_.begin(), made_.end(), event.visit_id);
  }
}

EventFactColumns EventFacts::join(const std::deque<EventFacts>& parts) {
  EventFactColumns out;
  if (parts.empty()) return out;
  const std::size_t n_codes = parts.front().n_codes_, n_tables = parts.front().n_tables_;
  out.n_events.assign(n_codes, 0);
  out.n_subjects.assign(n_codes, 0);
  std::map<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>, std::array<std::int64_t, 2>>
      kinds;  // table, code, role
  std::vector<Life> lives;
  std::vector<std::array<std::int64_t, 2>> deaths;
  for (const EventFacts& part : parts) {
    for (std::size_t c = 0; c < n_codes; ++c) {
      out.n_events[c] += part.codes_[c].n_events;
      out.n_subjects[c] += part.codes_[c].n_subjects;
    }
    for (const OfKind& kind : part.kinds_) {
      const std::uint64_t pair = kind.key / n_codes;
      auto& sums = kinds[{pair % n_tables, kind.key % n_codes, pair / n_tables}];
      for (std::size_t sex = 0; sex < 2; ++sex) sums[sex] += kind.n_subjects[sex];
    }
    lives.insert(lives.end(), part.lives_.begin(), part.lives_.end());
    deaths.insert(deaths.end(), part.deaths_.begin(), part.deaths_.end());
    out.n_visits += part.n_visits_;
    out.n_made += part.n_made_;
    out.n_code += part.n_code_;
    out.n_artificial += part.n_artificial_;
  }
  for (const auto& [key, n] : kinds) {
    out.kinds.table.push_back(static_cast<std::int32_t>(std::get<0>(key)));
    out.kinds.code.push_back(static_cast<std::int32_t>(std::get<1>(key)));
    out.kinds.role.push_back(static_cast<std::uint8_t>(std::get<2>(key)));
    out.kinds.n_female.push_back(n[0]);
    out.kinds.n_male.push_back(n[1]);
  }
  std::sort(lives.begin(), lives.end());
  for (const Life& life : lives) {
    out.subject_id.push_back(life.subject_id);
    out.first_us.push_back(life.first_us);
    out.last_us.push_back(life.last_us);
  }
  std::sort(deaths.begin(), deaths.end());
  for (const auto& [subject, us] : deaths) {
    out.died.push_back(subject);
    out.death_us.push_back(us);
  }
  return out;
}

}  // namespace chronoward
