#include "core/visits.hpp"

#include <algorithm>
#include <stdexcept>
#include <tuple>

#include "core/days.hpp"

namespace chronoward {
namespace {

std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }

std::uint8_t bit(VisitChange change) {
  return static_cast<std::uint8_t>(1U << static_cast<unsigned>(change));
}

}  // namespace

void VisitMender::mend(const std::vector<SourceVisit>& visits,
                       const std::vector<LinkedRecord>& records, std::int64_t death,
                       MendedVisits& out) {
  out.visits.clear();
  out.details.clear();
  out.visit_of.assign(visits.size(), kNoVisit);
  out.fate.assign(visits.size(), VisitFate::kKept);
  out.changes.assign(visits.size(), 0);
  extend(visits, records, death, out);
  merge(visits, out);
  if (rules_.merges) {
    link_emergencies();
    absorb_visits();
  }
  finish(out);
}

/// Missing ends, ends moved to a record of the same day, and the class, which may follow from the
/// length.
void VisitMender::extend(const std::vector<SourceVisit>& visits,
                         const std::vector<LinkedRecord>& records, std::int64_t death,
                         MendedVisits& out) {
  last_any_.assign(visits.size(), kNullUs);
  last_same_day_.assign(visits.size(), kNullUs);
  for (const LinkedRecord& record : records) {
    const SourceVisit& visit = visits[at(record.visit)];
    std::int64_t& any = last_any_[at(record.visit)];
    if (!record.is_date) {
      any = std::max(any, record.time);
      if (!visit.is_end_date && visit.finish != kNullUs && record.time > visit.finish &&
          day_of(record.time) == day_of(visit.finish)) {
        std::int64_t& same_day = last_same_day_[at(record.visit)];
        same_day = std::max(same_day, record.time);
      }
    } else if (record.time > day_of(visit.start)) {
      any = std::max(any, record.time + kDayEndUs);
    }
  }
  ended_.clear();
  for (std::size_t i = 0; i < visits.size(); ++i) {
    const SourceVisit& visit = visits[i];
    if (visit.is_gone) {
      out.fate[i] = VisitFate::kGoneBefore;
      continue;
    }
    const bool is_missing = visit.finish == kNullUs;
    std::int64_t finish = 0;
    if (is_missing) {
      finish = std::max(visit.start + (visit.is_start_date ? kDayEndUs : 0), last_any_[i]);
    } else {
      finish = std::max(visit.finish, last_same_day_[i]);
      if (last_same_day_[i] != kNullUs) out.changes[i] |= bit(VisitChange::kExtended);
    }
    if (death != kNullUs) finish = std::min(finish, death);
    const bool is_end_date = visit.is_end_date || (is_missing && visit.is_start_date);
    const std::int64_t length = (is_end_date ? day_of(finish) : finish) - visit.start;
    const bool is_by_length =
        visit.source_class != VisitClass::kInpatient && length >= rules_.inpatient_us;
    if (is_by_length) out.changes[i] |= bit(VisitChange::kByLength);
    ended_.push_back({visit.start, finish, static_cast<std::int32_t>(i), visit.order,
                      is_by_length ? VisitClass::kInpatient : visit.source_class,
                      !(visit.is_start_date && is_end_date), is_by_length});
  }
}

/// Overlapping visits of a class become one group; one that starts where the reach of those before
/// ends opens its own, unless it starts with the visit before it.
void VisitMender::merge(const std::vector<SourceVisit>& visits, MendedVisits& out) {
  std::sort(ended_.begin(), ended_.end(), [](const Ended& a, const Ended& b) {
    return std::tuple(a.visit_class, a.start, -a.finish, a.order) <
           std::tuple(b.visit_class, b.start, -b.finish, b.order);
  });
  groups_.clear();
  group_of_.assign(visits.size(), kNoVisit);
  std::int64_t reach = kNullUs, previous = kNullUs;
  for (std::size_t i = 0; i < ended_.size(); ++i) {
    const Ended& visit = ended_[i];
    const bool is_first = i == 0 || ended_[i - 1].visit_class != visit.visit_class;
    const bool opens = !rules_.merges || is_first || visit.start > reach ||
                       (visit.start == reach && previous < visit.start);
    if (opens) {
      groups_.push_back({.start = visit.start,
                         .finish = visit.finish,
                         .own_start = visit.start,
                         .head = visit.place,
                         .order = visit.order,
                         .visit_class = visit.visit_class});
    } else {
      out.fate[at(visit.place)] = VisitFate::kMerged;
    }
    Group& group = groups_.back();
    group_of_[at(visit.place)] = static_cast<std::int32_t>(groups_.size()) - 1;
    group.finish = std::max(group.finish, visit.finish);
    group.is_timed |= visit.is_timed;
    group.is_by_length |= visit.is_by_length;
    const std::pair left(visit.finish, visit.order);  // the latest end says where to
    if (visits[at(visit.place)].has_discharge &&
        (group.discharge == kNoVisit || group.discharge_key < left)) {
      group.discharge = visit.place;
      group.discharge_key = left;
    }
    reach = is_first ? visit.finish : std::max(reach, visit.finish);
    previous = visit.start;
  }
}

