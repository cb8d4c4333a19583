#include "core/omop_piece.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "core/event_columns.hpp"

namespace chronoward {
namespace {

std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }
std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

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

bool are_offsets(std::span<const std::int64_t> offsets, std::size_t n_subjects, std::size_t n) {
  return offsets.size() == n_subjects + 1 && offsets.front() == 0 && at(offsets.back()) == n &&
         std::is_sorted(offsets.begin(), offsets.end());
}

/// Judges each subject's records and calls fn(subject).
template <typename Fn>
void for_subjects(const OmopSubjects& subjects, OmopMender& mender, const Fn& fn) {
  for (std::size_t i = 0; i < subjects.subject_id.size(); ++i) {
    mender.judge(at(subjects.offsets[i]), at(subjects.offsets[i + 1]),
                 {subjects.birth[i], subjects.death[i]});
    fn(i);
  }
}

template <typename T>
std::span<const T> part_of(std::span<const T> values, std::span<const std::int64_t> offsets,
                           std::size_t i) {
  return values.subspan(at(offsets[i]), at(offsets[i + 1] - offsets[i]));
}

/// The last times of the records that are linked to subject i's visits.
void find_extents(const StagedVisits& visits, std::size_t i, std::size_t first,
                  const std::vector<JudgedRecord>& records, const OmopRows& rows,
                  VisitExtents& out) {
  const auto refs = part_of(visits.ref, visits.offsets, i);
  if (refs.empty() || rows.visit_ref.empty()) return;
  for (std::size_t k = 0; k < records.size(); ++k) {
    const JudgedRecord& record = records[k];
    const std::int64_t ref = rows.visit_ref[first + k];
    if (record.gone != RecordRemoval::kKept || ref == kNullUs) continue;
    const auto found = std::lower_bound(refs.begin(), refs.end(), ref);
    if (found == refs.end() || *found != ref) continue;
    const std::size_t v = at(visits.offsets[i]) + static_cast<std::size_t>(found - refs.begin());
    if (!record.is_date) {
      out.last_any[v] = std::max(out.last_any[v], record.time);
    } else if (record.time > day_of(visits.start[v])) {
      out.last_any[v] = std::max(out.last_any[v], record.time + kDayEndUs);
    }
    const std::int64_t finish = visits.finish[v];
    if (!record.is_date && visits.ends_as_date[v] == 0 && finish != kNullUs &&
        record.time > finish && day_of(record.time) == day_of(finish)) {
      out.last_same_day[v] = std::max(out.last_same_day[v], record.time);
    }
  }
}

/// Types of a subject's kept drug records.
void find_drug_types(std::size_t first, const std::vector<JudgedRecord>& records,
                     const OmopRows& rows, const OmopTables& tables, std::set<std::int32_t>& out) {
  std::int32_t last = kNone;
  for (std::size_t k = 0; k < records.size(); ++k) {
    if (rows.table[first + k] != tables.drug_table) continue;
    const std::int32_t type = OmopRows::number_at(rows.type, first + k);
    if (type == kNone || type == last || records[k].gone != RecordRemoval::kKept) continue;
    out.insert(type);
    last = type;
  }
}

void keep_fates(const std::vector<JudgedRecord>& records, std::size_t first, RecordFates& fates) {
  for (std::size_t k = 0; k < records.size(); ++k) {
    fates.gone[first + k] = static_cast<std::uint8_t>(records[k].gone);
    if (records[k].gone == RecordRemoval::kKept) fates.changes[first + k] = records[k].changes;
  }
}

}  // namespace

