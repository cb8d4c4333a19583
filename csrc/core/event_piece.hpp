#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/event_facts.hpp"
#include "core/mend_meds.hpp"
#include "core/spares.hpp"
#include "core/value_counts.hpp"
#include "core/value_rules.hpp"

namespace chronoward {

/// Whole subjects of a source: subject i owns rows offsets[i] .. offsets[i + 1].
struct MedsSubjects {
  std::span<const std::int64_t> offsets;
  std::span<const std::uint8_t> is_excluded;
};

/// Everything that mending a subject hangs on.
struct MendingRules {
  const MedsTables& tables;
  const JudgeRules& judge;
  const MedsVisits& visits;
};

/// Columns that do not fit each other, or a number out of range, stop a source here.
///
/// @throws std::invalid_argument one does.
void check_meds(const MedsSubjects& subjects, const MedsRows& rows, const MendingRules& rules);

/// First pass: facts about visits; values are added to the counts. Several calls may run at once,
/// each with subjects that no other has.
VisitFacts survey(const MedsSubjects& subjects, const MedsRows& rows, const MendingRules& rules,
                  Spares<ValueCounts>& counts);

/// Between: numbers of the chosen pairs of table and code.
///
/// @param is_chosen (n_tables * n_codes,), where codes are those of events.
UnitValues unit_values(const MedsSubjects& subjects, const MedsRows& rows,
                       const MendingRules& rules, std::span<const std::uint8_t> is_chosen);

/// By number of a table, unit name or text: its place in byte order. Codes have theirs in
/// `MedsTables::code_rank`.
struct TextRanks {
  std::vector<std::int32_t> table, unit, text;
};

/// Events of many subjects in canonical order (chronoward/schema.py), texts as places in byte
/// order; (n_events,) each. Columns that no event of the source can have are empty.
struct EventPiece {
  std::vector<std::int64_t> subject_id, time, available;
  std::vector<std::uint8_t> role;
  std::vector<std::int32_t> table, code, unit, text;
  std::vector<float> number;
  std::vector<std::int64_t> visit_id, end_time;
};

/// What became of each row: the ledger.
struct RowFates {
  std::vector<std::uint8_t> gone;      // Removal
  std::vector<std::uint32_t> changes;  // bits of Change, 0 where gone
};

/// Makes the event table of a source from its rows, piece by piece.
class EventPieces {
 public:
  EventPieces(ValueRules values, TextRanks ranks, const KnownCodes& known, std::size_t n_codes);

  /// The events of some subjects, whom no other call has; several may run at once.
  ///
  /// @param subject_id (n_subjects,) ascending.
  EventPiece make(const MedsSubjects& subjects, std::span<const std::int64_t> subject_id,
                  const MedsRows& rows, const MendingRules& rules, RowFates& fates);

  /// Facts about all events made so far.
  EventFactColumns facts() const { return EventFacts::join(facts_.all()); }

 private:
  void put(std::vector<MendedEvent>& events, std::int64_t subject_id, const MendingRules& rules,
           EventFacts& facts, EventPiece& out) const;

  ValueRules values_;
  TextRanks ranks_;
  Spares<EventFacts> facts_;
};

}  // namespace chronoward
