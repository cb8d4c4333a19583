#pragma once

#include <cstdint>

namespace chronoward {

/// Where a row's keys are: `prefix_length` tokens of one buffer, then `own_length` of another (the
/// row's own token is the last of them).
struct RowPlace {
  std::int32_t prefix_buffer = 0;
  std::int32_t prefix_length = 0;
  std::int32_t own_buffer = 0;
  std::int32_t own_length = 0;
};

}  // namespace chronoward
