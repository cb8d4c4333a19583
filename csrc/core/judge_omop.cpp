#include "core/judge_omop.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

#include "core/row_hash.hpp"

namespace chronoward {
namespace {

constexpr double kFloat32Max = 3.4e38;
constexpr std::int64_t kFirstUs = -719162 * kUsPerDay;  // 0001-01-01
constexpr std::int64_t kEndUs = 2932897 * kUsPerDay;    // 10000-01-01

std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }

bool in_calendar(std::int64_t us) { return us >= kFirstUs && us < kEndUs; }

template <typename T>
bool equal(std::span<const T> column, std::size_t a, std::size_t b) {
  return column.empty() || column[a] == column[b];
}

}  // namespace

bool RecordJudge::is_sentinel(std::int64_t us) const {
  return std::any_of(rules_.sentinel_us.begin(), rules_.sentinel_us.end(),
                     [us](const auto& year) { return us >= year.first && us < year.second; });
}

/// The standard concept's id, 0 where there is none.
std::int64_t RecordJudge::concept_at(std::size_t row) const {
  const std::int32_t number = OmopRows::number_at(rows_.concept_id, row);
  return number == kNone ? 0 : t_.id_value[at(number)];
}

/// Whether two records differ in no more than their targets (records of one table and start).
bool RecordJudge::has_same_source(std::size_t a, std::size_t b) const {
  const auto number_of = [this](std::size_t i) {
    return rows_.has(i, kHasNumber) ? std::pair(true, bits_of(rows_.number[i]))
                                    : std::pair(false, std::uint64_t{0});
  };
  return equal(rows_.visit_ref, a, b) && equal(rows_.type, a, b) &&
         equal(rows_.source_value, a, b) && equal(rows_.source_concept, a, b) &&
         number_of(a) == number_of(b) && equal(rows_.text, a, b) &&
         equal(rows_.value_concept, a, b);
}

/// Whether two records of one table and start are equal in everything but their keys.
bool RecordJudge::is_same(std::size_t a, std::size_t b) const {
  return has_same_source(a, b) && equal(rows_.concept_id, a, b) && equal(rows_.end_at, a, b) &&
         equal(rows_.end_day, a, b) && equal(rows_.status, a, b) &&
         equal(rows_.operator_id, a, b) && equal(rows_.unit, a, b) && equal(rows_.flags, a, b);
}

/// Copies of a record with a smaller key; further targets of the records that are none.
void RecordJudge::find_copies(std::size_t begin, std::vector<JudgedRecord>& out) {
  is_further_.assign(out.size(), 0);
  by_start_.resize(out.size());
  std::iota(by_start_.begin(), by_start_.end(), begin);
  const auto key = [this](std::size_t i) {
    return std::tuple(rows_.table[i], OmopRows::us_at(rows_.moment, i),
                      OmopRows::us_at(rows_.day, i));
  };
  const auto is_less = [&](std::size_t a, std::size_t b) { return key(a) < key(b); };
  if (!std::is_sorted(by_start_.begin(), by_start_.end(), is_less)) {
    std::sort(by_start_.begin(), by_start_.end(), is_less);
  }
  for (std::size_t first = 0, last = 1; first < by_start_.size(); first = last++) {
    while (last < by_start_.size() && key(by_start_[last]) == key(by_start_[first])) ++last;
    if (last - first > 1) compare_group(first, last, begin, out);
  }
}

RecordJudge::Compared RecordJudge::compared(std::size_t row) const {
  const auto pair = [row](std::span<const std::int32_t> low, std::span<const std::int32_t> high) {
    return word_of(OmopRows::number_at(low, row), OmopRows::number_at(high, row));
  };
  const std::uint64_t source =
      hash_of(OmopRows::us_at(rows_.visit_ref, row), pair(rows_.source_concept, rows_.source_value),
              rows_.has(row, kHasNumber) ? bits_of(rows_.number[row]) + 1 : 0,
              pair(rows_.value_concept, rows_.text), OmopRows::number_at(rows_.type, row));
  const std::uint64_t rest = hash_of(
      OmopRows::us_at(rows_.end_at, row), OmopRows::us_at(rows_.end_day, row),
      pair(rows_.operator_id, rows_.status), pair(rows_.concept_id, rows_.unit), rows_.flags[row]);
  return {source, concept_at(row), rest, OmopRows::us_at(rows_.order, row), row};
}

/// Compares the records of one table and start.
void RecordJudge::compare_group(std::size_t first, std::size_t last, std::size_t begin,
                                std::vector<JudgedRecord>& out) {
  group_.clear();
  for (std::size_t k = first; k < last; ++k) group_.push_back(compared(by_start_[k]));
  std::sort(group_.begin(), group_.end());
  const auto is_target = [this](std::size_t row) {
    const std::int32_t source = OmopRows::number_at(rows_.source_concept, row);
    return concept_at(row) > 0 && ((source != kNone && t_.id_value[at(source)] > 0) ||
                                   OmopRows::number_at(rows_.source_value, row) != kNone);
  };
  std::size_t original = 0, least = group_.size();  // of equal records; target of a source
  for (std::size_t k = 0; k < group_.size(); ++k) {
    const std::size_t row = group_[k].row;
    const bool is_new_source = k == 0 || group_[k].source != group_[k - 1].source ||
                               !has_same_source(group_[k - 1].row, row);
    if (is_new_source) least = group_.size();
    if (k > 0 && !is_new_source && is_same(group_[original].row, row)) {
      out[row - begin].gone = RecordRemoval::kExactDuplicate;
      continue;
    }
    original = k;
    if (!is_target(row)) continue;
    if (least == group_.size()) least = k;
    is_further_[row - begin] = group_[k].concept_value > group_[least].concept_value;
  }
}

