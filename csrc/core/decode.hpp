#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace chronoward {

/// Token timelines as decode needs them.
struct TimelineView {
  std::span<const std::int64_t> offsets;
  std::span<const std::int32_t> token_id, time_min, event_min;
};

/// What tokens stand for, (V,) each.
struct DecodeTables {
  std::vector<std::uint8_t> token_class;
  std::vector<std::int32_t> token_entry;
  std::vector<std::uint8_t> has_value;
  bool has_age = false;  // a timeline without the token of an unknown age starts at a birth
  std::int32_t age_unknown = -1;
};

/// One row an event (chronoward/tokenizer/decode.py, DecodedRows).
struct DecodedRows {
  std::vector<std::int64_t> subject;
  std::vector<std::uint8_t> role;
  std::vector<std::int32_t> entry, value;
  std::vector<std::int64_t> position;
  std::vector<std::int32_t> time_min, available_min, end_min, visit;
};

/// Decodes all timelines, in token order; the result does not depend on `n_threads`.
DecodedRows decode(const DecodeTables& tables, const TimelineView& timelines, int n_threads);

}  // namespace chronoward
