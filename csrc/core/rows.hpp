#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/split_spans.hpp"

namespace chronoward {

/// All windows of a split (see `Windows`); positions count from a timeline's own first token.
struct WindowSpans {
  std::span<const std::int64_t> timeline;
  std::span<const std::int64_t> begin;
  std::span<const std::int32_t> length;
  std::span<const std::int32_t> n_lead;
  std::span<const std::int64_t> open_visit;   // -1: none
  std::span<const std::int64_t> open_detail;  // -1: none
};

/// Which windows go into which row, one segment each.
struct SegmentSpans {
  std::span<const std::int64_t> window;       // (n_segments,)
  std::span<const std::int64_t> row_offsets;  // (n_rows + 1,), into `window`
  /// (n_late, n_prompt): re-derived prompts of the segments whose window has a lead, in order.
  std::span<const std::int32_t> prompt;
  std::size_t n_prompt;
};

/// Where rows are written: (n_rows, row_tokens), (n_rows, max_segments + 1) for the bounds and
/// (n_rows, max_segments) for what a segment is.
struct RowsOut {
  std::span<std::int32_t> token_id;
  std::span<std::int32_t> time_min;
  std::span<std::uint8_t> n_prior;
  std::span<std::uint8_t> loss_mask;
  std::span<std::int32_t> cu_seqlens;
  std::span<std::int64_t> timeline;  // -1: no segment
  std::span<std::int64_t> begin;
  std::span<std::int32_t> n_lead;
};

/// Writes rows. The loss mask is 1 where the token is a target: not in a lead, a prompt or padding,
/// not `end`, and not a gap that crosses time in which the subject was not observed.
///
/// @throws std::out_of_range a window outside its timeline; std::invalid_argument a row that
///   overflows; DataError a token id outside the vocabulary.
void fill_rows(const SplitSpans& split, const WindowSpans& windows, const SegmentSpans& segments,
               std::span<const std::uint8_t> token_class, std::int32_t row_tokens,
               std::int32_t max_segments, const RowsOut& out);

}  // namespace chronoward
