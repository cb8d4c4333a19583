#include "core/csv_piece.hpp"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <chrono>
#include <limits>
#include <stdexcept>

#include "core/days.hpp"
#include "core/errors.hpp"

namespace chronoward {
namespace {

constexpr std::size_t kMaxDigits = 18;  // any such integer fits 64 bits

[[noreturn]] void irregular(const char* what) { throw DataError(what); }

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// An integer as its shortest form has it.
bool read_integer(std::string_view text, std::int64_t& out) {
  const bool is_negative = text.front() == '-';
  const std::string_view digits = text.substr(is_negative ? 1 : 0);
  if (digits.empty() || digits.size() > kMaxDigits) return false;
  if (digits.front() == '0' && (digits.size() > 1 || is_negative)) return false;
  std::int64_t value = 0;
  for (const char c : digits) {
    if (!is_digit(c)) return false;
    value = value * 10 + (c - '0');
  }
  out = is_negative ? -value : value;
  return true;
}

/// n digits at a place.
bool read_digits(std::string_view text, std::size_t at, std::size_t n, int& out) {
  out = 0;
  for (std::size_t i = at; i < at + n; ++i) {
    if (!is_digit(text[i])) return false;
    out = out * 10 + (text[i] - '0');
  }
  return true;
}

/// YYYY-MM-DD, and behind a blank or T perhaps hh:mm:ss with up to six decimals.
bool read_time(std::string_view text, std::int64_t& out) {
  using namespace std::chrono;
  int y = 0, m = 0, d = 0;
  if (text.size() < 10 || text[4] != '-' || text[7] != '-' || !read_digits(text, 0, 4, y) ||
      !read_digits(text, 5, 2, m) || !read_digits(text, 8, 2, d) || y < 1) {
    return false;
  }
  const year_month_day date{year{y}, month{static_cast<unsigned>(m)},
                            day{static_cast<unsigned>(d)}};
  if (!date.ok()) return false;
  out = sys_days{date}.time_since_epoch().count() * kUsPerDay;
  if (text.size() == 10) return true;
  int hour = 0, minute = 0, second = 0, part = 0;
  if (text.size() < 19 || (text[10] != ' ' && text[10] != 'T') || text[13] != ':' ||
      text[16] != ':' || !read_digits(text, 11, 2, hour) || !read_digits(text, 14, 2, minute) ||
      !read_digits(text, 17, 2, second) || hour > 23 || minute > 59 || second > 59) {
    return false;
  }
  if (text.size() > 19) {
    const std::size_t n = text.size() - 20;
    if (text[19] != '.' || n < 1 || n > 6 || !read_digits(text, 20, n, part)) return false;
    for (std::size_t i = n; i < 6; ++i) part *= 10;
  }
  out += ((std::int64_t{hour} * 60 + minute) * 60 + second) * 1'000'000 + part;
  return true;
}

/// As `read_time`, 00:00:00 of the day.
bool read_day(std::string_view text, std::int64_t& out) {
  if (!read_time(text, out)) return false;
  if (text.size() > 10) out = day_of(out);
  return true;
}

/// Digits and perhaps decimals, few enough that both parts of the fraction are exact; false else.
bool read_short_number(std::string_view text, double& out) {
  static constexpr std::array<double, 16> kTens = {1e0, 1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                                   1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
  const bool is_negative = text.front() == '-';
  std::int64_t digits = 0;
  std::size_t point = text.size(), i = is_negative ? 1 : 0;
  const std::size_t first = i;
  if (text.size() - first > kTens.size()) return false;
  for (; i < text.size(); ++i) {
    if (is_digit(text[i])) {
      digits = digits * 10 + (text[i] - '0');
    } else if (text[i] == '.' && point == text.size() && i > first) {
      point = i;
    } else {
      return false;
    }
  }
  const std::size_t n_decimals = point == text.size() ? 0 : text.size() - point - 1;
  if (text.size() == first || (point != text.size() && n_decimals == 0)) return false;
  if (point == text.size() && text.size() - first > 15) return false;
  const double value = static_cast<double>(digits) / kTens[n_decimals];
  out = is_negative ? -value : value;
  return true;
}

/// A decimal number: digits, perhaps decimals, perhaps an exponent.
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

// Blanks of any script (Unicode's class Zs) that are no ASCII.
constexpr std::array<std::string_view, 16> kBlanks = {
    "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005",
    "\u2006", "\u2007", "\u2008", "\u2009", "\u200a", "\u202f", "\u205f", "\u3000"};

/// Without blanks of any script at its ends, as SQL's TRIM has it.
std::string_view trimmed(std::string_view text) {
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

/// Takes the fields of one column.
class ColumnSink {
 public:
  ColumnSink(CsvKind kind, CsvColumn& column) : kind_(kind), column_(column) {}

  void reserve(std::size_t n_rows) {
    switch (kind_) {
      case CsvKind::kInteger:
      case CsvKind::kTime:
      case CsvKind::kDay:
        return column_.integers.reserve(n_rows);
      case CsvKind::kNumber:
        return column_.numbers.reserve(n_rows);
      case CsvKind::kId:
      case CsvKind::kText:
        return column_.index.reserve(n_rows);
      case CsvKind::kSkip:
      case CsvKind::kCount:
        return;
    }
  }

  void put(std::string_view field, std::int64_t row) {
    switch (kind_) {
      case CsvKind::kInteger:
        return put_integer(field, row, read_integer);
      case CsvKind::kTime:
        return put_integer(field, row, read_time);
      case CsvKind::kDay:
        return put_integer(field, row, read_day);
      case CsvKind::kNumber: {
        double value = std::numeric_limits<double>::quiet_NaN();
        if (!field.empty() && !read_number(field, value)) {
          value = std::numeric_limits<double>::quiet_NaN();
          leave(field, row);
        }
        column_.numbers.push_back(value);
        return;
      }
      case CsvKind::kId:
        return put_id(field, row);
      case CsvKind::kText:
        return put_text(field);
      case CsvKind::kSkip:
      case CsvKind::kCount:
        return;
    }
  }

 private:
  template <typename Read>
  void put_integer(std::string_view field, std::int64_t row, const Read& read) {
    std::int64_t value = kNullUs;
    if (!field.empty() && !read(field, value)) {
      value = kNullUs;
      leave(field, row);
    }
    column_.integers.push_back(value);
  }

  void put_id(std::string_view field, std::int64_t row) {
    std::int64_t id = 0;
    if (field.empty()) {
      column_.index.push_back(-1);
    } else if (is_same_text(field, last_)) {  // they come in runs
      column_.index.push_back(last_number_);
    } else if (read_integer(field, id)) {
      last_number_ = column_.ids.of(id);
      last_ = field;
      column_.index.push_back(last_number_);
    } else {
      leave(field, row);
      column_.index.push_back(-1);
    }
  }

  void put_text(std::string_view field) {
    const std::string_view text = trimmed(field);
    if (text.empty()) {
      column_.index.push_back(-1);
      return;
    }
    // as above; what was quoted does not lie in the block
    if (last_number_ < 0 ||
        !is_same_text(column_.texts.text(static_cast<std::size_t>(last_number_)), text)) {
      last_number_ = column_.texts.of(text);
    }
    column_.index.push_back(last_number_);
  }

  void leave(std::string_view field, std::int64_t row) {
    column_.unread_row.push_back(row);
    column_.unread.push_back(column_.unread_texts.of(field));
  }

  CsvKind kind_;
  CsvColumn& column_;
  std::string_view last_;  // of the block
  std::int32_t last_number_ = -1;
};

/// Finds bytes that end a field, or must not be in one, 64 at a time.
class SpecialBytes {
 public:
  SpecialBytes(char delimiter, const char* begin, const char* end)
      : delimiter_(delimiter), end_(end), window_(begin), looked_at_(begin) {
    for (const char c : {delimiter, '\n', '\r', '"', '\0'}) {
      is_special_[static_cast<unsigned char>(c)] = true;
    }
  }

  /// The first one at or behind a place, which never goes back; the end where there is none.
  const char* next(const char* at) {
    for (; at < end_; at = looked_at_) {
      if (at >= looked_at_) look_at(at);
      const std::uint64_t left = mask_ >> (at - window_);
      if (left != 0) return at + std::countr_zero(left);
    }
    return end_;
  }

 private:
  static constexpr std::ptrdiff_t kWindow = 64;

  void look_at(const char* at) {
    const std::ptrdiff_t n = std::min(kWindow, end_ - at);
    window_ = at;
    looked_at_ = at + n;
    mask_ = 0;
#ifdef __SSE2__
    if (n == kWindow) {
      const auto is = [](__m128i bytes, char c) { return _mm_cmpeq_epi8(bytes, _mm_set1_epi8(c)); };
      for (int k = 0; k < 4; ++k) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at) + k);
        const __m128i ends =
            _mm_or_si128(is(bytes, delimiter_), _mm_or_si128(is(bytes, '\n'), is(bytes, '\r')));
        const __m128i bad = _mm_or_si128(is(bytes, '"'), is(bytes, '\0'));
        const auto found = static_cast<std::uint32_t>(_mm_movemask_epi8(_mm_or_si128(ends, bad)));
        mask_ |= std::uint64_t{found} << (16 * k);
      }
      return;
    }
#endif
    for (std::ptrdiff_t k = 0; k < n; ++k) {
      mask_ |= std::uint64_t{is_special_[static_cast<unsigned char>(at[k])]} << k;
    }
  }

