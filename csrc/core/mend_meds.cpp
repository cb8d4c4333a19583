#include "core/mend_meds.hpp"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

namespace chronoward {
namespace {

std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }

Removal removal_of(VisitFate fate) {
  switch (fate) {
    case VisitFate::kMerged:
      return Removal::kVisitMerged;
    case VisitFate::kEdLinked:
      return Removal::kEdLinked;
    case VisitFate::kInStay:
      return Removal::kOutpatientInStay;
    case VisitFate::kKept:
    case VisitFate::kGoneBefore:
    case VisitFate::kCount:
      break;
  }
  return Removal::kKept;
}

std::uint32_t changes_of(std::uint8_t bits) {
  constexpr Change kOf[] = {Change::kVisitExtended, Change::kVisitInpatientByLength,
                            Change::kVisitOverlapClamped};
  std::uint32_t changes = 0;
  for (unsigned i = 0; i < static_cast<unsigned>(VisitChange::kCount); ++i) {
    if ((bits >> i & 1U) != 0) changes |= bit_of(kOf[i]);
  }
  return changes;
}

}  // namespace

MedsMender::MedsMender(const MedsRows& rows, const MedsTables& tables, const JudgeRules& rules,
                       const MedsVisits& visits)
    : rows_(rows),
      t_(tables),
      v_(visits),
      judge_(rows, tables, rules),
      mender_(visits.rules),
      is_bound_(tables.code_kind.size()) {
  for (const CodePattern& pattern : v_.patterns) {
    for (std::size_t code = 0; code < is_bound_.size(); ++code) {
      if (pattern.opens[code] != 0 || pattern.closes[code] != 0) is_bound_[code] = 1;
    }
  }
}

void MedsMender::judge(std::size_t begin, std::size_t end, bool is_excluded) {
  begin_ = begin;
  judge_.judge(begin, end, is_excluded, judged_);
  staged_.clear();
  pairs_.clear();
  details_.clear();
  by_ref_.clear();
  mended_.visits.clear();
  mended_.visit_of.clear();
  visit_code_.clear();
  visit_discharge_.clear();
  is_silent_.assign(judged_.size(), 0);
  if (is_excluded) return;
  if (v_.is_explicit) {
    stage_explicit();
    v_.is_disjoint ? take_explicit() : mend_staged();
  } else if (!v_.patterns.empty()) {
    find_bounds();
    for (const CodePattern& pattern : v_.patterns) stage_pattern(pattern);
    stage_pairs();
    mend_staged();
    close_patterns();
  }
  settle_columns();
  facts_.n_visits += static_cast<std::int64_t>(mended_.visits.size());
}

void MedsMender::put_values(std::vector<MendedEvent>& out) const {
  for (std::size_t i = 0; i < judged_.size(); ++i) {
    const bool has_value = judged_[i].has_number || judged_[i].text != kNone;
    if (has_value && is_code_event(i)) out.push_back(value_of(i));
  }
}

/// Visits that are rows of their own, with where the subject went.
void MedsMender::stage_explicit() {
  for (std::size_t i = 0; i < judged_.size(); ++i) {
    const JudgedRow& row = judged_[i];
    if (row.role != Role::kVisit || row.gone != Removal::kKept) continue;
    staged_.push_back({.row = static_cast<std::int32_t>(i),
                       .code = t_.event_code[at(rows_.code[begin_ + i])],
                       .start = rows_.time[begin_ + i],
                       .finish = row.end_time});
  }
  const auto ref_of = [this](const Staged& v) { return rows_.visit_of(begin_ + at(v.row)); };
  std::sort(staged_.begin(), staged_.end(), [&](const Staged& a, const Staged& b) {
    return std::tuple(ref_of(a), a.start, a.finish, t_.code_rank[at(a.code)], a.row) <
           std::tuple(ref_of(b), b.start, b.finish, t_.code_rank[at(b.code)], b.row);
  });
  for (std::size_t i = 0; i < staged_.size(); ++i) {
    const std::int64_t ref = ref_of(staged_[i]);
    if (ref != kNullUs) by_ref_.emplace_back(ref, static_cast<std::int32_t>(i));
  }
  for (std::size_t i = 0; i < judged_.size(); ++i) {
    const JudgedRow& row = judged_[i];
    if (row.role != Role::kDischarge || row.gone != Removal::kKept) continue;
    const std::int64_t ref = rows_.visit_of(begin_ + i);
    const std::int32_t code = t_.event_code[at(rows_.code[begin_ + i])];
    const auto first = std::lower_bound(by_ref_.begin(), by_ref_.end(), std::pair(ref, kNone));
    for (auto found = first; found != by_ref_.end() && found->first == ref; ++found) {
      std::int32_t& kept = staged_[at(found->second)].discharge_code;
      if (kept == kNone || t_.code_rank[at(code)] < t_.code_rank[at(kept)]) kept = code;
    }
  }
  facts_.n_explicit += static_cast<std::int64_t>(staged_.size());
  marks_.clear();
  for (std::size_t i = 0; i < staged_.size(); ++i) marks_.push_back(static_cast<std::int32_t>(i));
  std::sort(marks_.begin(), marks_.end(), [this](std::int32_t a, std::int32_t b) {
    const Staged &x = staged_[at(a)], &y = staged_[at(b)];
    return std::tuple(x.start, x.finish, a) < std::tuple(y.start, y.finish, b);
  });
  std::int64_t reach = kNullUs;
  for (const std::int32_t i : marks_) {
    const Staged& visit = staged_[at(i)];
    if (reach != kNullUs && visit.start < reach) ++facts_.n_overlaps;
    reach = std::max(reach, visit.finish);
    ++facts_.n_staged;
    if (is_midnight(visit.start)) ++facts_.n_midnight;
  }
}

