#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/judge.hpp"
#include "core/links.hpp"
#include "core/visits.hpp"

namespace chronoward {

/// A pair of codes that open and close a visit (chronoward/data/config.py, `VisitPattern`).
struct CodePattern {
  std::vector<std::uint8_t> opens, closes;  // by code
  std::vector<std::int32_t> visit_code;     // by code that opens: event code of the visit
  bool closes_itself = false;               // the opening row's own end closes it
  bool is_detail = false;
};

/// How a source tells its visits; the flags are facts about all of its subjects.
struct MedsVisits {
  bool is_explicit = false;       // rows of visit_occurrence are visits
  bool is_disjoint = false;       // explicit ones never overlap: taken as they are
  bool has_visits = false;        // somebody has one
  bool is_midnight_date = false;  // a visit's 00:00:00 means a date without a time
  std::vector<CodePattern> patterns;
  std::span<const std::int32_t> discharge_code;  // by code that closes: event code, or kNone
  std::span<const std::uint8_t> is_bare;         // by code: nothing follows its prefix
  std::span<const std::uint8_t> visit_class;     // VisitClass by event code
  std::int32_t stay_code = kNone;                // Visit/IP
  std::int32_t artificial_code = kNone;          // Visit/0
  VisitRules rules;
};

/// Events of many subjects, in no order inside a subject; (n_events,) each.
struct MendedEvents {
  std::vector<std::int64_t> subject;  // place among the subjects
  std::vector<std::int64_t> time, available, end_time, visit_id;
  std::vector<std::uint8_t> role;
  std::vector<std::uint16_t> table;
  std::vector<std::int32_t> code, text, unit;  // event code; text and unit of the row
  std::vector<double> number;                  // NaN for none
  std::vector<std::int64_t> row;               // source row, kNone for visits made here

  void reserve(std::size_t n);
};

/// What became of each row: the ledger.
struct RowFates {
  std::vector<std::uint8_t> gone;      // Removal
  std::vector<std::uint32_t> changes;  // bits of Change, 0 where gone
};

/// Numbers about a source's visits, summed over subjects.
struct VisitFacts {
  std::int64_t n_explicit = 0;  // rows that are visits
  std::int64_t n_overlaps = 0;  // of them, that start before an earlier one ends
  std::int64_t n_staged = 0;    // visits before they are mended
  std::int64_t n_midnight = 0;  // of them, that start at 00:00:00
  std::int64_t n_visits = 0;    // after that, without artificial ones
};

/// Makes a MEDS source's rows into events, a subject at a time.
///
/// The rules are those of chronoward/data/rules.py; what needs other subjects (the flags of
/// `MedsVisits`, units that are assumed, categories that are rare) is found by a first pass.
class MedsMender {
 public:
  MedsMender(const MedsRows& rows, const MedsTables& tables, const JudgeRules& rules,
             const MedsVisits& visits)
      : rows_(rows), t_(tables), v_(visits), judge_(rows, tables, rules), mender_(visits.rules) {}

  /// Appends the events of rows [begin, end), one subject's; fates are written at those rows.
  void mend(std::int64_t subject, std::size_t begin, std::size_t end, bool is_excluded,
            MendedEvents& out, RowFates& fates);

  const VisitFacts& facts() const { return facts_; }

 private:
  /// A visit as its rows tell it.
  struct Staged {
    std::int32_t row = kNone;  // that starts it, a place in the subject's rows
    std::int32_t code = kNone, discharge_code = kNone;
    std::int64_t start = 0, finish = kNullUs;
  };
  /// An opening row and what closes it.
  struct Pair {
    Staged visit;
    std::int32_t end_row = kNone;
    std::int32_t place = kNone;  // among the staged visits; kNone for a detail
    bool is_bare = false;
  };
  struct Detail {
    std::int64_t start = 0, finish = 0;
    std::int32_t code = kNone, visit = kNoVisit;
  };

  void stage_explicit();
  void stage_pattern(const CodePattern& pattern);
  void stage_pairs();
  SourceVisit placed(const Staged& visit, std::uint32_t& changes) const;
  void take_explicit();
  void mend_staged();
  void settle_columns();
  void close_patterns();
  void put_events(std::int64_t subject, MendedEvents& out);
  void put_row(std::int64_t subject, std::int32_t i, std::int64_t time, std::int64_t available,
               MendedEvents& out) const;
  void put_fact(std::int64_t subject, std::int32_t i, std::int64_t time, MendedEvents& out) const;
  std::int32_t staged_of(std::int64_t ref) const;
  std::int32_t visit_of_row(std::size_t i) const;

  const MedsRows& rows_;
  const MedsTables& t_;
  const MedsVisits& v_;
  Judge judge_;
  VisitMender mender_;
  RecordLinker linker_;
  VisitFacts facts_;

  std::size_t begin_ = 0;
  std::vector<JudgedRow> judged_;
  std::vector<Staged> staged_;
  std::vector<Pair> pairs_;
  std::vector<SourceVisit> sources_;
  std::vector<std::uint32_t> staged_changes_;
  std::vector<LinkedRecord> linked_;
  MendedVisits mended_;
  std::vector<std::int32_t> visit_code_, visit_discharge_;     // of each mended visit
  std::vector<std::pair<std::int64_t, std::int32_t>> by_ref_;  // visit id -> place in staged_
  std::vector<Detail> details_;
  std::vector<std::uint8_t> is_silent_;  // of each row
  std::vector<std::int32_t> marks_;      // rows or staged visits in order of time
  std::vector<std::int32_t> leaving_;    // pair that says where the subject went, of each visit
  std::vector<std::int32_t> to_link_;
  std::vector<RecordToLink> records_;
  std::vector<Link> links_;
  std::vector<ArtificialVisit> artificial_;
};

/// Whole subjects of a source: subject i owns rows offsets[i] .. offsets[i + 1].
struct MedsSubjects {
  std::span<const std::int64_t> offsets;
  std::span<const std::uint8_t> is_excluded;
};

/// Mends all subjects; neither events nor fates depend on `n_threads`.
///
/// @param fates one a row, filled.
/// @throws std::invalid_argument columns that do not fit each other, or a number out of range.
MendedEvents mend_meds(const MedsSubjects& subjects, const MedsRows& rows, const MedsTables& tables,
                       const JudgeRules& rules, const MedsVisits& visits, int n_threads,
                       RowFates& fates, VisitFacts& facts);

}  // namespace chronoward