  std::array<bool, 256> is_special_{};
  char delimiter_;
  const char* end_;
  const char* window_;
  const char* looked_at_;   // the window's end
  std::uint64_t mask_ = 0;  // of the window: where the bytes are
};

/// Reads rows of a block, field by field.
class BlockReader {
 public:
  BlockReader(std::string_view block, const CsvLayout& layout, bool is_last, CsvPiece& out)
      : at_(block.data()),
        begin_(at_),
        end_(at_ + block.size()),
        special_(layout.delimiter, at_, end_),
        layout_(layout),
        is_last_(is_last),
        out_(out) {
    out.columns.resize(layout.kinds.size());
    sinks_.reserve(layout.kinds.size());
    for (std::size_t i = 0; i < layout.kinds.size(); ++i) {
      sinks_.emplace_back(layout.kinds[i], out.columns[i]);
      if (layout.kinds[i] != CsvKind::kSkip) taken_.push_back(i);
    }
    fields_.resize(layout.kinds.size());
    unquoted_.resize(layout.kinds.size());
  }

  void read() {
    while (at_ < end_ && read_row()) {
      for (const std::size_t i : taken_) sinks_[i].put(fields_[i], out_.n_rows);
      ++out_.n_rows;
      out_.n_bytes = static_cast<std::size_t>(at_ - begin_);
      if (out_.n_rows == kFirstRows) reserve();
    }
  }