void check_omop(const OmopSubjects& s, const OmopRows& r, const OmopTables& t) {
  const std::size_t n = r.table.size(), n_ids = t.id_value.size(), n_texts = t.text_kind.size();
  const std::size_t n_codes = t.code_rank.size();
  require(are_offsets(s.offsets, s.subject_id.size(), n) && s.birth.size() == s.subject_id.size() &&
              s.death.size() == s.subject_id.size(),
          "offsets of subjects must rise from 0 to the number of rows");
  const auto fits = [n](std::size_t size) { return size == 0 || size == n; };
  require(fits(r.order.size()) && r.flags.size() == n && fits(r.moment.size()) &&
              fits(r.day.size()) && fits(r.end_at.size()) && fits(r.end_day.size()) &&
              fits(r.concept_id.size()) && fits(r.source_concept.size()) && fits(r.type.size()) &&
              fits(r.status.size()) && fits(r.value_concept.size()) && fits(r.operator_id.size()) &&
              fits(r.source_value.size()) && fits(r.text.size()) && fits(r.unit.size()) &&
              fits(r.visit_ref.size()) && fits(r.number.size()),
          "columns of rows must have one length");
  for (const auto& ids :
       {r.concept_id, r.source_concept, r.type, r.status, r.value_concept, r.operator_id}) {
    require(is_within(ids, kNone, n_ids), "a row's concept is out of range");
  }
  require(
      is_within(r.text, kNone, n_texts) && is_within(r.source_value, kNone, t.source_code.size()),
      "a row's text is out of range");
  require(t.id_flags.size() == n_ids && is_within(t.id_code, 0, n_codes) &&
              t.id_code.size() == n_ids && t.id_text.size() == n_ids &&
              is_within(t.id_text, kNone, n_texts) && is_within(t.part_id, 0, n_ids) &&
              are_offsets(t.part_offsets, n_ids, t.part_id.size()),
          "tables of concepts must have one entry a concept");
  require(t.text_number.size() == n_texts && t.text_category.size() == n_texts &&
              t.is_fixed_text.size() == n_texts && is_within(t.text_category, 0, n_texts) &&
              is_within(t.source_code, kNone, n_codes) &&
              is_within(std::span(&t.no_code, 1), 0, n_codes),
          "tables of texts must have one entry a text");
  const std::size_t n_tables = t.is_date_type.size() / (n_ids + 1);
  require(is_within(r.table, 0, n_tables), "a row's table is out of range");
  require(
      r.number.size() == n || std::none_of(r.flags.begin(), r.flags.end(),
                                           [](std::uint8_t f) { return (f & kHasNumber) != 0; }),
      "a row's number is missing");
}

OmopPieces::OmopPieces(const OmopTables& tables, const OmopRules& rules)
    : t_(tables), rules_(rules), counts_(ValueCounts()), values_({}, {}) {}

VisitExtents OmopPieces::survey(const OmopSubjects& subjects, const OmopRows& rows,
                                const StagedVisits& visits) {
  check_omop(subjects, rows, t_);
  require(are_offsets(visits.offsets, subjects.subject_id.size(), visits.ref.size()) &&
              visits.start.size() == visits.ref.size() &&
              visits.finish.size() == visits.ref.size() &&
              visits.ends_as_date.size() == visits.ref.size(),
          "columns of visits must have one length");
  VisitExtents out{.last_any = std::vector<std::int64_t>(visits.ref.size(), kNullUs),
                   .last_same_day = std::vector<std::int64_t>(visits.ref.size(), kNullUs)};
  OmopMender mender(rows, t_, rules_, false);
  std::vector<MendedEvent> events;
  std::set<std::int32_t> drug_types;
  counts_.lend([&](ValueCounts& counts) {
    for_subjects(subjects, mender, [&](std::size_t i) {
      const std::size_t first = at(subjects.offsets[i]);
      find_extents(visits, i, first, mender.records(), rows, out);
      find_drug_types(first, mender.records(), rows, t_, drug_types);
      events.clear();
      mender.put_values(events);
      counts.add(events, t_.is_fixed_text);
    });
  });
  const std::lock_guard lock(mutex_);
  drug_types_.merge(drug_types);
  return out;
}

UnitValues OmopPieces::unit_values(const OmopSubjects& subjects, const OmopRows& rows,
                                   std::span<const std::uint8_t> is_chosen) const {
  check_omop(subjects, rows, t_);
  const std::size_t n_codes = t_.code_rank.size();
  require(is_chosen.size() == n_codes * (t_.is_date_type.size() / (t_.id_value.size() + 1)),
          "is_chosen must have one entry a table and code");
  ChosenNumbers numbers(is_chosen, n_codes);
  OmopMender mender(rows, t_, rules_, false);
  std::vector<MendedEvent> events;
  for_subjects(subjects, mender, [&](std::size_t) {
    events.clear();
    mender.put_values(events);
    numbers.add(events);
  });
  return numbers.by_unit();
}

void OmopPieces::set_values(ValueRules values, std::vector<std::int32_t> unit_rank,
                            std::vector<std::int32_t> text_rank, const KnownCodes& known,
                            bool has_visits) {
  values_ = std::move(values);
  unit_rank_ = std::move(unit_rank);
  text_rank_ = std::move(text_rank);
  has_visits_ = has_visits;
  const std::size_t n_tables = t_.is_date_type.size() / (t_.id_value.size() + 1);
  facts_.emplace(EventFacts(n_tables, t_.code_rank.size(), known));
  is_named_.assign(n_tables * t_.id_value.size(), 0);
}

/// Resolves a code event's unit, number and text.
std::uint32_t OmopPieces::resolve(MendedEvent& event) const {
  const std::uint32_t found = values_.resolve(event);
  std::uint32_t changes = 0;
  const auto take = [&](Change from, RecordChange to) {
    if ((found & bit_of(from)) != 0) changes |= bit_of(to);
  };
  take(Change::kUnitConverted, RecordChange::kUnitConverted);
  take(Change::kUnitAssumed, RecordChange::kUnitAssumed);
  take(Change::kUnitMissing, RecordChange::kUnitMissing);
  take(Change::kTextRare, RecordChange::kTextRare);
  return changes;
}

