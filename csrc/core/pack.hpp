#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace chronoward {

/// Timelines one after the other: `offsets` has n + 1 entries into the token arrays.
struct TimelineSpans {
  std::span<const std::int64_t> offsets;
  std::span<const std::int32_t> token_id;
};

/// A window is tokens [begin, begin + length) of a timeline behind a lead that is not stored: none
/// for a timeline's first window, else the re-derived prompt and, where the cut lies inside a
/// visit, that visit's first tokens. Positions count from the timeline's own first token.
struct Windows {
  std::vector<std::int64_t> timeline;
  std::vector<std::int64_t> begin;
  std::vector<std::int32_t> length;
  std::vector<std::int32_t> n_lead;
  std::vector<std::int64_t> open_visit;   // position of the visit_start that is open, else -1
  std::vector<std::int64_t> open_detail;  // position of the detail_start that is open, else -1
};

/// Cuts timelines that are longer than a row, at the last visit border that fits; inside a visit
/// (at the last moment, else anywhere but before a value) only where no border fits.
///
/// @param n_prompt tokens of the re-derived prompt, `continued` included.
/// @throws DataError a token id outside the vocabulary; std::invalid_argument a row too short.
Windows cut_windows(const TimelineSpans& timelines, std::span<const std::uint8_t> token_class,
                    std::int32_t row_tokens, std::int32_t n_prompt);

struct Rows {
  std::vector<std::int64_t> offsets;  // n_rows + 1, into `window`
  std::vector<std::int64_t> window;
};

/// Best fit: each window, in `order`, goes into the row of its block of `block` windows that has
/// the least space left for it, among equals the one used last. Not longest first, which fills rows
/// no better and makes each of windows of one length: some of sick subjects only, some of
/// newcomers.
///
/// @throws std::invalid_argument a length outside 1..row_tokens.
Rows pack_rows(std::span<const std::int32_t> lengths, std::span<const std::int64_t> order,
               std::int32_t row_tokens, std::int32_t max_segments, std::size_t block);

}  // namespace chronoward