/// Rows that open or close a visit by any pattern: few.
void MedsMender::find_bounds() {
  bounds_.clear();
  for (std::size_t i = 0; i < judged_.size(); ++i) {
    const std::int32_t code = rows_.code[begin_ + i];
    if (code == kNone || is_bound_[at(code)] == 0) continue;
    if (judged_[i].gone != Removal::kKept || judged_[i].role != Role::kCode) continue;
    bounds_.push_back(static_cast<std::int32_t>(i));
  }
}

/// Each opening row with the first closing one before the next opening row.
void MedsMender::stage_pattern(const CodePattern& pattern) {
  const auto code_of = [this](std::int32_t i) { return at(rows_.code[begin_ + at(i)]); };
  const auto add = [&](std::int32_t opening, std::int32_t closing, std::int64_t finish) {
    const std::size_t code = code_of(opening);
    const std::int32_t left = closing == kNone ? kNone : v_.discharge_code[code_of(closing)];
    pairs_.push_back({.visit = {.row = opening,
                                .code = pattern.visit_code[code],
                                .discharge_code = left,
                                .start = rows_.time[begin_ + at(opening)],
                                .finish = finish},
                      .end_row = closing,
                      .place = pattern.is_detail ? kNone : 0,
                      .is_bare = v_.is_bare[code] != 0});
  };
  marks_.clear();
  for (const std::int32_t place : bounds_) {
    const std::size_t code = code_of(place);
    const std::int64_t end = judged_[at(place)].end_time;
    if (!pattern.closes_itself) {
      if (pattern.opens[code] != 0 || pattern.closes[code] != 0) marks_.push_back(place);
    } else if (pattern.opens[code] != 0 && end != kNullUs) {
      add(place, kNone, end);
    }
  }
  const auto opens = [&](std::int32_t i) { return pattern.opens[code_of(i)] != 0; };
  const auto key = [&](std::int32_t i) {
    const std::size_t row = begin_ + at(i);
    return std::tuple(rows_.time[row], !opens(i), t_.code_rank[at(t_.event_code[code_of(i)])],
                      judged_[at(i)].end_time, rows_.available_of(row), rows_.visit_of(row), i);
  };
  std::sort(marks_.begin(), marks_.end(),
            [&](std::int32_t a, std::int32_t b) { return key(a) < key(b); });
  for (std::size_t k = 0; k + 1 < marks_.size(); ++k) {
    const std::int32_t opening = marks_[k], closing = marks_[k + 1];
    if (opens(opening) && !opens(closing)) {
      add(opening, closing, rows_.time[begin_ + at(closing)]);
    }
  }
}

