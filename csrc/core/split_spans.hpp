#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

namespace chronoward {

/// The arrays of one mapped shard that batches are made of; offsets have n + 1 entries.
struct ShardSpans {
  std::span<const std::int64_t> offsets;  // into the token arrays
  std::span<const std::int32_t> token_id;
  std::span<const std::int32_t> time_min;
  std::span<const std::uint8_t> n_prior;
  std::span<const std::int64_t> obs_offsets;  // into the period arrays
  std::span<const std::int32_t> obs_start_min;
  std::span<const std::int32_t> obs_end_min;
};

/// A timeline's place in its shard.
struct TimelinePlace {
  const ShardSpans* shard;
  std::size_t row;    // in the shard
  std::size_t begin;  // its tokens, in the shard
  std::size_t end;
};

/// A split: shards one after the other, timelines numbered through.
struct SplitSpans {
  std::vector<ShardSpans> shards;
  std::span<const std::int64_t> first_row;  // n_shards + 1, number of each shard's first timeline

  /// @throws std::out_of_range no such timeline.
  TimelinePlace find(std::int64_t timeline) const {
    if (timeline < 0 || timeline >= first_row.back()) {
      throw std::out_of_range("a timeline that the split does not have");
    }
    const auto above = std::upper_bound(first_row.begin(), first_row.end(), timeline);
    const auto number = static_cast<std::size_t>(above - first_row.begin()) - 1;
    const ShardSpans& shard = shards[number];
    const auto row = static_cast<std::size_t>(timeline - first_row[number]);
    return {&shard, row, static_cast<std::size_t>(shard.offsets[row]),
            static_cast<std::size_t>(shard.offsets[row + 1])};
  }
};

}  // namespace chronoward
