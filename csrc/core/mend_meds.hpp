#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
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

/// An event of a subject.
struct MendedEvent {
  std::int64_t time = kNullUs, available = kNullUs, end_time = kNullUs;
  std::int64_t visit_id = kNullUs;
  double number = std::numeric_limits<double>::quiet_NaN();
  std::int32_t code = kNone;                // event code
  std::int32_t text = kNone, unit = kNone;  // of the row
  std::int32_t row = kNone;  // the row's place in its subject, kNone for one made here
  std::uint16_t table = 0;
  Role role = Role::kCode;
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
             const MedsVisits& visits);

  /// Judges rows [begin, end), one subject's, and mends its visits.
  void judge(std::size_t begin, std::size_t end, bool is_excluded);

  /// Appends the events of codes with a number or a text, without their times and visits, of the
  /// rows judged last.
  void put_values(std::vector<MendedEvent>& out) const;

  /// Links the rows judged last to visits; appends all events of the subject, in no order.
  void put_linked(std::vector<MendedEvent>& out) {
    put_codes(out);
    put_facts(out);
    put_visits(out);
  }

  /// What became of the rows judged last.
  const std::vector<JudgedRow>& rows() const { return judged_; }

  const VisitFacts& facts() const { return facts_; }

 private:
  /// A visit as its rows tell it.
  /// In an order that does not hang on that of the rows, so that ties are broken by what they say.
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
  void find_bounds();
  void stage_pattern(const CodePattern& pattern);
  void stage_pairs();
  SourceVisit placed(std::size_t place, std::uint32_t& changes) const;
  void take_explicit();
  void mend_staged();
  void settle_columns();
  void close_patterns();
  bool is_code_event(std::size_t i) const {
    const JudgedRow& row = judged_[i];
    return row.role == Role::kCode && row.gone == Removal::kKept && is_silent_[i] == 0;
  }
  MendedEvent value_of(std::size_t i) const;
  void put_codes(std::vector<MendedEvent>& out);
  void put_facts(std::vector<MendedEvent>& out) const;
  void put_visits(std::vector<MendedEvent>& out) const;
  std::int32_t staged_of(std::int64_t ref) const;
  std::int32_t visit_of_row(std::size_t i) const;

  const MedsRows& rows_;
  const MedsTables& t_;
  const MedsVisits& v_;
  Judge judge_;
  VisitMender mender_;
  RecordLinker linker_;
  VisitFacts facts_;
  std::vector<std::uint8_t> is_bound_;  // by code: opens or closes a visit by some pattern

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
  std::vector<std::int32_t> bounds_;     // rows that open or close a visit by some pattern
  std::vector<std::uint8_t> is_silent_;  // of each row
  std::vector<std::int32_t> marks_;      // rows or staged visits in order of time
  std::vector<std::int32_t> leaving_;    // pair that says where the subject went, of each visit
  std::vector<std::int32_t> to_link_;
  std::vector<RecordToLink> records_;
  std::vector<Link> links_;
  std::vector<ArtificialVisit> artificial_;
  std::vector<std::int32_t> visit_number_;
};

}  // namespace chronoward
