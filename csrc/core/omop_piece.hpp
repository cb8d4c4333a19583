#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "core/event_facts.hpp"
#include "core/event_piece.hpp"
#include "core/mend_omop.hpp"
#include "core/spares.hpp"
#include "core/value_counts.hpp"
#include "core/value_rules.hpp"

namespace chronoward {

/// Subjects in ascending order; subject i owns rows offsets[i] .. offsets[i + 1].
struct OmopSubjects {
  std::span<const std::int64_t> subject_id, birth, death;  // us since 1970, kNullUs
  std::span<const std::int64_t> offsets;
};

/// Visits that records are linked to as their source says, before they are mended; a subject's
/// lie at offsets[i] .. offsets[i + 1], ascending by `ref`.
struct StagedVisits {
  std::span<const std::int64_t> offsets, ref, start, finish;
  std::span<const std::uint8_t> ends_as_date;
};

/// The last times of the records of each staged visit, kNullUs where there is none.
struct VisitExtents {
  std::vector<std::int64_t> last_any;       // of a date its end; on later days than the start
  std::vector<std::int64_t> last_same_day;  // after the end, on its day
};

/// Mended visits, (offsets[i] .. offsets[i + 1]) a subject's in order of start, and what source
/// visits became: places among the subject's visits.
struct FinalVisits {
  std::span<const std::int64_t> offsets, start, finish;
  std::span<const std::uint8_t> is_timed;
  std::span<const std::int64_t> ref_offsets, ref;
  std::span<const std::int32_t> became;
};

/// Events that no clinical record makes: of persons, deaths, visits and details.
struct OtherEvents {
  std::span<const std::int64_t> offsets, time, available, end_time;
  std::span<const std::uint8_t> role;
  std::span<const std::uint16_t> table;
  std::span<const std::int32_t> code, visit;  // place of the visit among the subject's, kNone
};

/// What became of each row.
struct RecordFates {
  std::vector<std::uint8_t> gone;      // RecordRemoval
  std::vector<std::uint32_t> changes;  // bits of RecordChange, 0 where gone
};

/// Columns that do not fit each other, or a number out of range, stop a source here.
///
/// @throws std::invalid_argument one does.
void check_omop(const OmopSubjects& subjects, const OmopRows& rows, const OmopTables& tables);

/// Makes the event table of an OMOP source, some subjects at a time.
class OmopPieces {
 public:
  OmopPieces(const OmopTables& tables, const OmopRules& rules);

  /// First pass: extents of visits, and counts for `texts`, `units` and `drug_types`. Several calls
  /// of a pass may run at once, each with subjects that no other has.
  VisitExtents survey(const OmopSubjects& subjects, const OmopRows& rows,
                      const StagedVisits& visits);
  TextCounts texts() const { return ValueCounts::texts(counts_.all()); }
  ValueKeyColumns units() const { return ValueCounts::units(counts_.all()); }
  std::vector<std::int32_t> drug_types() const { return {drug_types_.begin(), drug_types_.end()}; }

  /// Between: numbers of the chosen pairs of table and code.
  ///
  /// @param is_chosen (n_tables * n_codes,).
  UnitValues unit_values(const OmopSubjects& subjects, const OmopRows& rows,
                         std::span<const std::uint8_t> is_chosen) const;

  /// What the first pass decided.
  ///
  /// @param unit_rank, text_rank by number of a unit's name and of a text: place in byte order.
  void set_values(ValueRules values, std::vector<std::int32_t> unit_rank,
                  std::vector<std::int32_t> text_rank, const KnownCodes& known, bool has_visits);

  /// Last pass: events in canonical order and the fates of rows.
  EventPiece make(const OmopSubjects& subjects, const OmopRows& rows, const FinalVisits& visits,
                  const OtherEvents& others, RecordFates& fates);

  EventFactColumns facts() const;

  /// Pairs of table and concept number that name events.
  std::vector<std::int64_t> named_tables() const { return named(true); }
  std::vector<std::int64_t> named_concepts() const { return named(false); }

 private:
  std::vector<std::int64_t> named(bool tables) const;
  void put_others(const OtherEvents& others, std::size_t i, const std::vector<std::int32_t>& number,
                  std::vector<MendedEvent>& events) const;
  std::uint32_t resolve(MendedEvent& event) const;
  void rank(std::vector<MendedEvent>& events) const;

  const OmopTables& t_;
  const OmopRules& rules_;
  Spares<ValueCounts> counts_;
  ValueRules values_;
  std::vector<std::int32_t> unit_rank_, text_rank_;
  std::optional<Spares<EventFacts>> facts_;
  std::mutex mutex_;
  std::set<std::int32_t> drug_types_;   // of kept drug records; guarded by mutex_
  std::vector<std::uint8_t> is_named_;  // guarded by mutex_
  bool has_visits_ = false;
};

}  // namespace chronoward
