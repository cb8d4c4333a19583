#include "core/judge.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <tuple>

#include "core/row_hash.hpp"

namespace chronoward {
namespace {

constexpr double kFloat32Max = 3.4e38;
constexpr std::int64_t kUsualUs = 10957 * kUsPerDay;  // 2000-01-01: no sentinel, mostly

std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }

}  // namespace

Role Judge::role_of(std::size_t row) const {
  const std::int32_t code = rows_.code[row];
  const auto kind =
      code == kNone ? CodeKind::kOther : static_cast<CodeKind>(t_.code_kind[at(code)]);
  switch (kind) {
    case CodeKind::kBirth:
      return Role::kBirth;
    case CodeKind::kDeath:
      return Role::kDeath;
    case CodeKind::kSex:
      return Role::kSex;
    case CodeKind::kRace:
      return Role::kRace;
    case CodeKind::kEthnicity:
      return Role::kStatic;
    case CodeKind::kOther:
      break;
  }
  if (rows_.time[row] == kNullUs) return Role::kStatic;
  const bool has_end = rows_.end_of(row) != kNullUs;
  const std::uint16_t table = rows_.table_of(row);
  if (table == t_.visit_table && code != kNone) {
    if (t_.is_visit_code[at(code)] != 0 && has_end) return Role::kVisit;
    if (t_.is_discharge_code[at(code)] != 0) return Role::kDischarge;
  }
  return table == t_.detail_table && has_end ? Role::kDetail : Role::kCode;
}

Judge::Judge(const MedsRows& rows, const MedsTables& tables, const JudgeRules& rules)
    : rows_(rows),
      t_(tables),
      rules_(rules),
      latest_(tables.code_rank.size()),
      usual_begin_(std::numeric_limits<std::int64_t>::min()),
      usual_end_(std::numeric_limits<std::int64_t>::max()) {
  for (const auto& [begin, end] : rules.sentinel_us) {
    if (end <= kUsualUs) usual_begin_ = std::max(usual_begin_, end);
    if (begin > kUsualUs) usual_end_ = std::min(usual_end_, begin);
    if (begin <= kUsualUs && kUsualUs < end) usual_end_ = usual_begin_;
  }
}

bool Judge::is_sentinel(std::int64_t us) const {
  if (us >= usual_begin_ && us < usual_end_) return false;
  return std::any_of(rules_.sentinel_us.begin(), rules_.sentinel_us.end(),
                     [us](const auto& year) { return us >= year.first && us < year.second; });
}

/// Birth and death: the earliest of each that is usable; a death at midnight is the day's end.
void Judge::find_life(std::size_t begin, const std::vector<JudgedRow>& judged) {
  const auto is_usable = [this](std::int64_t us) { return us != kNullUs && !is_sentinel(us); };
  const auto keep_least = [](std::int64_t& kept, std::int64_t us) {
    kept = kept == kNullUs ? us : std::min(kept, us);
  };
  for (std::size_t i = 0; i < judged.size(); ++i) {
    const std::int64_t us = rows_.time[begin + i];
    if (judged[i].role == Role::kBirth && is_usable(us)) keep_least(birth_, us);
  }
  for (std::size_t i = 0; i < judged.size(); ++i) {
    const std::int64_t us = rows_.time[begin + i];
    if (judged[i].role != Role::kDeath || !is_usable(us)) continue;
    if (birth_ != kNullUs && day_of(us) < day_of(birth_)) continue;
    const bool is_date = rows_.available_of(begin + i) == kNullUs && is_midnight(us);
    keep_least(death_, is_date ? us + kDayEndUs : us);
  }
}

std::uint64_t Judge::content_hash(std::size_t row, Role role) const {
  return hash_of(role, rows_.time[row],
                 word_of(t_.event_code[at(rows_.code[row])], rows_.text_of(row)),
                 rows_.has_number_at(row) ? bits_of(rows_.number[row]) + 1 : 0,
                 word_of(rows_.unit_of(row), rows_.table_of(row)), rows_.end_of(row),
                 rows_.available_of(row), rows_.visit_of(row));
}

bool Judge::is_same(std::size_t a, std::size_t b, const std::vector<JudgedRow>& judged,
                    std::size_t begin) const {
  const auto content = [&](std::size_t i) {
    const std::size_t row = begin + i;
    const bool has_number = rows_.has_number_at(row);
    return std::tuple(judged[i].role, t_.event_code[at(rows_.code[row])], rows_.time[row],
                      has_number, has_number ? bits_of(rows_.number[row]) : 0, rows_.text_of(row),
                      rows_.unit_of(row), rows_.end_of(row), rows_.available_of(row),
                      rows_.visit_of(row), rows_.table_of(row));
  };
  return content(a) == content(b);
}

