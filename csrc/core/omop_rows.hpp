#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/days.hpp"
#include "core/judge.hpp"

namespace chronoward {

/// Why a clinical record makes no event; names of chronoward/data/rules.py, tried in this order.
enum class RecordRemoval : std::uint8_t {
  kKept,
  kMissingSubject,
  kExcludedSubject,
  kUnknownPerson,
  kExactDuplicate,
  kUnparsableTime,
  kMissingTime,
  kSentinelTime,
  kBeforeBirth,
  kFutureDate,
  kAfterDeath,
  kUnmappedDropped,
  kMultipleTargetsMerged,
  kCount,
};

inline constexpr std::array<const char*, static_cast<std::size_t>(RecordRemoval::kCount)>
    kRecordRemovals = {
        "",
        "missing_subject",
        "excluded_subject",
        "unknown_person",
        "exact_duplicate",
        "unparsable_time",
        "missing_time",
        "sentinel_time",
        "before_birth",
        "future_date",
        "after_death",
        "unmapped_dropped",
        "multiple_targets_merged",
};

/// What changes a clinical record that stays: bits; names of chronoward/data/rules.py.
enum class RecordChange : std::uint8_t {
  kPrenatal,
  kUnparsableEnd,
  kSentinelEnd,
  kEndBeforeStart,
  kValueNotFinite,
  kValueUnparsable,
  kValueFromText,
  kValueBounded,
  kValueNotDone,
  kValueCategory,
  kTextFree,
  kMultipleTargets,
  kClampedToVisit,
  kRelinkedByDate,
  kArtificialVisit,
  kStampedDiagnosis,
  kDateOnlyInVisit,
  kDateOnlyDay,
  kUnmapped,
  kLocalConcept,
  kMultiIngredient,
  kIngredientRollup,
  kUnitConverted,
  kUnitAssumed,
  kUnitMissing,
  kTextRare,
  kCount,
};

inline constexpr std::array<const char*, static_cast<std::size_t>(RecordChange::kCount)>
    kRecordChanges = {
        "prenatal",           "unparsable_end",    "sentinel_end",     "end_before_start",
        "value_not_finite",   "value_unparsable",  "value_from_text",  "value_bounded",
        "value_not_done",     "value_category",    "text_free",        "multiple_targets",
        "clamped_to_visit",   "relinked_by_date",  "artificial_visit", "stamped_diagnosis",
        "date_only_in_visit", "date_only_day",     "unmapped",         "local_concept",
        "multi_ingredient",   "ingredient_rollup", "unit_converted",   "unit_assumed",
        "unit_missing",       "text_rare",
};

constexpr std::uint32_t bit_of(RecordChange change) { return 1U << static_cast<unsigned>(change); }

/// Bits of `OmopRows::flags`: what was written but could not be read, and whether a number is
/// there.
enum RowFlag : std::uint8_t { kStartBad = 1, kEndBad = 2, kNumberBad = 4, kHasNumber = 8 };

/// Bits of `OmopTables::id_flags`: what a concept means, wherever it stands.
enum IdFlag : std::uint8_t {
  kPositiveId = 1,
  kNegativeId = 2,
  kBoundId = 4,       // operators <, <=, >, >=
  kBillingId = 8,     // type of a diagnosis that is known when its stay is billed
  kAdmissionId = 16,  // status of a diagnosis that is known at admission
  kDrgId = 32,
};

/// Clinical records, whole subjects together; (n,) each. Concepts, texts and units are numbers,
/// kNone for null. All but `table` and `flags` may be empty: nobody has one; `order` only where no
/// events are made: it says which of several copies stays.
struct OmopRows {
  std::span<const std::uint16_t> table;
  std::span<const std::int64_t> order;            // place by key among a table's records
  std::span<const std::int64_t> moment, day;      // us since 1970, kNullUs
  std::span<const std::int64_t> end_at, end_day;  // us since 1970, kNullUs
  std::span<const std::int32_t> concept_id, source_concept;
  std::span<const std::int32_t> type, status, value_concept, operator_id;
  std::span<const std::int32_t> source_value, text, unit;  // unit: a pair of concept and text
  std::span<const std::int64_t> visit_ref;                 // kNullUs for null
  std::span<const double> number;
  std::span<const std::uint8_t> flags;  // RowFlag

  static std::int32_t number_at(std::span<const std::int32_t> column, std::size_t i) {
    return column.empty() ? kNone : column[i];
  }
  static std::int64_t us_at(std::span<const std::int64_t> column, std::size_t i) {
    return column.empty() ? kNullUs : column[i];
  }
  bool has(std::size_t i, RowFlag flag) const { return (flags[i] & flag) != 0; }
  std::int64_t start_of(std::size_t i) const {
    const std::int64_t at = us_at(moment, i);
    return at == kNullUs ? us_at(day, i) : at;
  }
  std::int64_t end_of(std::size_t i) const {
    const std::int64_t at = us_at(end_at, i);
    return at == kNullUs ? us_at(end_day, i) : at;
  }
};

/// What the numbers of `OmopRows` stand for.
struct OmopTables {
  std::span<const std::int64_t> id_value;      // by concept number: its id
  std::span<const std::uint8_t> id_flags;      // IdFlag
  std::span<const std::int32_t> id_code;       // code of events that it names
  std::span<const std::int32_t> id_text;       // text that it is as a value
  std::span<const std::int64_t> part_offsets;  // by concept number, n + 1: ingredients of a drug
  std::span<const std::int32_t> part_id;       // concept numbers
  std::span<const std::int32_t> source_code;   // by source value: code of events, kNone
  std::span<const std::uint8_t> text_kind;     // TextKind by text
  std::span<const double> text_number;         // by text, of kNumber and kBound
  std::span<const std::int32_t> text_category;
  std::span<const std::uint8_t> is_fixed_text;   // by text: a word of ours, never rare
  std::span<const std::uint8_t> is_date_type;    // by table and type, see `is_date_type_of`
  std::span<const std::int32_t> drug_text = {};  // by concept number of a type, kNone; or empty
  std::span<const std::int32_t> code_rank = {};  // by code: place in byte order
  std::int32_t no_code = kNone;                  // of records that nothing names
  std::int32_t positive_text = kNone, negative_text = kNone, stop_text = kNone;
  std::int32_t artificial_code = kNone;  // Visit/0
  std::uint16_t drug_table = 0, condition_table = 0, visit_table = 0;

  /// Whether 00:00:00 means a date in records of this table and type (kNone: none).
  bool is_date_type_of(std::uint16_t table, std::int32_t type) const {
    const std::size_t n = id_value.size() + 1;
    return is_date_type[table * n + static_cast<std::size_t>(type + 1)] != 0;
  }
};

struct OmopRules {
  std::vector<std::pair<std::int64_t, std::int64_t>> sentinel_us;  // [begin, end) of years
  std::int64_t prenatal_us = 0;      // records so long before birth are kept
  std::int64_t future_us = kNullUs;  // records from here on are removed; kNullUs: none
  std::int64_t local_concept = 0;    // ids above it are a site's own
  bool uses_source_concept = false;  // it, not the standard concept, names the event
  bool drops_unmapped = false;       // records without a standard concept are removed
  bool has_drug_stop = false;        // the end of a drug is an event
};

/// When a subject lived; kNullUs where it is not known.
struct Life {
  std::int64_t birth = kNullUs, death = kNullUs;
};

}  // namespace chronoward
