#include "core/vocab.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace chronoward {
namespace {

/// Open addressing from a key to its number in order of first sight.
class KeyNumbers {
 public:
  KeyNumbers() : keys_(kFirstSize, kEmpty), numbers_(kFirstSize, 0) {}

  std::int32_t number_of(std::int64_t key) {
    std::size_t slot = slot_of(key);
    while (keys_[slot] != key) {
      if (keys_[slot] == kEmpty) {
        const auto number = static_cast<std::int32_t>(seen_.size());
        keys_[slot] = key;
        numbers_[slot] = number;
        seen_.push_back(key);
        if (seen_.size() * 2 > keys_.size()) grow();
        return number;
      }
      slot = (slot + 1) & (keys_.size() - 1);
    }
    return numbers_[slot];
  }

  const std::vector<std::int64_t>& seen() const { return seen_; }

 private:
  static constexpr std::size_t kFirstSize = 1024;
  static constexpr std::int64_t kEmpty = std::numeric_limits<std::int64_t>::min();

  std::size_t slot_of(std::int64_t key) const {
    // Fibonacci hashing; the high bits are the mixed ones
    const auto mixed = static_cast<std::uint64_t>(key) * 0x9E3779B97F4A7C15ULL;
    return static_cast<std::size_t>(mixed >> 20) & (keys_.size() - 1);
  }

  void grow() {
    keys_.assign(keys_.size() * 2, kEmpty);
    numbers_.assign(keys_.size(), 0);
    for (std::size_t i = 0; i < seen_.size(); ++i) {
      std::size_t slot = slot_of(seen_[i]);
      while (keys_[slot] != kEmpty) slot = (slot + 1) & (keys_.size() - 1);
      keys_[slot] = seen_[i];
      numbers_[slot] = static_cast<std::int32_t>(i);
    }
  }

  std::vector<std::int64_t> keys_;
  std::vector<std::int32_t> numbers_;
  std::vector<std::int64_t> seen_;
};

}  // namespace

DistinctKeys distinct_keys(const KeyColumns& columns) {
  const std::size_t n = columns.role.size();
  DistinctKeys out;
  out.index.resize(n);
  KeyNumbers numbers;
  for (std::size_t i = 0; i < n; ++i) {
    std::int64_t key = columns.role[i] * columns.n_tables + columns.table[i];
    key = (key * columns.n_codes + columns.code[i]) * (columns.n_units + 1) + columns.unit[i] + 1;
    out.index[i] = numbers.number_of(key);
  }
  // ascending keys, so that the numbers do not depend on the order of the rows
  const std::vector<std::int64_t>& seen = numbers.seen();
  std::vector<std::int32_t> order(seen.size()), place(seen.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&seen](std::int32_t a, std::int32_t b) {
    return seen[static_cast<std::size_t>(a)] < seen[static_cast<std::size_t>(b)];
  });
  for (std::size_t i = 0; i < order.size(); ++i) {
    place[static_cast<std::size_t>(order[i])] = static_cast<std::int32_t>(i);
    out.keys.push_back(seen[static_cast<std::size_t>(order[i])]);
  }
  for (std::int32_t& index : out.index) index = place[static_cast<std::size_t>(index)];
  return out;
}

KeyCounts count_keys(std::span<const std::int32_t> key, std::span<const std::int64_t> subject_id,
                     std::size_t n_keys) {
  KeyCounts out{std::vector<std::int64_t>(n_keys, 0), std::vector<std::int64_t>(n_keys, 0)};
  std::vector<std::int64_t> last(n_keys, -1);  // last run of a subject in which the key was seen
  std::int64_t run = 0;
  for (std::size_t i = 0; i < key.size(); ++i) {
    if (i > 0 && subject_id[i] != subject_id[i - 1]) ++run;
    const auto k = static_cast<std::size_t>(key[i]);
    ++out.n_events[k];
    out.n_subjects[k] += static_cast<std::int64_t>(last[k] != run);
    last[k] = run;
  }
  return out;
}

}  // namespace chronoward