RecordRemoval RecordJudge::removal_of(std::size_t row, const JudgedRecord& judged,
                                      const Life& life) const {
  const std::int64_t us = rows_.start_of(row);
  if (rows_.has(row, kStartBad) || (us != kNullUs && !in_calendar(us))) {
    return RecordRemoval::kUnparsableTime;
  }
  if (us == kNullUs) return RecordRemoval::kMissingTime;
  if (is_sentinel(us)) return RecordRemoval::kSentinelTime;
  const std::int64_t day = day_of(us);
  if (life.birth != kNullUs && day < day_of(life.birth) - rules_.prenatal_us) {
    return RecordRemoval::kBeforeBirth;
  }
  if (rules_.future_us != kNullUs && us >= rules_.future_us) return RecordRemoval::kFutureDate;
  if (life.death != kNullUs && (judged.is_date ? day > day_of(life.death) : us > life.death)) {
    return RecordRemoval::kAfterDeath;
  }
  if (rules_.drops_unmapped && concept_at(row) == 0) return RecordRemoval::kUnmappedDropped;
  return RecordRemoval::kKept;
}

void RecordJudge::read_value(std::size_t row, JudgedRecord& judged) const {
  const auto flags_of = [this](std::int32_t id) {
    return id == kNone ? std::uint8_t{0} : t_.id_flags[at(id)];
  };
  const bool is_bound = (flags_of(OmopRows::number_at(rows_.operator_id, row)) & kBoundId) != 0;
  const auto set_number = [&](double number) {
    judged.number = number;
    judged.has_number = true;
  };
  if (rows_.has(row, kNumberBad)) judged.changes |= bit_of(RecordChange::kValueUnparsable);
  if (rows_.has(row, kHasNumber)) {
    const double number = rows_.number[row];
    if (std::isfinite(number) && std::abs(number) <= kFloat32Max) {
      if (is_bound) judged.changes |= bit_of(RecordChange::kValueBounded);
      return set_number(number);
    }
    judged.changes |= bit_of(RecordChange::kValueNotFinite);
  }
  const std::int32_t text = OmopRows::number_at(rows_.text, row);
  const auto kind =
      text == kNone ? TextKind::kCategory : static_cast<TextKind>(t_.text_kind[at(text)]);
  switch (kind) {
    case TextKind::kNumber:
      judged.changes |= bit_of(RecordChange::kValueFromText);
      if (is_bound) judged.changes |= bit_of(RecordChange::kValueBounded);
      return set_number(t_.text_number[at(text)]);
    case TextKind::kBound:
      judged.changes |= bit_of(RecordChange::kValueBounded);
      return set_number(t_.text_number[at(text)]);
    case TextKind::kNotDone:
      judged.changes |= bit_of(RecordChange::kValueNotDone);
      judged.text = t_.text_category[at(text)];
      return;
    case TextKind::kPosNeg:
      judged.changes |= bit_of(RecordChange::kValueCategory);
      judged.text = t_.text_category[at(text)];
      return;
    case TextKind::kTooLong:
      judged.changes |= bit_of(RecordChange::kTextFree);
      return;
    case TextKind::kCategory:
      break;
  }
  const std::int32_t value = OmopRows::number_at(rows_.value_concept, row);
  if (value == kNone || t_.id_value[at(value)] <= 0) {
    if (text != kNone) judged.text = t_.text_category[at(text)];
  } else if ((flags_of(value) & kPositiveId) != 0) {
    judged.text = t_.positive_text;
  } else if ((flags_of(value) & kNegativeId) != 0) {
    judged.text = t_.negative_text;
  } else {
    judged.value_concept = value;
  }
}

void RecordJudge::read_end(std::size_t row, JudgedRecord& judged) const {
  const std::int64_t end = rows_.end_of(row), start = rows_.start_of(row);
  if (end == kNullUs) {
    if (rows_.has(row, kEndBad)) judged.changes |= bit_of(RecordChange::kUnparsableEnd);
  } else if (!in_calendar(end)) {
    judged.changes |= bit_of(RecordChange::kUnparsableEnd);
  } else if (is_sentinel(end)) {
    judged.changes |= bit_of(RecordChange::kSentinelEnd);
  } else if (day_of(end) < day_of(start) || (end < start && !judged.is_date && !is_midnight(end))) {
    judged.changes |= bit_of(RecordChange::kEndBeforeStart);
  } else {
    judged.end_time = end;
  }
}

void RecordJudge::judge(std::size_t begin, std::size_t end, const Life& life,
                        std::vector<JudgedRecord>& out) {
  out.assign(end - begin, {});
  find_copies(begin, out);
  for (std::size_t i = 0; i < out.size(); ++i) {
    JudgedRecord& judged = out[i];
    const std::size_t row = begin + i;
    const std::int64_t moment = OmopRows::us_at(rows_.moment, row), start = rows_.start_of(row);
    judged.is_date = moment == kNullUs ||
                     (is_midnight(moment) &&
                      t_.is_date_type_of(rows_.table[row], OmopRows::number_at(rows_.type, row)));
    if (judged.gone == RecordRemoval::kKept) judged.gone = removal_of(row, judged, life);
    if (judged.gone == RecordRemoval::kKept && is_further_[i] != 0) {
      if (rules_.uses_source_concept) judged.gone = RecordRemoval::kMultipleTargetsMerged;
      judged.changes |= bit_of(RecordChange::kMultipleTargets);
    }
    if (judged.gone != RecordRemoval::kKept) continue;
    judged.time = judged.is_date ? day_of(start) : start;
    if (life.birth != kNullUs && start < day_of(life.birth)) {
      judged.changes |= bit_of(RecordChange::kPrenatal);
    }
    read_value(row, judged);
    read_end(row, judged);
  }
}

}  // namespace chronoward
