#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace chronoward {

/// The arrays of one mapped shard that rows are made of.
struct ShardSpans {
  std::span<const std::int32_t> token_id;
  std::span<const std::int32_t> time_min;
  std::span<const std::uint8_t> n_prior;
  std::span<const std::int32_t> obs_start_min;
  std::span<const std::int32_t> obs_end_min;
};

/// Segments of rows, one entry each; positions count from the shard's first token or period.
struct SegmentSpans {
  std::span<const std::int64_t> shard;
  std::span<const std::int64_t> begin;
  std::span<const std::int32_t> length;
  std::span<const std::int32_t> n_lead;
  std::span<const std::int64_t> open_visit;   // -1: none
  std::span<const std::int64_t> open_detail;  // -1: none
  std::span<const std::int64_t> period_begin;
  std::span<const std::int64_t> period_end;
  std::span<const std::int32_t> prompt;  // (n_segments, n_prompt), read where n_lead > 0
};

/// Where rows are written: (n_rows, row_tokens), and (n_rows, max_segments + 1) for the bounds.
struct RowsOut {
  std::span<std::int32_t> token_id;
  std::span<std::int32_t> time_min;
  std::span<std::uint8_t> n_prior;
  std::span<std::uint8_t> loss_mask;
  std::span<std::int32_t> cu_seqlens;
};

/// Writes rows. The loss mask is 1 where the token is a target: not in a lead, a prompt or padding,
/// not `end`, and not a gap that crosses time in which the subject was not observed.
///
/// @param row_offsets n_rows + 1, into the segments.
/// @throws std::out_of_range a segment outside its shard; std::invalid_argument a row that
/// overflows;
///   DataError a token id outside the vocabulary.
void fill_rows(std::span<const ShardSpans> shards, const SegmentSpans& segments,
               std::span<const std::int64_t> row_offsets, std::span<const std::uint8_t> token_class,
               std::int32_t row_tokens, std::int32_t max_segments, const RowsOut& out);

}  // namespace chronoward
