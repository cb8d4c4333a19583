#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "core/split_spans.hpp"

namespace chronoward {

/// In `TokenValues::value`: the number depends on the code token before this one.
inline constexpr float kValueOfPredecessor = std::numeric_limits<float>::infinity();

/// The number that a token stands for, NaN where none.
struct TokenValues {
  std::span<const float> value;             // (V,)
  std::span<const std::int32_t> bin;        // (V,), read where value is kValueOfPredecessor
  std::span<const std::int32_t> first_bin;  // (V,), of the token's code in `bin_value`
  std::span<const std::int32_t> n_bins;     // (V,)
  std::span<const float> bin_value;
};

/// Parts of timelines, one a row; positions count from a timeline's own first token.
struct SliceSpans {
  std::span<const std::int64_t> timeline;       // (n,)
  std::span<const std::int64_t> begin;          // (n,)
  std::span<const std::int64_t> length;         // (n,)
  std::span<const std::int32_t> static_tokens;  // (n, n_static), 0: none; come before the part
  std::size_t n_static;
};

/// Where padded rows are written, (n, width) each.
struct PaddedOut {
  std::span<std::int64_t> code;
  std::span<float> value;
  std::span<std::uint8_t> has_value;
  std::span<float> delta_days;
  std::span<std::uint8_t> is_static;
};

/// Writes one row a slice: its static tokens, then its part of the timeline, padding (zeros) after
/// them or, with `left`, before. A token's time delta is the days since the token before it in the
/// whole timeline, 0 for static tokens and a timeline's first.
///
/// @throws std::out_of_range a slice outside its timeline; std::invalid_argument a row that
///   overflows; DataError a token id outside the vocabulary.
void fill_padded(const SplitSpans& split, const SliceSpans& slices, const TokenValues& values,
                 std::size_t width, bool left, const PaddedOut& out);

/// Per timeline the tokens whose clock is at most `until_min`, an `end` at their end not counted.
///
/// @throws std::out_of_range no such timeline.
void count_known(const SplitSpans& split, std::span<const std::int64_t> timeline,
                 std::span<const std::int64_t> until_min, std::int32_t end_id,
                 std::span<std::int64_t> known);

/// Per timeline its first `n_prompt` tokens (0 where it has fewer) and the clock at a position.
///
/// @throws std::out_of_range no such timeline or position.
void read_heads(const SplitSpans& split, std::span<const std::int64_t> timeline,
                std::span<const std::int64_t> position, std::size_t n_prompt,
                std::span<std::int32_t> prompt, std::span<std::int32_t> clock);

}  // namespace chronoward
