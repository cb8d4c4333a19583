#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/days.hpp"
#include "core/encode.hpp"

namespace chronoward {

/// Why a record makes no event of its own; names of chronoward/data/rules.py, tried in this order.
enum class Removal : std::uint8_t {
  kKept,
  kMissingSubject,
  kExcludedSubject,
  kMissingCode,
  kExactDuplicate,
  kMissingTime,
  kSentinelTime,
  kBeforeBirth,
  kFutureDate,
  kDeathDuplicate,
  kBirthDuplicate,
  kStaticDuplicate,
  kAfterDeath,
  kVisitMerged,
  kEdLinked,
  kOutpatientInStay,
  kDetailWithoutVisit,
  kDischargeNotUsed,
  kCount,
};

inline constexpr std::array<const char*, static_cast<std::size_t>(Removal::kCount)> kRemovals = {
    "",
    "missing_subject",
    "excluded_subject",
    "missing_code",
    "exact_duplicate",
    "missing_time",
    "sentinel_time",
    "before_birth",
    "future_date",
    "death_duplicate",
    "birth_duplicate",
    "static_duplicate",
    "after_death",
    "visit_merged",
    "ed_linked",
    "outpatient_in_stay",
    "detail_without_visit",
    "discharge_not_used",
};

/// What changes a record that stays: bits; names of chronoward/data/rules.py.
enum class Change : std::uint8_t {
  kPrenatal,
  kSentinelEnd,
  kEndBeforeStart,
  kValueNotFinite,
  kValueFromText,
  kValueBounded,
  kValueNotDone,
  kValueCategory,
  kTextFree,
  kDeathDateOnly,
  kVisitEndAfterDeath,
  kVisitExtended,
  kVisitInpatientByLength,
  kVisitOverlapClamped,
  kClampedToVisit,
  kRelinkedByDate,
  kArtificialVisit,
  kUnitConverted,
  kUnitAssumed,
  kUnitMissing,
  kTextRare,
  kCount,
};

inline constexpr std::array<const char*, static_cast<std::size_t>(Change::kCount)> kChanges = {
    "prenatal",
    "sentinel_end",
    "end_before_start",
    "value_not_finite",
    "value_from_text",
    "value_bounded",
    "value_not_done",
    "value_category",
    "text_free",
    "death_date_only",
    "visit_end_after_death",
    "visit_extended",
    "visit_inpatient_by_length",
    "visit_overlap_clamped",
    "clamped_to_visit",
    "relinked_by_date",
    "artificial_visit",
    "unit_converted",
    "unit_assumed",
    "unit_missing",
    "text_rare",
};

constexpr std::uint32_t bit_of(Change change) { return 1U << static_cast<unsigned>(change); }

/// What a MEDS code says about its event, whatever else the row holds.
enum class CodeKind : std::uint8_t { kOther, kBirth, kDeath, kSex, kRace, kEthnicity };

/// What a text value is (chronoward/data/records.py, `value_kind`).
enum class TextKind : std::uint8_t {
  kCategory,
  kNumber = 2,
  kBound,
  kNotDone,
  kPosNeg,
  kTooLong,
};

inline constexpr std::int32_t kNone = -1;

/// Rows of a MEDS source, whole subjects together, in the order of their file; (n,) each. All but
/// `time` and `code` may be empty: nobody has one.
struct MedsRows {
  std::span<const std::int64_t> time, end_time, available;  // us since 1970, kNullUs
  std::span<const std::int32_t> code, text, unit;           // numbers, kNone for null
  std::span<const double> number;
  std::span<const std::uint8_t> has_number;
  std::span<const std::int64_t> visit_ref;  // kNullUs for null
  std::span<const std::uint16_t> table;
  std::uint16_t no_table = 0;  // number of the table of rows without one