/// Staged visits from pairs; one stands for all that are equal.
void MedsMender::stage_pairs() {
  const auto key = [this](const Pair& pair) {
    const Staged& v = pair.visit;
    return std::tuple(v.start, v.finish, t_.code_rank[at(v.code)], v.row);
  };
  std::stable_sort(pairs_.begin(), pairs_.end(),
                   [&](const Pair& a, const Pair& b) { return key(a) < key(b); });
  for (Pair& pair : pairs_) {
    if (pair.place == kNone) continue;
    ++facts_.n_staged;
    if (is_midnight(pair.visit.start)) ++facts_.n_midnight;
    const auto copy = std::find_if(staged_.begin(), staged_.end(), [&](const Staged& other) {
      return other.start == pair.visit.start && other.finish == pair.visit.finish &&
             other.code == pair.visit.code;
    });
    pair.place = static_cast<std::int32_t>(copy - staged_.begin());
    if (copy == staged_.end()) {
      staged_.push_back(pair.visit);
      staged_.back().discharge_code = kNone;  // settled once ends are known
    }
  }
}

/// A staged visit with its faulty or missing end, and cut at the death.
SourceVisit MedsMender::placed(std::size_t place, std::uint32_t& changes) const {
  const Staged& visit = staged_[place];
  const bool has_end = visit.finish != kNullUs;
  const bool is_start_date = v_.is_midnight_date && is_midnight(visit.start);
  const bool is_end_date = !has_end || (v_.is_midnight_date && is_midnight(visit.finish));
  SourceVisit out{.start = is_start_date ? day_of(visit.start) : visit.start,
                  .order = static_cast<std::int32_t>(place),
                  .source_class = static_cast<VisitClass>(v_.visit_class[at(visit.code)]),
                  .is_start_date = is_start_date,
                  .has_discharge = visit.discharge_code != kNone};
  const bool is_early =
      has_end && (is_start_date || is_end_date ? day_of(visit.finish) < day_of(visit.start)
                                               : visit.finish < visit.start);
  if (is_early) {
    changes |= bit_of(Change::kEndBeforeStart);
  } else if (has_end) {
    out.is_end_date = is_end_date;
    out.finish = is_end_date ? day_of(visit.finish) + kDayEndUs : visit.finish;
  }
  if (judge_.birth() != kNullUs && day_of(visit.start) < day_of(judge_.birth())) {
    changes |= bit_of(Change::kPrenatal);
  }
  const std::int64_t death = judge_.death();
  if (death == kNullUs) return out;
  out.is_gone = is_start_date ? out.start > day_of(death) : out.start > death;
  if (out.finish != kNullUs && out.finish > death) {
    if (!out.is_end_date || day_of(out.finish) > day_of(death)) {
      changes |= bit_of(Change::kVisitEndAfterDeath);
    }
    out.finish = death;
  }
  return out;
}

/// Visits that a source keeps disjoint, as they are.
void MedsMender::take_explicit() {
  mended_.visit_of.assign(staged_.size(), kNoVisit);
  for (const std::int32_t i : marks_) {  // in order of start
    const Staged& visit = staged_[at(i)];
    std::int64_t finish = visit.finish == kNullUs ? visit.start : visit.finish;
    if (judge_.death() != kNullUs) finish = std::min(finish, judge_.death());
    mended_.visit_of[at(i)] = static_cast<std::int32_t>(mended_.visits.size());
    mended_.visits.push_back({.start = visit.start, .finish = finish, .head = i, .is_timed = true});
    visit_code_.push_back(visit.code);
    visit_discharge_.push_back(visit.discharge_code);
  }
}

void MedsMender::mend_staged() {
  sources_.clear();
  staged_changes_.assign(staged_.size(), 0);
  for (std::size_t i = 0; i < staged_.size(); ++i) {
    sources_.push_back(placed(i, staged_changes_[i]));
  }
  linked_.clear();
  for (std::size_t i = 0; i < judged_.size() && !by_ref_.empty(); ++i) {
    if (judged_[i].role != Role::kCode || judged_[i].gone != Removal::kKept) continue;
    const std::int32_t visit = staged_of(rows_.visit_of(begin_ + i));
    if (visit != kNoVisit) linked_.push_back({visit, rows_.time[begin_ + i], false});
  }
  mender_.mend(sources_, linked_, judge_.death(), mended_);
  for (const MendedVisit& visit : mended_.visits) {
    visit_code_.push_back(visit.is_by_length ? v_.stay_code : staged_[at(visit.head)].code);
    const bool has_left = visit.discharge != kNoVisit;
    visit_discharge_.push_back(has_left ? staged_[at(visit.discharge)].discharge_code : kNone);
  }
  for (const EmergencyDetail& detail : mended_.details) {
    details_.push_back({detail.start, detail.finish, staged_[at(detail.head)].code, detail.visit});
  }
  if (!v_.is_explicit) return;  // a pattern's rows are records of their own
  for (std::size_t i = 0; i < staged_.size(); ++i) {
    JudgedRow& row = judged_[at(staged_[i].row)];
    row.gone = sources_[i].is_gone ? Removal::kAfterDeath : removal_of(mended_.fate[i]);
    row.changes |= staged_changes_[i] | changes_of(mended_.changes[i]);
  }
}

