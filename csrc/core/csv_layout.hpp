#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace chronoward {

/// What a column of text is read as.
enum class CsvKind : std::uint8_t { kSkip, kInteger, kId, kTime, kDay, kNumber, kText, kCount };

/// What a file of text is like.
struct CsvLayout {
  char delimiter = ',';
  std::vector<CsvKind> kinds;     // of each column
  bool ends_with_return = false;  // lines end with CR LF
  std::size_t max_line_bytes = 0;
};

}  // namespace chronoward