/// An emergency visit that ends during a stay, or shortly before it, is where the stay began.
void VisitMender::link_emergencies() {
  stays_.clear();
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    if (groups_[i].visit_class == VisitClass::kInpatient) {
      stays_.push_back(static_cast<std::int32_t>(i));
    }
  }
  const std::int64_t link_days = (rules_.ed_link_us + kUsPerDay - 1) / kUsPerDay * kUsPerDay;
  for (Group& visit : groups_) {
    if (visit.visit_class != VisitClass::kEmergency) continue;
    const std::int64_t compared = visit.is_timed ? visit.finish : day_of(visit.finish);
    const auto found = std::lower_bound(
        stays_.begin(), stays_.end(), compared,
        [this](std::int32_t s, std::int64_t t) { return groups_[at(s)].finish < t; });
    if (found == stays_.end()) continue;
    Group& stay = groups_[at(*found)];
    const bool is_near = visit.is_timed ? visit.finish >= stay.own_start - rules_.ed_link_us
                                        : compared >= day_of(stay.own_start) - link_days;
    if (!is_near) continue;
    visit.home = *found;
    stay.start = std::min(stay.start, visit.start);
  }
}

/// Visits of class other inside a stay belong to it.
void VisitMender::absorb_visits() {
  const auto starts = [this](std::int32_t s) { return groups_[at(s)].start; };
  // an emergency visit may have moved the start of a stay before that of another one
  std::stable_sort(stays_.begin(), stays_.end(),
                   [&](std::int32_t a, std::int32_t b) { return starts(a) < starts(b); });
  for (Group& visit : groups_) {
    if (visit.visit_class != VisitClass::kOther) continue;
    const std::int64_t compared = visit.is_timed ? visit.start : visit.finish;
    const auto after =
        std::upper_bound(stays_.begin(), stays_.end(), compared,
                         [&](std::int64_t t, std::int32_t s) { return t < starts(s); });
    if (after == stays_.begin()) continue;
    const std::int32_t latest = *(after - 1);
    const Group& stay = groups_[at(latest)];
    const bool is_inside = visit.is_timed ? visit.finish <= stay.finish && visit.start >= stay.start
                                          : day_of(visit.start) >= day_of(stay.start) &&
                                                day_of(visit.finish) <= day_of(stay.finish);
    if (is_inside) visit.home = latest;
  }
}

/// Clamps what still overlaps, and says what became of each source visit.
void VisitMender::finish(MendedVisits& out) {
  sorted_.clear();
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    if (groups_[i].home == kNoVisit) sorted_.push_back(static_cast<std::int32_t>(i));
  }
  std::sort(sorted_.begin(), sorted_.end(), [this](std::int32_t a, std::int32_t b) {
    const Group &x = groups_[at(a)], &y = groups_[at(b)];
    if (!rules_.merges) {
      const auto is_stay = [](const Group& g) { return g.visit_class == VisitClass::kInpatient; };
      return std::tuple(x.start, is_stay(x), x.order) < std::tuple(y.start, is_stay(y), y.order);
    }
    return std::tuple(x.start, x.visit_class, -x.finish, x.order) <
           std::tuple(y.start, y.visit_class, -y.finish, y.order);
  });
  std::int64_t reach = kNullUs;
  for (const std::int32_t g : sorted_) {
    Group& group = groups_[at(g)];
    group.visit = static_cast<std::int32_t>(out.visits.size());
    const bool is_clamped = reach != kNullUs && group.start < reach;
    out.visits.push_back({std::max(group.start, reach), std::max(group.finish, reach), group.head,
                          group.discharge, group.visit_class, group.is_timed, group.is_by_length,
                          is_clamped});
    reach = std::max(reach, group.finish);
    if (is_clamped) out.changes[at(group.head)] |= bit(VisitChange::kClamped);
  }
  for (std::size_t i = 0; i < group_of_.size(); ++i) {
    if (group_of_[i] == kNoVisit) continue;
    const Group& group = groups_[at(group_of_[i])];
    const bool is_home = group.home == kNoVisit;
    out.visit_of[i] = is_home ? group.visit : groups_[at(group.home)].visit;
    if (out.fate[i] == VisitFate::kKept && !is_home) {
      out.fate[i] =
          group.visit_class == VisitClass::kEmergency ? VisitFate::kEdLinked : VisitFate::kInStay;
    }
    if (out.fate[i] != VisitFate::kKept) out.changes[i] = 0;
  }
  for (const Group& group : groups_) {
    if (group.visit_class != VisitClass::kEmergency || group.home == kNoVisit) continue;
    const std::int32_t visit = groups_[at(group.home)].visit;
    const MendedVisit& stay = out.visits[at(visit)];
    const std::int64_t start = std::max(group.start, stay.start);
    out.details.push_back(
        {start, std::max(std::min(group.finish, stay.finish), start), group.head, visit});
  }
}

