#include <algorithm>
#include <stdexcept>
#include <utility>

#include "core/mend_meds.hpp"
#include "core/parallel.hpp"

namespace chronoward {
namespace {

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

void check(const MedsSubjects& s, const MedsRows& r, const MedsTables& t, const MedsVisits& v) {
  const std::size_t n = r.time.size(), n_codes = t.code_kind.size(), n_texts = t.text_kind.size();
  require(!s.offsets.empty() && s.offsets.front() == 0 &&
              static_cast<std::size_t>(s.offsets.back()) == n &&
              std::is_sorted(s.offsets.begin(), s.offsets.end()) &&
              s.is_excluded.size() + 1 == s.offsets.size(),
          "offsets of subjects must rise from 0 to the number of rows");
  require(r.end_time.size() == n && r.available.size() == n && r.code.size() == n &&
              r.text.size() == n && r.unit.size() == n && r.number.size() == n &&
              r.has_number.size() == n && r.visit_ref.size() == n && r.table.size() == n,
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

template <typename T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

}  // namespace

MendedEvents mend_meds(const MedsSubjects& subjects, const MedsRows& rows, const MedsTables& tables,
                       const JudgeRules& rules, const MedsVisits& visits, int n_threads,
                       RowFates& fates, VisitFacts& facts) {
  check(subjects, rows, tables, visits);
  fates.gone.assign(rows.time.size(), 0);
  fates.changes.assign(rows.time.size(), 0);
  const auto n_parts = static_cast<std::size_t>(std::max(1, n_threads));
  std::vector<MendedEvents> parts(n_parts);
  std::vector<VisitFacts> part_facts(n_parts);
  parallel_for(subjects.is_excluded.size(), n_threads,
               [&](std::size_t begin, std::size_t end, std::size_t part) {
                 MedsMender mender(rows, tables, rules, visits);
                 parts[part].reserve(
                     static_cast<std::size_t>(subjects.offsets[end] - subjects.offsets[begin]));
                 for (std::size_t i = begin; i < end; ++i) {
                   mender.mend(static_cast<std::int64_t>(i),
                               static_cast<std::size_t>(subjects.offsets[i]),
                               static_cast<std::size_t>(subjects.offsets[i + 1]),
                               subjects.is_excluded[i] != 0, parts[part], fates);
                 }
                 part_facts[part] = mender.facts();
               });
  MendedEvents out = std::move(parts.front());
  facts = part_facts.front();
  for (std::size_t p = 1; p < n_parts; ++p) {
    const MendedEvents& part = parts[p];
    append(out.subject, part.subject);
    append(out.time, part.time);
    append(out.available, part.available);
    append(out.end_time, part.end_time);
    append(out.visit_id, part.visit_id);
    append(out.role, part.role);
    append(out.table, part.table);
    append(out.code, part.code);
    append(out.text, part.text);
    append(out.unit, part.unit);
    append(out.number, part.number);
    append(out.row, part.row);
    facts.n_explicit += part_facts[p].n_explicit;
    facts.n_overlaps += part_facts[p].n_overlaps;
    facts.n_staged += part_facts[p].n_staged;
    facts.n_midnight += part_facts[p].n_midnight;
    facts.n_visits += part_facts[p].n_visits;
  }
  return out;
}

}  // namespace chronoward
