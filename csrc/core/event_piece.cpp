#include "core/event_piece.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "core/event_columns.hpp"
#include "core/parallel.hpp"

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

/// Calls fn(mender, subject, part) for all subjects, a range of them a thread.
template <typename Fn>
std::vector<VisitFacts> for_subjects(const MedsSubjects& subjects, const MedsRows& rows,
                                     const MendingRules& rules, int n_threads, const Fn& fn) {
  std::vector<VisitFacts> facts(static_cast<std::size_t>(std::max(1, n_threads)));
  parallel_for(subjects.is_excluded.size(), n_threads,
               [&](std::size_t begin, std::size_t end, std::size_t part) {
                 MedsMender mender(rows, rules.tables, rules.judge, rules.visits);
                 for (std::size_t i = begin; i < end; ++i) fn(mender, i, part);
                 facts[part] = mender.facts();
               });
  return facts;
}

/// The events of subject i, which the mender was made for.
void mend(MedsMender& mender, const MedsSubjects& subjects, std::size_t i,
          std::vector<MendedEvent>& events) {
  mender.mend(static_cast<std::size_t>(subjects.offsets[i]),
              static_cast<std::size_t>(subjects.offsets[i + 1]), subjects.is_excluded[i] != 0,
              events);
}

VisitFacts sum_of(const std::vector<VisitFacts>& parts) {
  VisitFacts sum;
  for (const VisitFacts& part : parts) {
    sum.n_explicit += part.n_explicit;
    sum.n_overlaps += part.n_overlaps;
    sum.n_staged += part.n_staged;
    sum.n_midnight += part.n_midnight;
    sum.n_visits += part.n_visits;
  }
  return sum;
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
  require(t.text_number.size() == n_texts && t.text_category.size() == n_texts,
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

VisitFacts survey_visits(const MedsSubjects& subjects, const MedsRows& rows,
                         const MendingRules& rules, int n_threads) {
  check_meds(subjects, rows, rules);
  std::vector<std::vector<MendedEvent>> events(static_cast<std::size_t>(std::max(1, n_threads)));
  return sum_of(for_subjects(subjects, rows, rules, n_threads,
                             [&](MedsMender& mender, std::size_t i, std::size_t part) {
                               mend(mender, subjects, i, events[part]);
                             }));
}

CodeEvents code_events(const MedsSubjects& subjects, const MedsRows& rows,
                       const MendingRules& rules, int n_threads) {
  check_meds(subjects, rows, rules);
  const auto n_parts = static_cast<std::size_t>(std::max(1, n_threads));
  std::vector<CodeEvents> parts(n_parts);
  std::vector<std::vector<MendedEvent>> events(n_parts);
  const auto facts = for_subjects(subjects, rows, rules, n_threads,
                                  [&](MedsMender& mender, std::size_t i, std::size_t part) {
                                    mend(mender, subjects, i, events[part]);
                                    CodeEvents& out = parts[part];
                                    for (const MendedEvent& event : events[part]) {
                                      if (event.role != Role::kCode) continue;
                                      out.subject.push_back(static_cast<std::int64_t>(i));
                                      out.table.push_back(event.table);
                                      out.code.push_back(event.code);
                                      out.unit.push_back(event.unit);
                                      out.text.push_back(event.text);
                                      out.number.push_back(event.number);
                                    }
                                  });
  CodeEvents out;
  out.facts = sum_of(facts);
  for (CodeEvents& part : parts) {
    append(out.subject, std::move(part.subject));
    append(out.table, std::move(part.table));
    append(out.code, std::move(part.code));
    append(out.unit, std::move(part.unit));
    append(out.text, std::move(part.text));
    append(out.number, std::move(part.number));
  }
  return out;
}

EventPieces::EventPieces(ValueRules values, TextRanks ranks, const KnownCodes& known,
                         std::size_t n_codes, int n_threads)
    : values_(std::move(values)),
      ranks_(std::move(ranks)),
      facts_(static_cast<std::size_t>(std::max(1, n_threads)),
             EventFacts(ranks_.table.size(), n_codes, known)) {}

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
  std::vector<EventPiece> parts(facts_.size());
  std::vector<std::vector<MendedEvent>> events(facts_.size());
  const auto mend_one = [&](MedsMender& mender, std::size_t i, std::size_t part) {
    std::vector<MendedEvent>& mine = events[part];
    mend(mender, subjects, i, mine);
    const auto first = static_cast<std::size_t>(subjects.offsets[i]);
    for (std::size_t k = 0; k < mender.rows().size(); ++k) {
      const JudgedRow& row = mender.rows()[k];
      fates.gone[first + k] = static_cast<std::uint8_t>(row.gone);
      if (row.gone == Removal::kKept) fates.changes[first + k] = row.changes;
    }
    for (MendedEvent& event : mine) {
      if (event.role != Role::kCode) {
        event.text = event.unit = kNone;
        continue;
      }
      fates.changes[first + at(event.row)] |= values_.resolve(event);
    }
    put(mine, subject_id[i], rules, facts_[part], parts[part]);
  };
  for_subjects(subjects, rows, rules, static_cast<int>(facts_.size()), mend_one);
  return join_pieces(std::move(parts));
}

}  // namespace chronoward
