#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/numbering.hpp"

// What fields of delimited text say, where they are written plainly; false where they are not.
namespace chronoward {

constexpr std::size_t kMaxDigits = 18;  // any such integer fits 64 bits

/// One to eight digits as a number: pairs of them, then fours, then all are joined by a product.
///
/// @param word their characters, the first one lowest; what is above is not looked at.
inline bool read_eight_digits(std::uint64_t word, std::size_t n_digits, std::uint64_t& out) {
  // the last digit highest, zeros (not '0') before the first one
  std::uint64_t d = (word ^ 0x3030303030303030ULL) << (8 * (sizeof word - n_digits));
  if (((d | (d + 0x7676767676767676ULL)) & 0x8080808080808080ULL) != 0) return false;
  d = d * 10 + (d >> 8);
  constexpr std::uint64_t kPairs = 0x000000ff000000ffULL;
  out = ((d & kPairs) * (100 + (std::uint64_t{1000000} << 32)) +
         ((d >> 16) & kPairs) * (1 + (std::uint64_t{10000} << 32))) >>
        32;
  return true;
}

/// Up to `kMaxDigits` digits.
inline bool read_digits(std::string_view digits, std::uint64_t& out) {
  constexpr std::size_t kWord = sizeof(std::uint64_t);
  if (digits.empty() || digits.size() > kMaxDigits) return false;
  std::uint64_t value = 0;
  const std::size_t n_first = (digits.size() - 1) % kWord + 1;
  if (!read_eight_digits(bytes_as_word(digits.substr(0, n_first)), n_first, value)) return false;
  for (std::size_t at = n_first; at < digits.size(); at += kWord) {
    std::uint64_t next = 0;
    if (!read_eight_digits(bytes_as_word(digits.substr(at, kWord)), kWord, next)) return false;
    value = value * 100'000'000 + next;
  }
  out = value;
  return true;
}

/// An integer as its shortest form has it.
///
/// @param text not empty.
inline bool read_integer(std::string_view text, std::int64_t& out) {
  const bool is_negative = text.front() == '-';
  const std::string_view digits = text.substr(is_negative ? 1 : 0);
  std::uint64_t value = 0;
  if (!read_digits(digits, value)) return false;
  if (digits.front() == '0' && (digits.size() > 1 || is_negative)) return false;
  out = is_negative ? -static_cast<std::int64_t>(value) : static_cast<std::int64_t>(value);
  return true;
}

/// YYYY-MM-DD, and behind a blank or T perhaps hh:mm:ss with up to six decimals: us since 1970.
bool read_time(std::string_view text, std::int64_t& out);

/// As `read_time`, 00:00:00 of the day.
bool read_day(std::string_view text, std::int64_t& out);

/// A decimal number: digits, perhaps decimals, perhaps an exponent.
///
/// @param text not empty.
bool read_number(std::string_view text, double& out);

/// As `trimmed`, of a text that begins or ends with a blank or something else than ASCII.
std::string_view trimmed_ends(std::string_view text);

/// Without blanks of any script at its ends, as SQL's TRIM has it.
inline std::string_view trimmed(std::string_view text) {
  const auto is_kept = [](char c) { return c != ' ' && static_cast<unsigned char>(c) < 0x80; };
  return text.empty() || (is_kept(text.front()) && is_kept(text.back())) ? text
                                                                         : trimmed_ends(text);
}

}  // namespace chronoward
