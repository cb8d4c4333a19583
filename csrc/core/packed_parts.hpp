#pragma once

#include <cstddef>
#include <vector>

#include "core/packed_attention.hpp"

namespace chronoward {

/// Rows of a segment that make one task with each key head.
struct Part {
  std::size_t start;        // of the segment
  std::size_t first, last;  // its rows, inside the segment
  std::size_t n_keys;       // of the segment, that its rows see
  std::size_t index;        // among the parts of the segment
};

/// The parts of all segments, the longest segments first. They depend on the lengths alone, so
/// results do not depend on the number of threads.
std::vector<Part> split_row(const PackedRow& row);

}  // namespace chronoward
