#include "core/numbering.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <utility>

#include "core/row_hash.hpp"

namespace chronoward {
namespace {

/// Whether a text might be a number, with or without a bound.
bool may_be_number(std::string_view text) {
  const char first = text.front();
  return (first >= '0' && first <= '9') || first == '+' || first == '-' || first == '<' ||
         first == '>' || text.starts_with("\u2264") || text.starts_with("\u2265");
}

/// A text of `kKeptBytes` that no source has: NULs, and two hashes in hexadecimal.
std::string digest_of(std::string_view text) {
  std::array<std::uint64_t, 2> hashes = {text.size(), ~text.size()};
  for (std::size_t at = 0; at < text.size(); at += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + at, std::min(sizeof word, text.size() - at));
    hashes[0] = mix(hashes[0], word);
    hashes[1] = mix(hashes[1] * 0x9fb21c651e98df25ULL, word);
  }
  std::string out(TextNumbering::kKeptBytes, '\0');
  std::size_t at = out.size();
  for (std::uint64_t hash : hashes) {
    for (int k = 0; k < 16; ++k, hash >>= 4) out[--at] = "0123456789abcdef"[hash & 15];
  }
  return out;
}

}  // namespace

void Places::grow() {
  std::vector<Slot> slots(2 * slots_.size());
  for (const Slot& old : slots_) {
    if (old.place < 0) continue;
    std::size_t slot = old.hash & (slots.size() - 1);
    while (slots[slot].place >= 0) slot = (slot + 1) & (slots.size() - 1);
    slots[slot] = old;
  }
  slots_ = std::move(slots);
}

std::int32_t IdNumbering::of(std::int64_t value) {
  return places_.of(
      mix(0, static_cast<std::uint64_t>(value)), true, [](std::size_t) { return true; },
      [&] { values_.push_back(value); });
}

std::string_view TextNumbering::text(std::size_t number) const {
  const std::size_t begin = number == 0 ? 0 : ends_[number - 1];
  return std::string_view(bytes_).substr(begin, ends_[number] - begin);
}

std::int32_t TextNumbering::of(std::string_view value) {
  const bool has_word = is_short(value);
  return places_.of(
      mix(0, has_word ? bytes_as_word(value) : std::hash<std::string_view>{}(value)), has_word,
      [&](std::size_t place) { return text(place) == value; },
      [&] {
        bytes_.append(value);
        ends_.push_back(bytes_.size());
      });
}

std::int32_t TextNumbering::of_value(std::string_view value) {
  return value.size() <= kKeptBytes || may_be_number(value) ? of(value) : of(digest_of(value));
}

}  // namespace chronoward