/// Copies of an earlier row. Where rows ascend in time, as MEDS has them, only those of one time
/// and one code are compared: few.
void Judge::find_duplicates(std::size_t begin, std::vector<JudgedRow>& judged) {
  const auto time = rows_.time.subspan(begin, judged.size());
  if (!std::is_sorted(time.begin(), time.end())) {
    find_hashed_copies(begin, 0, judged.size(), judged);
    return;
  }
  earlier_.assign(judged.size(), 0);
  for (std::size_t first = 0, last = 1; first < judged.size(); first = last++) {
    while (last < judged.size() && time[last] == time[first]) ++last;
    if (last - first > 1 && !find_copies(begin, first, last, judged)) {
      find_hashed_copies(begin, first, last, judged);
    }
  }
}

/// Copies among the rows of one time; false where a code has so many that hashes cost less.
bool Judge::find_copies(std::size_t begin, std::size_t first, std::size_t last,
                        std::vector<JudgedRow>& judged) {
  constexpr int kMaxOfCode = 16;
  for (std::size_t i = first; i < last; ++i) {
    if (judged[i].gone != Removal::kKept) continue;
    std::uint32_t& latest = latest_[at(t_.event_code[at(rows_.code[begin + i])])];
    const std::uint32_t others = latest > begin + first ? latest : 0;
    int n = 0;
    for (std::uint32_t k = others; k != 0; k = earlier_[k - 1 - begin]) {
      if (++n > kMaxOfCode) return false;
      if (!is_same(k - 1 - begin, i, judged, begin)) continue;
      judged[i].gone = Removal::kExactDuplicate;
      break;
    }
    if (judged[i].gone != Removal::kKept) continue;
    earlier_[i] = others;
    latest = static_cast<std::uint32_t>(begin + i + 1);
  }
  return true;
}

/// Copies among the rows of a range, by their hashes.
void Judge::find_hashed_copies(std::size_t begin, std::size_t first, std::size_t last,
                               std::vector<JudgedRow>& judged) {
  hashed_.clear();
  for (std::size_t i = first; i < last; ++i) {
    if (judged[i].gone != Removal::kKept) continue;
    hashed_.emplace_back(content_hash(begin + i, judged[i].role), static_cast<std::uint32_t>(i));
  }
  std::sort(hashed_.begin(), hashed_.end());
  for (std::size_t same = 0, k = 1; k < hashed_.size(); ++k) {
    if (hashed_[k].first != hashed_[same].first) {
      same = k;
      continue;
    }
    for (std::size_t j = same; j < k; ++j) {
      if (is_same(hashed_[j].second, hashed_[k].second, judged, begin)) {
        judged[hashed_[k].second].gone = Removal::kExactDuplicate;
        break;
      }
    }
  }
}

Removal Judge::removal_of(std::size_t row, const JudgedRow& judged) const {
  const std::int64_t us = rows_.time[row];
  const Role role = judged.role;
  if (us == kNullUs && (role == Role::kBirth || role == Role::kDeath)) return Removal::kMissingTime;
  if (role == Role::kSex || role == Role::kRace || role == Role::kStatic) return Removal::kKept;
  if (is_sentinel(us)) return Removal::kSentinelTime;
  if (role == Role::kBirth) return Removal::kKept;
  const std::int64_t before = role == Role::kDeath ? 0 : rules_.prenatal_us;
  if (birth_ != kNullUs && us < birth_day_ - before) return Removal::kBeforeBirth;  // whole days
  if (rules_.future_us != kNullUs && us >= rules_.future_us) return Removal::kFutureDate;
  if (role != Role::kDeath && death_ != kNullUs && us > death_) return Removal::kAfterDeath;
  return Removal::kKept;
}

