#include "core/packed_parts.hpp"

#include <algorithm>
#include <cmath>

#include "core/packed_kernels.hpp"

namespace chronoward {
namespace {

/// Segments are split into one part for each so many rows: what a part prepares costs time too.
constexpr std::size_t kPartRows = 256;

/// The parts of one segment hold about as many causal pairs of query and key each: below row x lie
/// x²/2. They depend on the length alone, so results do not depend on the number of threads.
void split_segment(const PackedRow& row, std::size_t start, std::size_t length,
                   std::vector<Part>& parts) {
  const auto n_parts = std::max<std::size_t>(1, length / kPartRows);
  for (std::size_t p = 0, first = 0, last = length; p < n_parts; ++p, first = last) {
    const double share = static_cast<double>(p + 1) / static_cast<double>(n_parts);
    last = static_cast<std::size_t>(static_cast<double>(length) * std::sqrt(share));
    last = p + 1 == n_parts ? length : last / packed::kQueries * packed::kQueries;
    auto n_keys = last;
    for (auto i = start + first; !row.kv_end.empty() && i < start + last; ++i) {
      n_keys = std::max(n_keys, static_cast<std::size_t>(row.kv_end[i]) - start);
    }
    parts.push_back({start, first, last, n_keys, p});
  }
}

}  // namespace

std::vector<Part> split_row(const PackedRow& row) {
  std::vector<std::size_t> segments;
  for (std::size_t s = 0; s + 1 < row.bounds.size(); ++s) {
    if (row.bounds[s + 1] > row.bounds[s]) segments.push_back(s);
  }
  const auto length = [&](std::size_t s) { return row.bounds[s + 1] - row.bounds[s]; };
  std::stable_sort(segments.begin(), segments.end(),
                   [&](std::size_t a, std::size_t b) { return length(a) > length(b); });
  std::vector<Part> parts;
  for (const auto s : segments) {
    split_segment(row, static_cast<std::size_t>(row.bounds[s]), static_cast<std::size_t>(length(s)),
                  parts);
  }
  return parts;
}

}  // namespace chronoward
