#include "core/csv_piece.hpp"

#include <algorithm>
#include <array>
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

std::uint64_t mixed(std::uint64_t h) {
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ULL;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebULL;
  return h ^ (h >> 31);
}

/// Places of distinct values, by open addressing.
template <typename Value, typename Equal, typename Hash>
class Places {
 public:
  Places(Equal equal, Hash hash) : equal_(equal), hash_(hash), slots_(64, -1) {}

  /// The place of a value; calls add() where it is new, which appends it.
  template <typename Add>
  std::int32_t of(const Value& value, const Add& add) {
    const std::uint64_t h = hash_(value);
    std::size_t slot = h & (slots_.size() - 1);
    for (; slots_[slot] >= 0; slot = (slot + 1) & (slots_.size() - 1)) {
      const auto place = static_cast<std::size_t>(slots_[slot]);
      if (hashes_[place] == h && equal_(place, value)) return slots_[slot];
    }
    const auto place = static_cast<std::int32_t>(hashes_.size());
    slots_[slot] = place;
    hashes_.push_back(h);
    add();
    if (2 * hashes_.size() > slots_.size()) grow();
    return place;
  }

 private:
  void grow() {
    slots_.assign(2 * slots_.size(), -1);
    for (std::size_t i = 0; i < hashes_.size(); ++i) {
      std::size_t slot = hashes_[i] & (slots_.size() - 1);
      while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<std::int32_t>(i);
    }
  }

  Equal equal_;
  Hash hash_;
  std::vector<std::int32_t> slots_;
  std::vector<std::uint64_t> hashes_;
};

struct SameText {
  const std::vector<std::string>* texts;
  bool operator()(std::size_t place, std::string_view text) const {
    return (*texts)[place] == text;
  }
};
struct SameId {
  const std::vector<std::int64_t>* ids;
  bool operator()(std::size_t place, std::int64_t id) const { return (*ids)[place] == id; }
};
struct HashText {
  std::uint64_t operator()(std::string_view text) const {
    return mixed(std::hash<std::string_view>{}(text));
  }
};
struct HashId {
  std::uint64_t operator()(std::int64_t id) const { return mixed(static_cast<std::uint64_t>(id)); }
};
using TextPlaces = Places<std::string_view, SameText, HashText>;
using IdPlaces = Places<std::int64_t, SameId, HashId>;

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

/// A decimal number: digits, perhaps decimals, perhaps an exponent.
bool read_number(std::string_view text, double& out) {
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

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

/// Takes the fields of one column.
class ColumnSink {
 public:
  ColumnSink(CsvKind kind, CsvColumn& column)
      : kind_(kind),
        column_(column),
        texts_(SameText{kind == CsvKind::kText ? &column.texts : &column.unread_texts}, {}),
        ids_(SameId{&column.ids}, {}) {}

  void put(std::string_view field, std::int64_t row) {
    switch (kind_) {
      case CsvKind::kInteger:
      case CsvKind::kTime: {
        std::int64_t value = kNullUs;
        if (!field.empty() &&
            !(kind_ == CsvKind::kTime ? read_time(field, value) : read_integer(field, value))) {
          value = kNullUs;
          leave(field, row);
        }
        column_.integers.push_back(value);
        return;
      }
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
      case CsvKind::kText: {
        const std::string_view text = trimmed(field);
        column_.index.push_back(text.empty() ? -1 : place_of(text, column_.texts));
        return;
      }
      case CsvKind::kSkip:
      case CsvKind::kCount:
        return;
    }
  }

 private:
  void put_id(std::string_view field, std::int64_t row) {
    std::int64_t id = 0;
    if (field.empty()) {
      column_.index.push_back(-1);
    } else if (field == last_) {  // they come in runs
      column_.index.push_back(last_place_);
    } else if (read_integer(field, id)) {
      last_place_ = ids_.of(id, [&] { column_.ids.push_back(id); });
      last_ = field;
      column_.index.push_back(last_place_);
    } else {
      leave(field, row);
      column_.index.push_back(-1);
    }
  }

  void leave(std::string_view field, std::int64_t row) {
    column_.unread_row.push_back(row);
    column_.unread.push_back(place_of(field, column_.unread_texts));
  }

  std::int32_t place_of(std::string_view text, std::vector<std::string>& texts) {
    return texts_.of(text, [&] { texts.emplace_back(text); });
  }

  CsvKind kind_;
  CsvColumn& column_;
  TextPlaces texts_;
  IdPlaces ids_;
  std::string_view last_;  // of the block
  std::int32_t last_place_ = -1;
};

/// Reads rows of a block, field by field.
class BlockReader {
 public:
  BlockReader(std::string_view block, const CsvLayout& layout, bool is_last, CsvPiece& out)
      : at_(block.data()),
        begin_(at_),
        end_(at_ + block.size()),
        layout_(layout),
        is_last_(is_last),
        out_(out) {
    out.columns.resize(layout.kinds.size());
    sinks_.reserve(layout.kinds.size());
    for (std::size_t i = 0; i < layout.kinds.size(); ++i) {
      sinks_.emplace_back(layout.kinds[i], out.columns[i]);
    }
    fields_.resize(layout.kinds.size());
    unquoted_.resize(layout.kinds.size());
    for (const char c : {layout.delimiter, '\n', '\r', '"', '\0'}) {
      is_special_[static_cast<unsigned char>(c)] = true;
    }
  }

  void read() {
    while (at_ < end_ && read_row()) {
      for (std::size_t i = 0; i < fields_.size(); ++i) {
        if (layout_.kinds[i] != CsvKind::kSkip) sinks_[i].put(fields_[i], out_.n_rows);
      }
      ++out_.n_rows;
      out_.n_bytes = static_cast<std::size_t>(at_ - begin_);
    }
  }

 private:
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
    while (at_ < end_ && !is_special_[static_cast<unsigned char>(*at_)]) ++at_;
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
  const CsvLayout& layout_;
  bool is_last_;
  CsvPiece& out_;
  std::array<bool, 256> is_special_{};  // ends a field, or must not be in one
  std::vector<ColumnSink> sinks_;
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
