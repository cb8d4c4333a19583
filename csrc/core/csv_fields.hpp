#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/csv_layout.hpp"

namespace chronoward {

/// Finds the fields of a block of delimited text, some whole rows at a time; fields may be quoted
/// by ", doubled inside.
///
/// The bytes between fields are found 64 at a time and nothing else is looked at, so that rows are
/// found at the speed at which they lie in memory, and a column can be read row by row.
class CsvFieldFinder {
 public:
  /// @param is_last the last row needs no line end.
  /// @throws std::invalid_argument a layout without columns, or 4 GiB or more.
  CsvFieldFinder(std::string_view block, const CsvLayout& layout, bool is_last);

  /// Goes on to the next rows; false where no whole one is left.
  ///
  /// @throws DataError text that not every reader of CSV takes to be the same: another number of
  ///   fields, an empty line, text beside quotes, a quote inside a field, a NUL byte, another line
  ///   end, a line that is too long.
  bool next();

  /// Of the rows that `next` found.
  std::size_t n_rows() const { return n_rows_; }

  /// Whether some fields of the block so far, and perhaps of theirs, are quoted.
  bool has_quotes() const { return has_quotes_; }

  /// A field as it is written, with its quotes.
  std::string_view field(std::size_t row, std::size_t column) const {
    const std::size_t i = row * n_columns_ + column;
    const std::size_t begin = std::uint32_t{borders_[i] + 1};
    std::size_t end = borders_[i + 1];
    if (ends_with_return_ && column + 1 == n_columns_ && end != block_.size()) --end;
    return {block_.data() + begin, end - begin};
  }

  /// Whether all bytes that were looked at are ASCII.
  bool is_ascii() const { return is_ascii_; }

  /// Bytes of all rows that were found.
  std::size_t n_bytes() const { return n_bytes_; }

 private:
  void forget_rows();
  void scan();
  void look_at(const char* window, std::size_t n);
  std::uint64_t settle_rare(const char* window, std::size_t n, std::uint64_t borders,
                            std::uint64_t& line_ends);
  void check_rows();
  void check_quotes() const;

  std::string_view block_;
  std::size_t n_columns_;
  std::size_t max_line_bytes_;
  char delimiter_;
  bool ends_with_return_;
  bool is_last_;
  /// Places of the bytes that end a field, from the one before the first row on (one before the
  /// block for the first row, so that adding one gives 0).
  std::vector<std::uint32_t> borders_;
  std::size_t n_found_ = 0;  // of them, but for that one
  std::size_t n_rows_ = 0;
  std::size_t n_bytes_ = 0;
  std::size_t at_ = 0;           // how far the block was looked at
  std::size_t n_rows_all_ = 0;   // found so far
  std::size_t n_line_ends_ = 0;  // seen so far
  bool has_quotes_ = false;
  bool is_ascii_ = true;
  bool is_quoted_ = false;  // at at_
};

/// A field without the quotes around it.
///
/// @param room for a field with quotes inside, which are written twice; valid as long as it.
inline std::string_view unquoted(std::string_view field, std::string& room) {
  if (field.empty() || field.front() != '"') return field;
  field = field.substr(1, field.size() - 2);
  if (field.find('"') == std::string_view::npos) return field;
  room.clear();
  for (std::size_t k = 0; k < field.size(); ++k) {
    room.push_back(field[k]);
    if (field[k] == '"') ++k;
  }
  return room;
}

}  // namespace chronoward
