#include "core/csv_piece.hpp"

#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "core/csv_fields.hpp"
#include "core/csv_values.hpp"
#include "core/days.hpp"

namespace chronoward {
namespace {

constexpr double kNoNumber = std::numeric_limits<double>::quiet_NaN();

/// Room for n more values at the end.
template <typename T>
T* grown(std::vector<T>& values, std::size_t n) {
  values.resize(values.size() + n);
  return values.data() + (values.size() - n);
}

/// Takes the fields of one column, some rows at a time.
class ColumnSink {
 public:
  ColumnSink(CsvKind kind, std::size_t place, CsvColumn& column)
      : kind_(kind), place_(place), column_(column) {}

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

  /// @param first number of the first of the rows within the piece.
  void take(const CsvFieldFinder& rows, std::int64_t first) {
    first_ = first;
    switch (kind_) {
      case CsvKind::kInteger:
        return take_integers(rows, read_integer);
      case CsvKind::kTime:
        return take_integers(rows, read_time);
      case CsvKind::kDay:
        return take_integers(rows, read_day);
      case CsvKind::kNumber:
        return take_numbers(rows);
      case CsvKind::kId:
        return take_all(rows, column_.index,
                        [this](auto field, auto row) { return id(field, row); });
      case CsvKind::kText:
        return take_all(rows, column_.index, [this](auto field, auto) { return text(field); });
      case CsvKind::kSkip:
      case CsvKind::kCount:
        return;
    }
  }

 private:
  /// Puts what is made of each row's field.
  template <typename T, typename Make>
  void take_all(const CsvFieldFinder& rows, std::vector<T>& out, const Make& make) {
    T* const made = grown(out, rows.n_rows());
    if (rows.has_quotes()) {
      for (std::size_t row = 0; row < rows.n_rows(); ++row) {
        made[row] = make(unquoted(rows.field(row, place_), room_), row);
      }
    } else {
      for (std::size_t row = 0; row < rows.n_rows(); ++row) {
        made[row] = make(rows.field(row, place_), row);
      }
    }
  }

  template <typename Read>
  void take_integers(const CsvFieldFinder& rows, const Read& read) {
    take_all(rows, column_.integers, [&](std::string_view field, std::size_t row) {
      std::int64_t value = kNullUs;
      if (!field.empty() && !read(field, value)) leave(field, row);
      return value;
    });
  }

  void take_numbers(const CsvFieldFinder& rows) {
    take_all(rows, column_.numbers, [&](std::string_view field, std::size_t row) {
      double value = kNoNumber;
      if (field.empty() || read_number(field, value)) return value;
      leave(field, row);
      return kNoNumber;
    });
  }

  std::int32_t id(std::string_view field, std::size_t row) {
    if (field.empty()) return -1;
    if (is_same_text(field, last_)) return last_number_;  // they come in runs
    std::int64_t value = 0;
    if (!read_integer(field, value)) {
      leave(field, row);
      return -1;
    }
    last_ = field;
    return last_number_ = column_.ids.of(value);
  }

  std::int32_t text(std::string_view field) {
    if (field.empty()) return -1;
    if (is_same_text(field, last_)) return last_number_;
    const std::string_view text = trimmed(field);
    last_ = field.data() == room_.data() ? std::string_view{} : field;
    return last_number_ = text.empty() ? -1 : column_.texts.of(text);
  }

  void leave(std::string_view field, std::size_t row) {
    column_.unread_row.push_back(first_ + static_cast<std::int64_t>(row));
    column_.unread.push_back(column_.unread_texts.of(field));
  }

  CsvKind kind_;
  std::size_t place_;
  CsvColumn& column_;
  std::int64_t first_ = 0;
  std::string_view last_;  // of the block
  std::int32_t last_number_ = -1;
  std::string room_;
};

}  // namespace

CsvPiece read_csv(std::string_view block, const CsvLayout& layout, bool is_last) {
  CsvFieldFinder rows(block, layout, is_last);
  CsvPiece out;
  out.columns.resize(layout.kinds.size());
  std::vector<ColumnSink> sinks;
  for (std::size_t i = 0; i < layout.kinds.size(); ++i) {
    if (layout.kinds[i] != CsvKind::kSkip) sinks.emplace_back(layout.kinds[i], i, out.columns[i]);
  }
  while (rows.next()) {
    if (out.n_rows == 0) {  // room for as many as the first ones let expect, and some more
      const double share = static_cast<double>(block.size()) / static_cast<double>(rows.n_bytes());
      const double n_expected = 1.05 * share * static_cast<double>(rows.n_rows());
      for (ColumnSink& sink : sinks) sink.reserve(static_cast<std::size_t>(n_expected) + 1);
    }
    for (ColumnSink& sink : sinks) sink.take(rows, out.n_rows);
    out.n_rows += static_cast<std::int64_t>(rows.n_rows());
  }
  out.n_bytes = rows.n_bytes();
  out.is_ascii = rows.is_ascii();
  return out;
}

}  // namespace chronoward
