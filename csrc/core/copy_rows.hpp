#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace chronoward {

/// How many values some rows have together.
///
/// @param offsets (n + 1,), non-decreasing; row i has the values offsets[i] .. offsets[i + 1].
/// @param rows below n.
inline std::size_t count_values(std::span<const std::int64_t> offsets,
                                std::span<const std::int64_t> rows) {
  std::int64_t n = 0;
  for (const std::int64_t row : rows) {
    const auto i = static_cast<std::size_t>(row);
    n += offsets[i + 1] - offsets[i];
  }
  return static_cast<std::size_t>(n);
}

/// Copies the values of some rows, one row after the other; neighbors are copied as one run.
///
/// @param offsets, rows as of `count_values`.
/// @param values (offsets[n],).
/// @param out (count_values(offsets, rows),).
template <typename T>
void copy_rows(std::span<const std::int64_t> offsets, std::span<const std::int64_t> rows,
               std::span<const T> values, std::span<T> out) {
  auto place = out.begin();
  for (std::size_t i = 0; i < rows.size();) {
    const std::int64_t first = rows[i];
    std::int64_t last = first + 1;
    while (++i < rows.size() && rows[i] == last) ++last;
    place = std::copy(values.begin() + offsets[static_cast<std::size_t>(first)],
                      values.begin() + offsets[static_cast<std::size_t>(last)], place);
  }
}

/// The way back: puts what stands one row after the other to where each row is.
///
/// @param offsets, rows as of `count_values`.
/// @param values (count_values(offsets, rows),).
/// @param out (offsets[n],).
template <typename T>
void put_rows(std::span<const std::int64_t> offsets, std::span<const std::int64_t> rows,
              std::span<const T> values, std::span<T> out) {
  auto place = values.begin();
  for (const std::int64_t row : rows) {
    const std::int64_t begin = offsets[static_cast<std::size_t>(row)];
    const auto next = place + (offsets[static_cast<std::size_t>(row) + 1] - begin);
    std::copy(place, next, out.begin() + begin);
    place = next;
  }
}

}  // namespace chronoward
