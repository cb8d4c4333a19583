#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace chronoward {

/// Numbers the distinct 64-bit keys of a column in ascending order, like a sort-free np.unique.
struct DistinctKeys {
  std::vector<std::int64_t> keys;   // ascending
  std::vector<std::int32_t> index;  // (N,) position of each row's key in `keys`
};

/// Keys of rows made of small numbers: ((role * n_tables + table) * n_codes + code) * (n_units + 1)
/// + unit + 1; unit -1 is none.
struct KeyColumns {
  std::span<const std::uint8_t> role;
  std::span<const std::int32_t> table, code, unit;
  std::int64_t n_tables = 0, n_codes = 0, n_units = 0;
};

DistinctKeys distinct_keys(const KeyColumns& columns);

/// Events and distinct subjects per key of rows whose subjects are contiguous.
struct KeyCounts {
  std::vector<std::int64_t> n_events, n_subjects;
};

KeyCounts count_keys(std::span<const std::int32_t> key, std::span<const std::int64_t> subject_id,
                     std::size_t n_keys);

}  // namespace chronoward