/// The staged visit that a visit id names, kNoVisit where there is none.
std::int32_t MedsMender::staged_of(std::int64_t ref) const {
  if (ref == kNullUs) return kNoVisit;
  const auto found = std::lower_bound(by_ref_.begin(), by_ref_.end(), std::pair(ref, kNone));
  return found != by_ref_.end() && found->first == ref ? found->second : kNoVisit;
}

/// The mended visit that a row's visit id names.
std::int32_t MedsMender::visit_of_row(std::size_t i) const {
  const std::int32_t staged = staged_of(rows_.visit_of(begin_ + i));
  return staged == kNoVisit ? kNoVisit : mended_.visit_of[at(staged)];
}

/// Details of explicit visits, cut to them; details and discharges that no visit takes are removed.
void MedsMender::settle_columns() {
  for (std::size_t i = 0; i < judged_.size(); ++i) {
    JudgedRow& row = judged_[i];
    const bool is_detail = row.role == Role::kDetail;
    if ((!is_detail && row.role != Role::kDischarge) || row.gone != Removal::kKept) continue;
    const std::int32_t place = visit_of_row(i);
    const std::int32_t code = t_.event_code[at(rows_.code[begin_ + i])];
    if (!is_detail) {
      const bool is_used = place != kNoVisit && visit_discharge_[at(place)] == code;
      if (!is_used) row.gone = Removal::kDischargeNotUsed;
      continue;
    }
    row.gone = Removal::kDetailWithoutVisit;
    if (place == kNoVisit || row.end_time == kNullUs) continue;
    const MendedVisit& visit = mended_.visits[at(place)];
    const std::int64_t start = rows_.time[begin_ + i];
    if (start > visit.finish || row.end_time < visit.start) continue;
    row.gone = Removal::kKept;
    details_.push_back(
        {std::max(start, visit.start), std::min(row.end_time, visit.finish), code, place});
  }
}

/// Details of patterns, and the rows that a visit itself says: bare starts and ends, and the
/// discharge at its end.
void MedsMender::close_patterns() {
  leaving_.assign(mended_.visits.size(), kNone);
  for (std::size_t k = 0; k < pairs_.size(); ++k) {
    const Pair& pair = pairs_[k];
    if (pair.place == kNone) {
      const auto after =
          std::upper_bound(mended_.visits.begin(), mended_.visits.end(), pair.visit.start,
                           [](std::int64_t t, const MendedVisit& v) { return t < v.start; });
      if (after == mended_.visits.begin()) continue;
      const MendedVisit& visit = *(after - 1);
      if (pair.visit.start > visit.finish) continue;
      details_.push_back({std::max(pair.visit.start, visit.start),
                          std::min(pair.visit.finish, visit.finish), pair.visit.code,
                          static_cast<std::int32_t>(after - mended_.visits.begin()) - 1});
      continue;
    }
    const std::int32_t visit = mended_.visit_of[at(pair.place)];
    if (visit == kNoVisit) continue;
    if (pair.is_bare) is_silent_[at(pair.visit.row)] = 1;
    if (pair.end_row == kNone) continue;
    const std::int32_t left = pair.visit.discharge_code;
    if (left == kNone) {
      is_silent_[at(pair.end_row)] = 1;
    } else if (pair.visit.finish == mended_.visits[at(visit)].finish) {
      const auto key = [this](const Pair& p) {
        return std::tuple(t_.code_rank[at(p.visit.discharge_code)], p.visit.start);
      };
      std::int32_t& kept = leaving_[at(visit)];
      if (kept == kNone || key(pair) < key(pairs_[at(kept)])) kept = static_cast<std::int32_t>(k);
    }
  }
  for (std::size_t v = 0; v < leaving_.size(); ++v) {
    if (leaving_[v] == kNone) continue;
    const Pair& pair = pairs_[at(leaving_[v])];
    visit_discharge_[v] = pair.visit.discharge_code;
    is_silent_[at(pair.end_row)] = 1;
  }
}