  std::int64_t end_of(std::size_t i) const { return end_time.empty() ? kNullUs : end_time[i]; }
  std::int64_t available_of(std::size_t i) const {
    return available.empty() ? kNullUs : available[i];
  }
  std::int32_t text_of(std::size_t i) const { return text.empty() ? kNone : text[i]; }
  std::int32_t unit_of(std::size_t i) const { return unit.empty() ? kNone : unit[i]; }
  bool has_number_at(std::size_t i) const { return !has_number.empty() && has_number[i] != 0; }
  std::int64_t visit_of(std::size_t i) const { return visit_ref.empty() ? kNullUs : visit_ref[i]; }
  std::uint16_t table_of(std::size_t i) const { return table.empty() ? no_table : table[i]; }
};

/// What the numbers of `MedsRows` stand for.
struct MedsTables {
  std::span<const std::uint8_t> code_kind;          // CodeKind by code
  std::span<const std::int32_t> event_code;         // by code: number of the code events have
  std::span<const std::uint8_t> is_visit_code;      // by code: starts with Visit/
  std::span<const std::uint8_t> is_discharge_code;  // by code: starts with Discharge/
  std::span<const std::int32_t> code_rank;          // by event code: place in byte order
  std::span<const std::uint8_t> text_kind;          // TextKind by text
  std::span<const double> text_number;              // by text, of kNumber and kBound
  std::span<const std::int32_t> text_category;      // by text: number of what is kept of it
  std::span<const std::uint8_t> is_fixed_text;      // by text: a word of ours, never rare
  std::uint16_t visit_table = 0, detail_table = 0;  // numbers of visit_occurrence, visit_detail
};

struct JudgeRules {
  std::vector<std::pair<std::int64_t, std::int64_t>> sentinel_us;  // [begin, end) of years, rising
  std::int64_t prenatal_us = 0;      // records so long before birth are kept
  std::int64_t future_us = kNullUs;  // records from here on are removed; kNullUs: none
};

/// A row after the rules on single records.
struct JudgedRow {
  std::int64_t end_time = kNullUs;
  double number = 0.0;
  std::int32_t text = kNone;  // number of the text that is kept
  std::uint32_t changes = 0;
  Role role = Role::kCode;
  Removal gone = Removal::kKept;
  bool has_number = false;
};

/// Applies to a subject's rows the rules that need no visit (chronoward/data/rules.py).
class Judge {
 public:
  Judge(const MedsRows& rows, const MedsTables& tables, const JudgeRules& rules);

  /// @param out one a row of [begin, end).
  void judge(std::size_t begin, std::size_t end, bool is_excluded, std::vector<JudgedRow>& out);

  std::int64_t birth() const { return birth_; }  // kNullUs where it is not known
  std::int64_t death() const { return death_; }

 private:
  Role role_of(std::size_t row) const;
  bool is_sentinel(std::int64_t us) const;
  void find_life(std::size_t begin, const std::vector<JudgedRow>& judged);
  void find_duplicates(std::size_t begin, std::vector<JudgedRow>& judged);
  bool find_copies(std::size_t begin, std::size_t first, std::size_t last,
                   std::vector<JudgedRow>& judged);
  void find_hashed_copies(std::size_t begin, std::size_t first, std::size_t last,
                          std::vector<JudgedRow>& judged);
  bool is_same(std::size_t a, std::size_t b, const std::vector<JudgedRow>& judged,
               std::size_t begin) const;
  std::uint64_t content_hash(std::size_t row, Role role) const;
  Removal removal_of(std::size_t row, const JudgedRow& judged) const;
  void read_value(std::size_t row, JudgedRow& judged) const;
  void read_end(std::size_t row, JudgedRow& judged) const;
  void keep_one(std::size_t begin, Role role, Removal rule, std::vector<JudgedRow>& judged) const;
  std::size_t n_of(Role role) const { return n_of_role_[static_cast<std::size_t>(role)]; }

  const MedsRows& rows_;
  const MedsTables& t_;
  const JudgeRules& rules_;
  std::vector<std::uint32_t> latest_;   // by event code: row it had last, from 1
  std::vector<std::uint32_t> earlier_;  // by row of the subject: the one before it of its code
  std::int64_t birth_ = kNullUs, death_ = kNullUs;
  std::int64_t birth_day_ = kNullUs;      // 00:00:00 of it; before everything where it is not known
  std::int64_t usual_begin_, usual_end_;  // most times lie in here, between two sentinel years
  std::array<std::size_t, kRoles> n_of_role_{};
  std::vector<std::pair<std::uint64_t, std::uint32_t>> hashed_;
};

}  // namespace chronoward