 private:
  static constexpr std::int64_t kFirstRows = 64;

  /// Room for as many rows as the first ones let expect, and some more.
  void reserve() {
    const auto n_bytes = static_cast<double>(end_ - begin_);
    const auto n_rows = static_cast<double>(kFirstRows) / static_cast<double>(out_.n_bytes);
    for (const std::size_t i : taken_) {
      sinks_[i].reserve(static_cast<std::size_t>(1.05 * n_bytes * n_rows) + kFirstRows);
    }
  }

  /// Finds the fields of the row at at_ and goes behind it; false where it does not end here.
  bool read_row() {
    const char* const first = at_;
    for (std::size_t i = 0; i < fields_.size(); ++i) {
      if (!read_field(i)) return false;
      const bool is_over = i + 1 == fields_.size();
      if (at_ == end_) {
        if (!is_over) irregular("a row has too few fields");
        return true;
      }
      if (*at_ == layout_.delimiter) {
        if (is_over) irregular("a row has too many fields");
        ++at_;
        continue;
      }
      if (!is_over) irregular("a row has too few fields");
      if (layout_.ends_with_return) ++at_;  // the CR; `read_field` has seen the LF behind it
      ++at_;
    }
    if (static_cast<std::size_t>(at_ - first) > layout_.max_line_bytes) {
      irregular("a line is too long");
    }
    return true;
  }

  /// The field at at_; at_ goes to what ends it. False where the block ends before that.
  bool read_field(std::size_t i) {
    if (at_ < end_ && *at_ == '"') return read_quoted(i);
    const char* const first = at_;
    at_ = special_.next(at_);
    if (at_ < end_ && (*at_ == '"' || *at_ == '\0')) {
      irregular("a quote or a NUL byte inside a field");
    }
    if (at_ == end_ && !is_last_) return false;
    fields_[i] = {first, static_cast<std::size_t>(at_ - first)};
    if (fields_.size() == 1 && fields_[i].empty()) irregular("an empty line");
    return ends_well();
  }

  bool read_quoted(std::size_t i) {
    const char* const first = ++at_;
    bool is_plain = true;
    while (true) {
      at_ = std::find(at_, end_, '"');
      if (at_ == end_) {
        if (is_last_) irregular("a quoted field does not end");
        return false;
      }
      if (at_ + 1 == end_ && !is_last_) return false;  // it may be doubled
      if (at_ + 1 == end_ || at_[1] != '"') break;
      is_plain = false;
      at_ += 2;
    }
    std::string_view field{first, static_cast<std::size_t>(at_ - first)};
    ++at_;
    if (field.find('\0') != std::string_view::npos) irregular("a NUL byte");
    if (!is_plain) {
      unquoted_[i].clear();
      for (std::size_t k = 0; k < field.size(); ++k) {
        unquoted_[i].push_back(field[k]);
        if (field[k] == '"') ++k;
      }
      field = unquoted_[i];
    }
    fields_[i] = field;
    if (at_ == end_) return is_last_;
    if (*at_ != layout_.delimiter && *at_ != '\n' && *at_ != '\r') irregular("text beside quotes");
    return ends_well();
  }

  /// Whether the line end at at_, if there is one, is the file's kind and in the block as a whole.
  bool ends_well() {
    if (at_ == end_ || *at_ == layout_.delimiter) return true;
    if ((*at_ == '\r') != layout_.ends_with_return) irregular("line ends of several kinds");
    if (!layout_.ends_with_return) return true;
    if (at_ + 1 == end_) {
      if (is_last_) irregular("a CR without LF");
      return false;
    }
    if (at_[1] != '\n') irregular("a CR without LF");
    return true;
  }

  const char* at_;
  const char* begin_;
  const char* end_;
  SpecialBytes special_;
  const CsvLayout& layout_;
  bool is_last_;
  CsvPiece& out_;
  std::vector<ColumnSink> sinks_;
  std::vector<std::size_t> taken_;  // columns that are not skipped
  std::vector<std::string_view> fields_;
  std::vector<std::string> unquoted_;
};

}  // namespace

CsvPiece read_csv(std::string_view block, const CsvLayout& layout, bool is_last) {
  if (layout.kinds.empty()) throw std::invalid_argument("a file needs a column");
  CsvPiece out;
  BlockReader(block, layout, is_last, out).read();
  return out;
}

}  // namespace chronoward
