#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/csv_layout.hpp"
#include "core/numbering.hpp"

namespace chronoward {

/// A column of some rows. What is not written plainly ("007", " 7", "7.0", "1/2/2020") is unread:
/// the caller says what it means.
struct CsvColumn {
  std::vector<std::int64_t> integers;  // kInteger, kTime and kDay (us since 1970); kNullUs for null
  std::vector<double> numbers;         // kNumber; NaN for null
  std::vector<std::int32_t> index;     // kId, kText: number in `ids` or `texts`, -1 for null
  IdNumbering ids;                     // of this piece
  TextNumbering texts;                 // of this piece, without blanks at their ends
  std::vector<std::int64_t> unread_row;  // null above
  std::vector<std::int32_t> unread;      // of each: number in `unread_texts`
  TextNumbering unread_texts;
};

/// Whole rows of a block of text.
struct CsvPiece {
  std::vector<CsvColumn> columns;
  std::int64_t n_rows = 0;
  std::size_t n_bytes = 0;  // of the block; a row that does not end in it is left
  bool is_ascii = true;
};

/// Reads rows of delimited text; fields may be quoted by ", doubled inside.
///
/// Only what every reader of CSV takes to be the same is read.
///
/// @param is_last the last row needs no line end.
/// @throws DataError anything else: another number of fields, an empty line, text beside quotes, a
///   quote inside a field, a NUL byte, another line end, a line that is too long.
CsvPiece read_csv(std::string_view block, const CsvLayout& layout, bool is_last);

}  // namespace chronoward
