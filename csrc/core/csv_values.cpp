#include "core/csv_values.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <chrono>
#include <system_error>

#include "core/days.hpp"

namespace chronoward {
namespace {

constexpr std::uint64_t kHighBits = 0x8080808080808080ULL;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Eight characters: digits where `zeros` has '0', elsewhere its characters.
struct Pattern {
  std::string_view zeros;
  std::string_view most;  // what may be added to a byte's difference to `zeros` without passing 127
};

constexpr Pattern kYearMonth = {"0000-00-", "\x76\x76\x76\x76\x7f\x76\x76\x7f"};
constexpr Pattern kClock = {"00:00:00", "\x76\x76\x7f\x76\x76\x7f\x76\x76"};

/// The digits, a byte each, the first one lowest; false where a text does not match.
bool match(std::string_view text, const Pattern& pattern, std::uint64_t& digits) {
  digits = bytes_as_word(text) ^ bytes_as_word(pattern.zeros);
  return ((digits | (digits + bytes_as_word(pattern.most))) & kHighBits) == 0;
}

/// The number that n digits from a place on are.
int number_at(std::uint64_t digits, int at, int n) {
  int out = 0;
  for (int i = at; i < at + n; ++i) out = 10 * out + static_cast<int>((digits >> (8 * i)) & 0xff);
  return out;
}

/// hh:mm:ss and perhaps decimals, in microseconds.
bool read_clock(std::string_view text, std::int64_t& out) {
  std::uint64_t digits = 0;
  if (text.size() < 8 || !match(text.substr(0, 8), kClock, digits)) return false;
  const int hour = number_at(digits, 0, 2);
  const int minute = number_at(digits, 3, 2);
  const int second = number_at(digits, 6, 2);
  if (hour > 23 || minute > 59 || second > 59) return false;
  std::uint64_t part = 0;
  if (text.size() > 8) {
    const std::string_view decimals = text.substr(9);
    if (text[8] != '.' || decimals.size() > 6 || !read_digits(decimals, part)) return false;
    for (std::size_t i = decimals.size(); i < 6; ++i) part *= 10;
  }
  out = ((std::int64_t{hour} * 60 + minute) * 60 + second) * 1'000'000 +
        static_cast<std::int64_t>(part);
  return true;
}

/// Digits and perhaps decimals, few enough that both parts of the fraction are exact; false else.
bool read_short_number(std::string_view text, double& out) {
  static constexpr std::array<double, 8> kTens = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7};
  const bool is_negative = text.front() == '-';
  if (is_negative) text.remove_prefix(1);
  if (text.empty() || text.size() > sizeof(std::uint64_t)) return false;
  std::uint64_t word = bytes_as_word(text), digits = 0;
  const std::uint64_t points = word ^ 0x2e2e2e2e2e2e2e2eULL;  // 0 where there is one
  const std::uint64_t is_point = (points - 0x0101010101010101ULL) & ~points & kHighBits;
  std::size_t n = text.size(), n_decimals = 0;
  if (is_point != 0) {
    const auto point = static_cast<std::size_t>(std::countr_zero(is_point)) / 8;
    if (point == 0 || point + 1 >= n) return false;
    const std::uint64_t before = (std::uint64_t{1} << (8 * point)) - 1;
    word = (word & before) | ((word >> 8) & ~before);
    n_decimals = --n - point;
  }
  if (!read_eight_digits(word, n, digits)) return false;
  const double value = static_cast<double>(digits) / kTens[n_decimals];
  out = is_negative ? -value : value;
  return true;
}

// Blanks of any script (Unicode's class Zs) that are no ASCII.
constexpr std::array<std::string_view, 16> kBlanks = {
    "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005",
    "\u2006", "\u2007", "\u2008", "\u2009", "\u200a", "\u202f", "\u205f", "\u3000"};

}  // namespace

bool read_day(std::string_view text, std::int64_t& out) {
  std::int64_t us = 0;
  if (!read_time(text, us)) return false;
  out = text.size() > 10 ? day_of(us) : us;
  return true;
}

bool read_time(std::string_view text, std::int64_t& out) {
  using namespace std::chrono;
  std::uint64_t digits = 0;
  if (text.size() < 10 || !match(text.substr(0, 8), kYearMonth, digits)) return false;
  if (!is_digit(text[8]) || !is_digit(text[9])) return false;
  const int y = number_at(digits, 0, 4);
  const int d = 10 * (text[8] - '0') + (text[9] - '0');
  const year_month_day date{year{y}, month{static_cast<unsigned>(number_at(digits, 5, 2))},
                            day{static_cast<unsigned>(d)}};
  if (y < 1 || !date.ok()) return false;
  std::int64_t us = 0;
  if (text.size() > 10) {
    if ((text[10] != ' ' && text[10] != 'T') || !read_clock(text.substr(11), us)) return false;
  }
  out = sys_days{date}.time_since_epoch().count() * kUsPerDay + us;
  return true;
}

bool read_number(std::string_view text, double& out) {
  if (read_short_number(text, out)) return true;
  std::size_t i = text.front() == '-' ? 1 : 0;
  const auto digits = [&] {
    const std::size_t first = i;
    while (i < text.size() && is_digit(text[i])) ++i;
    return i > first;
  };
  if (!digits()) return false;
  if (i < text.size() && text[i] == '.' && (++i, !digits())) return false;
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    ++i;
    if (i < text.size() && (text[i] == '+' || text[i] == '-')) ++i;
    if (!digits()) return false;
  }
  if (i != text.size()) return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc{} && end == text.data() + text.size();
}

std::string_view trimmed_ends(std::string_view text) {
  const auto is_ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  while (!text.empty()) {
    if (text.front() == ' ') {
      text.remove_prefix(1);
    } else if (text.back() == ' ') {
      text.remove_suffix(1);
    } else if (is_ascii(text.front()) && is_ascii(text.back())) {
      break;
    } else {
      const auto* const begins = std::find_if(kBlanks.begin(), kBlanks.end(),
                                              [&](auto blank) { return text.starts_with(blank); });
      if (begins != kBlanks.end()) {
        text.remove_prefix(begins->size());
        continue;
      }
      const auto* const ends = std::find_if(kBlanks.begin(), kBlanks.end(),
                                            [&](auto blank) { return text.ends_with(blank); });
      if (ends == kBlanks.end()) break;
      text.remove_suffix(ends->size());
    }
  }
  return text;
}

}  // namespace chronoward
