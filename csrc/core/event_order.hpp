#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace chronoward {

/// Events whose subjects ascend; nulls are the least value of each column (NaN for `number`).
struct EventKeys {
  std::span<const std::int64_t> subject, available;
  std::span<const std::uint8_t> role;
  std::span<const std::int32_t> table, code, unit;  // ranks in byte order
  std::span<const float> number;
  std::span<const std::int32_t> text;
  std::span<const std::int64_t> time, visit_id, end_time;
};

/// The canonical order of chronoward/schema.py: inside a subject by available time, role, table,
/// code, unit, number, text, time, visit and end.
///
/// @returns rows in that order.
/// @throws std::invalid_argument columns of different lengths, or subjects that fall.
std::vector<std::int64_t> canonical_order(const EventKeys& events);

}  // namespace chronoward