namespace {

void check(const VisitColumns& c) {
  const std::size_t n = c.start.size(), n_records = c.record_visit.size();
  const auto is_offsets = [&](std::span<const std::int64_t> offsets, std::size_t total) {
    return offsets.size() == c.death.size() + 1 && offsets.front() == 0 &&
           static_cast<std::size_t>(offsets.back()) == total &&
           std::is_sorted(offsets.begin(), offsets.end());
  };
  const bool is_even = c.finish.size() == n && c.order.size() == n && c.source_class.size() == n &&
                       c.is_start_date.size() == n && c.is_end_date.size() == n &&
                       c.is_gone.size() == n && c.has_discharge.size() == n &&
                       c.record_time.size() == n_records && c.record_is_date.size() == n_records;
  if (!is_even || !is_offsets(c.visit_offsets, n) || !is_offsets(c.record_offsets, n_records)) {
    throw std::invalid_argument("columns of visits do not fit each other");
  }
}

}  // namespace

MendedColumns mend_visits(const VisitColumns& c, const VisitRules& rules) {
  check(c);
  MendedColumns out;
  out.offsets.push_back(0);
  out.visit_of.assign(c.start.size(), kNoVisit);
  out.fate.resize(c.start.size());
  out.changes.resize(c.start.size());
  VisitMender mender(rules);
  std::vector<SourceVisit> visits;
  std::vector<LinkedRecord> records;
  MendedVisits mended;
  for (std::size_t subject = 0; subject < c.death.size(); ++subject) {
    const auto first = static_cast<std::size_t>(c.visit_offsets[subject]);
    const auto last = static_cast<std::size_t>(c.visit_offsets[subject + 1]);
    visits.clear();
    for (std::size_t i = first; i < last; ++i) {
      visits.push_back({c.start[i], c.finish[i], c.order[i],
                        static_cast<VisitClass>(c.source_class[i]), c.is_start_date[i] != 0,
                        c.is_end_date[i] != 0, c.is_gone[i] != 0, c.has_discharge[i] != 0});
    }
    records.clear();
    for (auto r = static_cast<std::size_t>(c.record_offsets[subject]);
         r < static_cast<std::size_t>(c.record_offsets[subject + 1]); ++r) {
      const std::int64_t place = c.record_visit[r] - static_cast<std::int64_t>(first);
      if (place < 0 || place >= static_cast<std::int64_t>(visits.size())) {
        throw std::invalid_argument("a record is linked to a visit of another subject");
      }
      records.push_back(
          {static_cast<std::int32_t>(place), c.record_time[r], c.record_is_date[r] != 0});
    }
    mender.mend(visits, records, c.death[subject], mended);
    const auto begin = static_cast<std::int64_t>(out.start.size());
    const auto row_of = [&](std::int32_t place) {
      return place == kNoVisit ? kNoVisit : static_cast<std::int64_t>(first) + place;
    };
    for (const MendedVisit& visit : mended.visits) {
      out.start.push_back(visit.start);
      out.finish.push_back(visit.finish);
      out.head.push_back(row_of(visit.head));
      out.discharge.push_back(row_of(visit.discharge));
      out.visit_class.push_back(static_cast<std::uint8_t>(visit.visit_class));
      out.is_timed.push_back(visit.is_timed);
      out.is_by_length.push_back(visit.is_by_length);
      out.is_clamped.push_back(visit.is_clamped);
    }
    for (std::size_t i = 0; i < visits.size(); ++i) {
      const std::int32_t place = mended.visit_of[i];
      out.visit_of[first + i] = place == kNoVisit ? kNoVisit : begin + place;
      out.fate[first + i] = static_cast<std::uint8_t>(mended.fate[i]);
      out.changes[first + i] = mended.changes[i];
    }
    for (const EmergencyDetail& detail : mended.details) {
      out.detail_start.push_back(detail.start);
      out.detail_finish.push_back(detail.finish);
      out.detail_head.push_back(row_of(detail.head));
      out.detail_visit.push_back(begin + detail.visit);
    }
    out.offsets.push_back(static_cast<std::int64_t>(out.start.size()));
  }
  return out;
}

}  // namespace chronoward
