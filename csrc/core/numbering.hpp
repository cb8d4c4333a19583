#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace chronoward {

constexpr std::size_t kShortBytes = 8;

/// Whether a text is told from all others that are so by `bytes_as_word`; most texts of records
/// are: codes, units, results.
inline bool is_short(std::string_view text) {
  return text.size() <= kShortBytes && (text.empty() || text.back() != '\0');
}

/// Up to `kShortBytes` bytes as a number, the first one lowest; no call is made for it.
inline std::uint64_t bytes_as_word(std::string_view text) {
  const std::size_t n = text.size();
  const auto ends = [&]<typename Half>(Half first, Half last) {  // which overlap
    std::memcpy(&first, text.data(), sizeof first);
    std::memcpy(&last, text.data() + n - sizeof last, sizeof last);
    return std::uint64_t{first} | std::uint64_t{last} << (8 * (n - sizeof last));
  };
  if (n >= 4) return ends(std::uint32_t{}, std::uint32_t{});
  if (n >= 2) return ends(std::uint16_t{}, std::uint16_t{});
  return n == 0 ? 0 : static_cast<unsigned char>(text.front());
}

inline bool is_same_text(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  return a.size() <= kShortBytes ? bytes_as_word(a) == bytes_as_word(b) : a == b;
}

/// Places of distinct values by open addressing; the values themselves lie with the caller.
class Places {
 public:
  Places() : slots_(64) {}

  std::size_t size() const { return size_; }

  /// The place of a value with a hash; calls add() where it is new, which appends it.
  ///
  /// @param is_exact whether no other value that is so has the hash: then nothing is compared, and
  ///   one cache line is looked at.
  /// @param is_at whether the value is that of a place.
  template <typename IsAt, typename Add>
  std::int32_t of(std::uint64_t hash, bool is_exact, const IsAt& is_at, const Add& add) {
    std::size_t slot = hash & (slots_.size() - 1);
    for (; slots_[slot].place >= 0; slot = (slot + 1) & (slots_.size() - 1)) {
      const Slot& found = slots_[slot];
      if (found.hash != hash || found.is_exact != is_exact) continue;
      if (is_exact || is_at(static_cast<std::size_t>(found.place))) return found.place;
    }
    const auto place = static_cast<std::int32_t>(size_++);
    slots_[slot] = {hash, place, is_exact};
    add();
    if (2 * size_ > slots_.size()) grow();
    return place;
  }

 private:
  struct Slot {
    std::uint64_t hash = 0;
    std::int32_t place = -1;
    bool is_exact = false;
  };

  void grow();

  std::vector<Slot> slots_;
  std::size_t size_ = 0;
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
