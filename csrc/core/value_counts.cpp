#include "core/value_counts.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/row_hash.hpp"

namespace chronoward {
namespace {

constexpr std::int32_t kMost = (1 << 24) - 1;  // codes and values below it fit into a word

}  // namespace

std::size_t ValueKeys::of(const ValueKey& key) {
  const auto of_code = static_cast<std::size_t>(key.code);
  if (of_code >= latest_.size()) latest_.resize(of_code + 1);
  std::size_t& latest = latest_[of_code];
  if (latest != 0 && keys_[latest - 1] == key) return latest - 1;
  const bool has_word = key.code < kMost && key.value < kMost;
  const auto table = static_cast<std::uint64_t>(key.table);
  const auto code = static_cast<std::uint64_t>(key.code);
  const auto value = static_cast<std::uint64_t>(key.value + 1);  // kNone is one as well
  const std::int32_t place = places_.of(
      has_word ? mix(0, table << 48 | code << 24 | value) : hash_of(code, value, table), has_word,
      [&](std::size_t other) { return keys_[other] == key; }, [&] { keys_.push_back(key); });
  latest = static_cast<std::size_t>(place) + 1;
  return latest - 1;
}

void ValueCounts::add(std::span<const MendedEvent> events,
                      std::span<const std::uint8_t> is_fixed_text) {
  ++ordinal_;
  for (const MendedEvent& event : events) {
    if (!std::isnan(event.number)) units_.of({event.table, event.code, event.unit});
    const bool is_free =
        event.text != kNone && is_fixed_text[static_cast<std::size_t>(event.text)] == 0;
    if (!is_free) continue;
    const std::size_t place = texts_.of({event.table, event.code, event.text});
    if (place == counts_.size()) counts_.emplace_back();
    Count& count = counts_[place];
    ++count.n_events;
    if (count.last_subject == ordinal_) continue;
    count.last_subject = ordinal_;
    ++count.n_subjects;
  }
}

TextCounts ValueCounts::texts(const std::deque<ValueCounts>& parts) {
  std::vector<std::pair<ValueKey, const Count*>> all;
  for (const ValueCounts& part : parts) {
    for (std::size_t i = 0; i < part.counts_.size(); ++i) {
      all.emplace_back(part.texts_.keys()[i], &part.counts_[i]);
    }
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  TextCounts out;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto& [key, count] = all[i];
    if (i == 0 || key != all[i - 1].first) {
      out.keys.push_back(key);
      out.n_events.push_back(0);
      out.n_subjects.push_back(0);
    }
    out.n_events.back() += count->n_events;
    out.n_subjects.back() += count->n_subjects;
  }
  return out;
}

ValueKeyColumns ValueCounts::units(const std::deque<ValueCounts>& parts) {
  std::vector<ValueKey> all;
  for (const ValueCounts& part : parts) {
    all.insert(all.end(), part.units_.keys().begin(), part.units_.keys().end());
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  ValueKeyColumns out;
  for (const ValueKey& key : all) out.push_back(key);
  return out;
}

void ChosenNumbers::add(std::span<const MendedEvent> events) {
  for (const MendedEvent& event : events) {
    if (std::isnan(event.number)) continue;
    if (is_chosen_[event.table * n_codes_ + static_cast<std::size_t>(event.code)] == 0) continue;
    place_.push_back(keys_.of({event.table, event.code, event.unit}));
    number_.push_back(event.number);
  }
}

UnitValues ChosenNumbers::by_unit() const {
  UnitValues out;
  for (const ValueKey& key : keys_.keys()) out.keys.push_back(key);
  std::vector<std::size_t> begin(keys_.keys().size() + 1);
  for (const std::size_t place : place_) ++begin[place + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  out.offsets.assign(begin.begin(), begin.end());
  out.number.resize(number_.size());
  for (std::size_t i = 0; i < number_.size(); ++i) out.number[begin[place_[i]]++] = number_[i];
  return out;
}

}  // namespace chronoward
