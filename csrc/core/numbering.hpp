#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace chronoward {

/// Places of distinct values by open addressing; the values themselves lie with the caller.
class Places {
 public:
  Places() : slots_(64, -1) {}

  std::size_t size() const { return hashes_.size(); }

  /// The place of a value with a hash; calls add() where it is new, which appends it.
  ///
  /// @param is_at whether the value is that of a place.
  template <typename IsAt, typename Add>
  std::int32_t of(std::uint64_t hash, const IsAt& is_at, const Add& add) {
    std::size_t slot = hash & (slots_.size() - 1);
    for (; slots_[slot] >= 0; slot = (slot + 1) & (slots_.size() - 1)) {
      const auto place = static_cast<std::size_t>(slots_[slot]);
      if (hashes_[place] == hash && is_at(place)) return slots_[slot];
    }
    const auto place = static_cast<std::int32_t>(hashes_.size());
    slots_[slot] = place;
    hashes_.push_back(hash);
    add();
    if (2 * hashes_.size() > slots_.size()) grow();
    return place;
  }

 private:
  void grow();

  std::vector<std::int32_t> slots_;
  std::vector<std::uint64_t> hashes_;
};

/// Distinct integers in the order in which they came.
class IdNumbering {
 public:
  /// The number of a value, a new one where it is new.
  std::int32_t of(std::int64_t value);

  const std::vector<std::int64_t>& values() const { return values_; }

 private:
  Places places_;
  std::vector<std::int64_t> values_;
};

/// Distinct texts in the order in which they came.
class TextNumbering {
 public:
  static constexpr std::size_t kKeptBytes = 256;

  /// The number of a text, a new one where it is new.
  std::int32_t of(std::string_view text);

  /// As `of`; of longer texts than `kKeptBytes`, that may be no number, a digest is kept: they are
  /// told apart, and nothing else.
  std::int32_t of_value(std::string_view text);

  std::size_t size() const { return ends_.size(); }
  std::string_view text(std::size_t number) const;

 private:
  Places places_;
  std::string bytes_;
  std::vector<std::size_t> ends_;
};

}  // namespace chronoward
