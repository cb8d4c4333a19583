#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/errors.hpp"

namespace chronoward {

/// @throws std::out_of_range the bitmap is too short for n values from bit `first_bit` on.
inline void check_bitmap(std::size_t n, std::span<const std::uint8_t> valid,
                         std::size_t first_bit) {
  if (first_bit + n > 8 * valid.size()) {
    throw std::out_of_range("the validity bitmap is shorter than its column");
  }
}

/// Whether `null` stands wherever Arrow's validity bitmap says that there is no value, as it does
/// in columns of ours; see `fill_null`.
template <typename T>
bool is_null_filled(std::span<const T> values, std::span<const std::uint8_t> valid,
                    std::size_t first_bit, T null) {
  check_bitmap(values.size(), valid, first_bit);
  std::size_t i = 0;
  for (; first_bit % 8 == 0 && i + 8 <= values.size(); i += 8) {
    const auto missing = static_cast<std::uint8_t>(~valid[(first_bit + i) / 8]);
    if (missing == 0) continue;
    unsigned others = 0;
    for (unsigned j = 0; j < 8; ++j) others |= static_cast<unsigned>(values[i + j] != null) << j;
    if ((others & missing) != 0) return false;
  }
  for (; i < values.size(); ++i) {
    const std::size_t bit = first_bit + i;
    if ((valid[bit / 8] >> (bit % 8) & 1) == 0 && values[i] != null) return false;
  }
  return true;
}

/// Values with `null` where Arrow's validity bitmap says that there is none.
///
/// @param valid the bitmap; the bit of values[i] is number `first_bit` + i, least significant
/// first.
/// @throws std::out_of_range the bitmap is too short.
template <typename T>
std::vector<T> fill_null(std::span<const T> values, std::span<const std::uint8_t> valid,
                         std::size_t first_bit, T null) {
  check_bitmap(values.size(), valid, first_bit);
  std::vector<T> out(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t bit = first_bit + i;
    // all ones where there is a value: no branch, which random nulls would mislead
    const auto kept = static_cast<T>(T{0} - static_cast<T>(valid[bit / 8] >> (bit % 8) & 1));
    out[i] = static_cast<T>((values[i] & kept) | (null & ~kept));
  }
  return out;
}

/// Where each run of equal ids begins, and the end: (n_subjects + 1,).
///
/// @throws DataError ids that do not ascend.
inline std::vector<std::int64_t> subject_offsets(std::span<const std::int64_t> subject_id) {
  std::vector<std::int64_t> out;
  for (std::size_t i = 0; i < subject_id.size(); ++i) {
    if (i > 0 && subject_id[i] == subject_id[i - 1]) continue;
    if (i > 0 && subject_id[i] < subject_id[i - 1]) {
      throw DataError("events row " + std::to_string(i) +
                      ": subjects must be contiguous and ascending");
    }
    out.push_back(static_cast<std::int64_t>(i));
  }
  out.push_back(static_cast<std::int64_t>(subject_id.size()));
  return out;
}

}  // namespace chronoward
