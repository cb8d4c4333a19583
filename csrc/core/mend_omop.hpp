#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/judge_omop.hpp"
#include "core/links.hpp"
#include "core/mend_meds.hpp"
#include "core/visits.hpp"

namespace chronoward {

/// A subject's visits as they are in the end, and which of them a source's visit became.
struct VisitsOfSubject {
  std::span<const MendedVisit> visits;   // disjoint, in order of start
  std::span<const std::int64_t> ref;     // ids of source visits, ascending
  std::span<const std::int32_t> became;  // of each: place in `visits`
};

/// Makes clinical records into events, a subject at a time (chronoward/data/rules.py).
class OmopMender {
 public:
  /// @param has_visits whether anybody has one.
  OmopMender(const OmopRows& rows, const OmopTables& tables, const OmopRules& rules,
             bool has_visits)
      : rows_(rows),
        t_(tables),
        rules_(rules),
        has_visits_(has_visits),
        judge_(rows, tables, rules) {}

  /// Applies the rules that need no visit to rows [begin, end), one subject's.
  void judge(std::size_t begin, std::size_t end, const Life& life);

  /// Appends the events with a value of the records judged last, before visits and values are
  /// resolved.
  void put_values(std::vector<MendedEvent>& out);

  /// Links the records judged last to visits; appends their events and artificial visits.
  void put_linked(const VisitsOfSubject& visits, std::vector<MendedEvent>& out);

  /// What became of the rows judged last.
  const std::vector<JudgedRecord>& records() const { return judged_; }

  /// By place of a visit of the subject linked last: its number among all of its visits.
  const std::vector<std::int32_t>& visit_numbers() const { return visit_number_; }

  /// By concept number and table, row by row: whether it named an event.
  const std::vector<std::uint8_t>& named() const { return is_named_; }

 private:
  std::int32_t used_concept(std::size_t row, std::uint32_t& changes) const;
  bool is_billed(std::size_t row) const;
  std::int64_t available(std::size_t i, const Link& link, const VisitsOfSubject& visits);
  void put_record(std::size_t i, const MendedEvent& base, std::vector<MendedEvent>& out);
  void mark(std::uint16_t table, std::int32_t id);

  const OmopRows& rows_;
  const OmopTables& t_;
  const OmopRules& rules_;
  bool has_visits_;
  RecordJudge judge_;
  RecordLinker linker_;
  std::size_t begin_ = 0;
  Life life_;
  std::vector<JudgedRecord> judged_;
  std::vector<std::int32_t> to_link_;
  std::vector<RecordToLink> records_;
  std::vector<Link> links_;
  std::vector<ArtificialVisit> artificial_;
  std::vector<std::int32_t> visit_number_;
  std::vector<std::uint8_t> is_named_;
};

}  // namespace chronoward