/// The event of a row but for its time and visit.
MendedEvent MedsMender::value_of(std::size_t i) const {
  MendedEvent event;
  if (judged_[i].has_number) event.number = judged_[i].number;
  event.code = t_.event_code[at(rows_.code[begin_ + i])];
  event.text = judged_[i].text;
  event.unit = rows_.unit_of(begin_ + i);
  event.row = static_cast<std::int32_t>(i);
  event.table = rows_.table_of(begin_ + i);
  return event;
}

/// Links the records of codes to visits and makes events of them.
void MedsMender::put_codes(std::vector<MendedEvent>& out) {
  to_link_.clear();
  records_.clear();
  for (std::size_t i = 0; i < judged_.size(); ++i) {
    if (!is_code_event(i)) continue;
    to_link_.push_back(static_cast<std::int32_t>(i));
    records_.push_back(
        {rows_.time[begin_ + i], v_.is_explicit ? visit_of_row(i) : kNoVisit, false});
  }
  artificial_.clear();
  if (v_.has_visits) {
    linker_.link(mended_.visits, records_, judge_.death(), links_, artificial_);
  } else {
    links_.assign(records_.size(), {});
  }
  visit_number_ = number_visits(mended_.visits, artificial_);
  const std::int64_t death = judge_.death();
  for (std::size_t k = 0; k < records_.size(); ++k) {
    const std::size_t i = at(to_link_[k]);
    JudgedRow& row = judged_[i];
    const Link link = links_[k];
    const std::int64_t said = rows_.available_of(begin_ + i);
    std::int64_t available = said == kNullUs ? records_[k].time : said;
    if (link.how < LinkHow::kArtificial) {
      const MendedVisit& visit = mended_.visits[at(link.visit)];
      available = std::min(std::max(available, visit.start), visit.finish);
    }
    if (death != kNullUs) available = std::min(available, death);
    if (link.how == LinkHow::kArtificial) row.changes |= bit_of(Change::kArtificialVisit);
    if (v_.is_explicit && link.how == LinkHow::kClamped) {
      row.changes |= bit_of(Change::kClampedToVisit);
    }
    if (v_.is_explicit && link.how == LinkHow::kRelinked) {
      row.changes |= bit_of(Change::kRelinkedByDate);
    }
    MendedEvent& event = out.emplace_back(value_of(i));
    event.time = records_[k].time;
    event.available = available;
    if (link.visit != kNoVisit) event.visit_id = visit_number_[at(link.visit)];
  }
}

/// Events about the subject: no value, and a time only for birth and death.
void MedsMender::put_facts(std::vector<MendedEvent>& out) const {
  for (std::size_t i = 0; i < judged_.size(); ++i) {
    const JudgedRow& row = judged_[i];
    if (row.gone != Removal::kKept) continue;
    if (row.role > Role::kStatic && row.role != Role::kDeath) continue;
    MendedEvent& event = out.emplace_back();
    if (row.role == Role::kBirth) event.time = judge_.birth();
    if (row.role == Role::kDeath) event.time = judge_.death();
    event.available = event.time;
    event.code = t_.event_code[at(rows_.code[begin_ + i])];
    event.row = static_cast<std::int32_t>(i);
    event.table = rows_.table_of(begin_ + i);
    event.role = row.role;
  }
}

/// Visits, where they left the subject, and their details.
void MedsMender::put_visits(std::vector<MendedEvent>& out) const {
  const auto put = [&](Role role, std::uint16_t table, std::int32_t code, std::int64_t time,
                       std::int64_t finish, std::int32_t visit) {
    MendedEvent& event = out.emplace_back();
    event.time = event.available = time;
    event.end_time = finish;
    event.visit_id = visit_number_[at(visit)];
    event.code = code;
    event.table = table;
    event.role = role;
  };
  for (std::size_t v = 0; v < mended_.visits.size(); ++v) {
    const MendedVisit& visit = mended_.visits[v];
    const auto place = static_cast<std::int32_t>(v);
    put(Role::kVisit, t_.visit_table, visit_code_[v], visit.start, visit.finish, place);
    if (visit_discharge_[v] != kNone) {
      put(Role::kDischarge, t_.visit_table, visit_discharge_[v], visit.finish, kNullUs, place);
    }
  }
  for (std::size_t a = 0; a < artificial_.size(); ++a) {
    put(Role::kVisit, t_.visit_table, v_.artificial_code, artificial_[a].start,
        artificial_[a].finish, static_cast<std::int32_t>(mended_.visits.size() + a));
  }
  for (const Detail& detail : details_) {
    put(Role::kDetail, t_.detail_table, detail.code, detail.start, detail.finish, detail.visit);
  }
}

}  // namespace chronoward
