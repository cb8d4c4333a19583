#include "core/fit_scan.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <tuple>

#include "core/encode.hpp"

namespace chronoward {

void FitScan::add(const ScannedEvents& e, std::size_t n_keys) {
  const std::size_t n = e.key.size(), n_subjects = e.subject_id.size();
  const EventTimes& t = e.times;
  if (e.text.size() != n || e.value.size() != n || t.role.size() != n || t.time_us.size() != n ||
      t.available_us.size() != n || t.end_us.size() != n || t.visit_id.size() != n) {
    throw std::invalid_argument("columns of events must have one length");
  }
  if (e.offsets.size() != n_subjects + 1 || e.offsets.front() != 0 ||
      static_cast<std::size_t>(e.offsets.back()) != n ||
      !std::is_sorted(e.offsets.begin(), e.offsets.end()) || e.is_counted.size() != n_subjects ||
      e.since_us.size() != n_subjects) {
    throw std::invalid_argument("columns of subjects must fit their rows");
  }
  if (n_keys < last_subject_.size() ||
      std::any_of(
          e.key.begin(), e.key.end(),
          [=](auto key) { return key < 0 || static_cast<std::size_t>(key) >= n_keys; })) {
    throw std::invalid_argument("a key is out of range");
  }
  keys_.n_events.resize(n_keys, 0);
  keys_.n_subjects.resize(n_keys, 0);
  last_subject_.resize(n_keys, 0);
  for (std::size_t i = 0; i < n_subjects; ++i) {
    if (e.is_counted[i] != 0) add_subject(e, i);
  }
}

void FitScan::add_subject(const ScannedEvents& e, std::size_t subject) {
  ++ordinal_;
  const auto first = static_cast<std::size_t>(e.offsets[subject]);
  const auto last = static_cast<std::size_t>(e.offsets[subject + 1]);
  const std::int64_t id = e.subject_id[subject];
  for (std::size_t row = first; row < last; ++row) {
    const auto key = static_cast<std::size_t>(e.key[row]);
    ++keys_.n_events[key];
    if (last_subject_[key] != ordinal_) {
      last_subject_[key] = ordinal_;
      ++keys_.n_subjects[key];
    }
    if (static_cast<Role>(e.times.role[row]) != Role::kCode) continue;
    if (std::isfinite(e.value[row])) {
      values_.add_row(key, id, e.times.available_us[row], static_cast<double>(e.value[row]));
    }
    if (e.text[row] < 0) continue;
    OfPair& pair = texts_[std::uint64_t{key} << 32 | static_cast<std::uint32_t>(e.text[row])];
    if (pair.last_subject == ordinal_) continue;
    pair.last_subject = ordinal_;
    ++pair.n_subjects;
  }
  times_.add(e.times, first, last, id, e.since_us[subject]);
}

TextCounts FitScan::texts() const {
  std::vector<std::pair<std::uint64_t, std::int64_t>> pairs;
  pairs.reserve(texts_.size());
  for (const auto& [packed, pair] : texts_) pairs.emplace_back(packed, pair.n_subjects);
  std::sort(pairs.begin(), pairs.end());
  TextCounts out;
  for (const auto& [packed, n] : pairs) {
    out.key.push_back(static_cast<std::int32_t>(packed >> 32));
    out.text.push_back(static_cast<std::int32_t>(packed & 0xFFFFFFFFU));
    out.n_subjects.push_back(n);
  }
  return out;
}

}  // namespace chronoward