void OmopPieces::put_others(const OtherEvents& others, std::size_t i,
                            const std::vector<std::int32_t>& number,
                            std::vector<MendedEvent>& events) const {
  for (std::size_t k = at(others.offsets[i]); k < at(others.offsets[i + 1]); ++k) {
    MendedEvent& event = events.emplace_back();
    event.time = others.time[k];
    event.available = others.available[k];
    event.end_time = others.end_time[k];
    event.role = static_cast<Role>(others.role[k]);
    event.table = others.table[k];
    event.code = others.code[k];
    if (others.visit[k] != kNone) event.visit_id = number.at(at(others.visit[k]));
  }
}

/// Texts by their places in byte order.
void OmopPieces::rank(std::vector<MendedEvent>& events) const {
  for (MendedEvent& event : events) {
    event.code = t_.code_rank[at(event.code)];
    if (event.unit != kNone) event.unit = unit_rank_[at(event.unit)];
    if (event.text != kNone) event.text = text_rank_[at(event.text)];
  }
}

EventPiece OmopPieces::make(const OmopSubjects& subjects, const OmopRows& rows,
                            const FinalVisits& visits, const OtherEvents& others,
                            RecordFates& fates) {
  check_omop(subjects, rows, t_);
  const std::size_t n = subjects.subject_id.size();
  require(facts_.has_value(), "values come before events");
  require(rows.order.size() == rows.table.size(), "events need the order of rows");
  require(are_offsets(visits.offsets, n, visits.start.size()) &&
              visits.finish.size() == visits.start.size() &&
              visits.is_timed.size() == visits.start.size() &&
              are_offsets(visits.ref_offsets, n, visits.ref.size()) &&
              visits.became.size() == visits.ref.size(),
          "columns of visits must have one length");
  require(
      are_offsets(others.offsets, n, others.time.size()) &&
          others.available.size() == others.time.size() &&
          others.end_time.size() == others.time.size() &&
          others.role.size() == others.time.size() && others.table.size() == others.time.size() &&
          others.code.size() == others.time.size() && others.visit.size() == others.time.size() &&
          is_within(others.code, 0, t_.code_rank.size()) && is_within(others.role, 0, kRoles),
      "columns of other events must have one length");
  fates.gone.assign(rows.table.size(), 0);
  fates.changes.assign(rows.table.size(), 0);
  EventPiece out;
  reserve_events(rows.table.size() + others.time.size(), !unit_rank_.empty(), !text_rank_.empty(),
                 has_visits_, out);
  OmopMender mender(rows, t_, rules_, has_visits_);
  std::vector<MendedEvent> events;
  std::vector<MendedVisit> mended;
  facts_->lend([&](EventFacts& facts) {
    for_subjects(subjects, mender, [&](std::size_t i) {
      events.clear();
      mended.clear();
      for (std::size_t v = at(visits.offsets[i]); v < at(visits.offsets[i + 1]); ++v) {
        mended.push_back({.start = visits.start[v],
                          .finish = visits.finish[v],
                          .is_timed = visits.is_timed[v] != 0});
      }
      const auto became = part_of(visits.became, visits.ref_offsets, i);
      require(is_within(became, 0, mended.size()), "a visit became one that is not there");
      mender.put_linked({mended, part_of(visits.ref, visits.ref_offsets, i), became}, events);
      keep_fates(mender.records(), at(subjects.offsets[i]), fates);
      for (MendedEvent& event : events) {
        if (event.role == Role::kCode) {
          fates.changes[at(subjects.offsets[i]) + at(event.row)] |= resolve(event);
        }
      }
      put_others(others, i, mender.visit_numbers(), events);
      rank(events);
      sort_events(events);
      facts.add(subjects.subject_id[i], events);
      append_events(subjects.subject_id[i], events, !unit_rank_.empty(), !text_rank_.empty(),
                    has_visits_, out);
    });
  });
  const std::lock_guard lock(mutex_);
  for (std::size_t k = 0; k < mender.named().size(); ++k) is_named_[k] |= mender.named()[k];
  return out;
}

EventFactColumns OmopPieces::facts() const {
  return facts_ ? EventFacts::join(facts_->all()) : EventFactColumns();
}

std::vector<std::int64_t> OmopPieces::named(bool tables) const {
  std::vector<std::int64_t> out;
  const std::size_t n = t_.id_value.size();
  for (std::size_t k = 0; k < is_named_.size(); ++k) {
    if (is_named_[k] != 0) out.push_back(static_cast<std::int64_t>(tables ? k / n : k % n));
  }
  return out;
}

}  // namespace chronoward
