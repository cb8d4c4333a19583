#include "core/event_piece.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <utility>

#include "core/event_columns.hpp"

namespace chronoward {
namespace {

std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }

void require(bool is_good, const char* what) {
  if (!is_good) throw std::invalid_argument(what);
}

template <typename T>
bool is_within(std::span<const T> values, std::int64_t least, std::size_t n) {
  return std::all_of(values.begin(), values.end(), [=](T x) {
    return static_cast<std::int64_t>(x) >= least &&
           static_cast<std::int64_t>(x) < static_cast<std::int64_t>(n);
  });
}

/// Judges each subject's rows and calls fn(mender, subject).
template <typename Fn>
VisitFacts for_subjects(const MedsSubjects& subjects, const MedsRows& rows,
                        const MendingRules& rules, const Fn& fn) {
  MedsMender mender(rows, rules.tables, rules.judge, rules.visits);
  for (std::size_t i = 0; i < subjects.is_excluded.size(); ++i) {
    mender.judge(static_cast<std::size_t>(subjects.offsets[i]),
                 static_cast<std::size_t>(subjects.offsets[i + 1]), subjects.is_excluded[i] != 0);
    fn(mender, i);
  }
  return mender.facts();
}

}  // namespace

void check_meds(const MedsSubjects& s, const MedsRows& r, const MendingRules& rules) {
  const MedsTables& t = rules.tables;
  const MedsVisits& v = rules.visits;
  const std::size_t n = r.time.size(), n_codes = t.code_kind.size(), n_texts = t.text_kind.size();
  require(!s.offsets.empty() && s.offsets.front() == 0 &&
              static_cast<std::size_t>(s.offsets.back()) == n &&
              std::is_sorted(s.offsets.begin(), s.offsets.end()) &&
              s.is_excluded.size() + 1 == s.offsets.size(),
          "offsets of subjects must rise from 0 to the number of rows");
  require(n < std::numeric_limits<std::uint32_t>::max(), "too many rows at once");
  const auto fits = [n](std::size_t size) { return size == 0 || size == n; };
  require(fits(r.end_time.size()) && fits(r.available.size()) && r.code.size() == n &&
              fits(r.text.size()) && fits(r.unit.size()) &&
              r.number.size() == r.has_number.size() && fits(r.has_number.size()) &&
              fits(r.visit_ref.size()) && fits(r.table.size()),
          "columns of rows must have one length");
  require(t.event_code.size() == n_codes && t.is_visit_code.size() == n_codes &&
              t.is_discharge_code.size() == n_codes && v.discharge_code.size() == n_codes &&
              v.is_bare.size() == n_codes,
          "tables of codes must have one length");
  require(t.text_number.size() == n_texts && t.text_category.size() == n_texts &&
              t.is_fixed_text.size() == n_texts,
          "tables of texts must have one length");
  require(is_within(r.code, kNone, n_codes) && is_within(r.text, kNone, n_texts),
          "a row's code or text is out of range");
  const std::size_t n_events = t.code_rank.size();
  require(v.visit_class.size() == n_events && is_within(t.event_code, 0, n_events) &&
              is_within(v.discharge_code, kNone, n_events) &&
              is_within(std::span(&v.stay_code, 1), kNone, n_events),
          "an event code is out of range");
  for (const CodePattern& pattern : v.patterns) {
    require(pattern.opens.size() == n_codes && pattern.closes.size() == n_codes &&
                pattern.visit_code.size() == n_codes &&
                is_within(std::span<const std::int32_t>(pattern.visit_code), kNone, n_events),
            "tables of a pattern must have one entry a code");
  }
}

VisitFacts survey(const MedsSubjects& subjects, const MedsRows& rows, const MendingRules& rules,
                  Spares<ValueCounts>& counts) {
  check_meds(subjects, rows, rules);
  VisitFacts facts;
  std::vector<MendedEvent> events;
  counts.lend([&](ValueCounts& mine) {
    facts = for_subjects(subjects, rows, rules, [&](const MedsMender& mender, std::size_t /*i*/) {
      events.clear();
      mender.put_values(events);
      mine.add(events, rules.tables.is_fixed_text);
    });
  });
  return facts;
}

UnitValues unit_values(const MedsSubjects& subjects, const MedsRows& rows,
                       const MendingRules& rules, std::span<const std::uint8_t> is_chosen) {
  check_meds(subjects, rows, rules);
  const std::size_t n_codes = rules.tables.code_rank.size();
  const std::size_t n_tables = is_chosen.size() / std::max(n_codes, std::size_t{1});
  require(n_tables * n_codes == is_chosen.size() && is_within(rows.table, 0, n_tables) &&
              is_within(std::span(&rows.no_table, 1), 0, n_tables),
          "is_chosen must have one entry a table and code");
  ChosenNumbers numbers(is_chosen, n_codes);
  std::vector<MendedEvent> events;
  for_subjects(subjects, rows, rules, [&](const MedsMender& mender, std::size_t /*i*/) {
    events.clear();
    mender.put_values(events);
    numbers.add(events);
  });
  return numbers.by_unit();
}

EventPieces::EventPieces(ValueRules values, TextRanks ranks, const KnownCodes& known,
                         std::size_t n_codes)
    : values_(std::move(values)),
      ranks_(std::move(ranks)),
      facts_(EventFacts(ranks_.table.size(), n_codes, known)) {}

/// Appends a subject's events, resolved; they are put in order and their texts replaced by ranks.
void EventPieces::put(std::vector<MendedEvent>& events, std::int64_t subject_id,
                      const MendingRules& rules, EventFacts& facts, EventPiece& out) const {
  for (MendedEvent& event : events) {
    event.table = static_cast<std::uint16_t>(ranks_.table[event.table]);
    event.code = rules.tables.code_rank[at(event.code)];
    if (event.unit != kNone) event.unit = ranks_.unit[at(event.unit)];
    if (event.text != kNone) event.text = ranks_.text[at(event.text)];
  }
  sort_events(events);
  facts.add(subject_id, events);
  append_events(subject_id, events, !ranks_.unit.empty(), !ranks_.text.empty(),
                rules.visits.has_visits, out);
}

EventPiece EventPieces::make(const MedsSubjects& subjects, std::span<const std::int64_t> subject_id,
                             const MedsRows& rows, const MendingRules& rules, RowFates& fates) {
  check_meds(subjects, rows, rules);
  require(subject_id.size() == subjects.is_excluded.size(), "a subject has no id");
  fates.gone.assign(rows.time.size(), 0);
  fates.changes.assign(rows.time.size(), 0);
  EventPiece out;
  reserve_events(rows.time.size(), !ranks_.unit.empty(), !ranks_.text.empty(),
                 rules.visits.has_visits, out);
  std::vector<MendedEvent> events;
  facts_.lend([&](EventFacts& facts) {
    for_subjects(subjects, rows, rules, [&](MedsMender& mender, std::size_t i) {
      events.clear();
      mender.put_linked(events);
      const auto first = static_cast<std::size_t>(subjects.offsets[i]);
      for (std::size_t k = 0; k < mender.rows().size(); ++k) {
        const JudgedRow& row = mender.rows()[k];
        fates.gone[first + k] = static_cast<std::uint8_t>(row.gone);
        if (row.gone == Removal::kKept) fates.changes[first + k] = row.changes;
      }
      for (MendedEvent& event : events) {
        if (event.role != Role::kCode) {
          event.text = event.unit = kNone;
          continue;
        }
        fates.changes[first + at(event.row)] |= values_.resolve(event);
      }
      put(events, subject_id[i], rules, facts, out);
    });
  });
  return out;
}

}  // namespace chronoward
