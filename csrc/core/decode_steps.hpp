#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/decode_model.hpp"
#include "core/row_place.hpp"
#include "core/sample.hpp"

// Forward and draw in turn for the slots of an engine, without the caller in between.
namespace chronoward {

/// Contexts that go on, a row each. Tokens, clocks and places are left as the next step takes them.
struct RunningRows {
  std::span<const std::int32_t> slots;  // of the sampler
  std::span<std::int32_t> token_id;     // drawn, not yet in the cache
  std::span<std::int32_t> time_min;     // clock of each token
  std::span<const std::int32_t> start_min;
  std::span<RowPlace> places;
};

/// Steps until a row's rollout ends, at most `max_steps` times; returns how many steps there were.
/// `logits` (rows, V) is scratch, `status` (rows,) says how the last step left each row.
std::size_t decode_steps(DecodeModel& model, Sampler& sampler, const RunningRows& rows,
                         std::size_t max_steps, std::span<float> logits,
                         std::span<std::uint8_t> status);

}  // namespace chronoward