void Judge::read_value(std::size_t row, JudgedRow& judged) const {
  const bool is_number = rows_.has_number_at(row);
  const double number = is_number ? rows_.number[row] : 0.0;
  if (is_number && std::isfinite(number) && std::abs(number) <= kFloat32Max) {
    judged.number = number;
    judged.has_number = true;
    return;
  }
  if (is_number) judged.changes |= bit_of(Change::kValueNotFinite);
  const std::int32_t text = rows_.text_of(row);
  if (text == kNone) return;
  switch (static_cast<TextKind>(t_.text_kind[at(text)])) {
    case TextKind::kNumber:
      judged.changes |= bit_of(Change::kValueFromText);
      break;
    case TextKind::kBound:
      judged.changes |= bit_of(Change::kValueBounded);
      break;
    case TextKind::kNotDone:
      judged.changes |= bit_of(Change::kValueNotDone);
      judged.text = t_.text_category[at(text)];
      return;
    case TextKind::kPosNeg:
      judged.changes |= bit_of(Change::kValueCategory);
      judged.text = t_.text_category[at(text)];
      return;
    case TextKind::kTooLong:
      judged.changes |= bit_of(Change::kTextFree);
      return;
    case TextKind::kCategory:
      judged.text = t_.text_category[at(text)];
      return;
  }
  judged.number = t_.text_number[at(text)];
  judged.has_number = true;
}

void Judge::read_end(std::size_t row, JudgedRow& judged) const {
  const std::int64_t end = rows_.end_of(row), start = rows_.time[row];
  if (end == kNullUs) return;
  if (is_sentinel(end)) {
    judged.changes |= bit_of(Change::kSentinelEnd);
  } else if (start != kNullUs &&
             (day_of(end) < day_of(start) || (end < start && !is_midnight(end)))) {
    judged.changes |= bit_of(Change::kEndBeforeStart);
  } else {
    judged.end_time = end;
  }
}

/// Of several births, deaths, sexes or races one stays: the earliest, or the first in byte order.
void Judge::keep_one(std::size_t begin, Role role, Removal rule,
                     std::vector<JudgedRow>& judged) const {
  if (n_of(role) < 2) return;
  const bool by_time = role == Role::kBirth || role == Role::kDeath;
  const auto key = [&](std::size_t i) {
    const std::size_t row = begin + i;
    return std::tuple(by_time ? rows_.time[row] : 0,
                      t_.code_rank[at(t_.event_code[at(rows_.code[row])])], i);
  };
  std::size_t kept = judged.size();
  for (std::size_t i = 0; i < judged.size(); ++i) {
    if (judged[i].role != role || judged[i].gone != Removal::kKept) continue;
    if (kept == judged.size()) {
      kept = i;
      continue;
    }
    const std::size_t other = key(i) < key(kept) ? kept : i;
    if (other == kept) kept = i;
    judged[other].gone = rule;
    judged[other].changes = 0;
  }
}

void Judge::judge(std::size_t begin, std::size_t end, bool is_excluded,
                  std::vector<JudgedRow>& out) {
  out.assign(end - begin, {});
  n_of_role_.fill(0);
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i].role = role_of(begin + i);
    ++n_of_role_[static_cast<std::size_t>(out[i].role)];
    if (is_excluded) {
      out[i].gone = Removal::kExcludedSubject;
    } else if (rows_.code[begin + i] == kNone) {
      out[i].gone = Removal::kMissingCode;
    }
  }
  birth_ = death_ = kNullUs;
  if (is_excluded) return;
  if (n_of(Role::kBirth) + n_of(Role::kDeath) > 0) find_life(begin, out);
  birth_day_ = birth_ == kNullUs ? kNullUs : day_of(birth_);
  find_duplicates(begin, out);
  for (std::size_t i = 0; i < out.size(); ++i) {
    JudgedRow& judged = out[i];
    const std::size_t row = begin + i;
    if (judged.gone == Removal::kKept) judged.gone = removal_of(row, judged);
    if (judged.gone != Removal::kKept) continue;
    read_value(row, judged);
    read_end(row, judged);
    const std::int64_t us = rows_.time[row];
    if (us == kNullUs) continue;
    if (us < birth_day_) {
      judged.changes |= bit_of(Change::kPrenatal);
    }
    if (judged.role == Role::kDeath && rows_.available_of(row) == kNullUs && is_midnight(us)) {
      judged.changes |= bit_of(Change::kDeathDateOnly);
    }
  }
  keep_one(begin, Role::kBirth, Removal::kBirthDuplicate, out);
  keep_one(begin, Role::kDeath, Removal::kDeathDuplicate, out);
  keep_one(begin, Role::kSex, Removal::kStaticDuplicate, out);
  keep_one(begin, Role::kRace, Removal::kStaticDuplicate, out);
}

}  // namespace chronoward
