#include "core/decode_steps.hpp"

#include <algorithm>

namespace chronoward {

std::size_t decode_steps(DecodeModel& model, Sampler& sampler, const RunningRows& rows,
                         std::size_t max_steps, std::span<float> logits,
                         std::span<std::uint8_t> status) {
  constexpr auto running = static_cast<std::uint8_t>(Status::running);
  for (std::size_t step = 0; step < max_steps; ++step) {
    model.step({rows.token_id, rows.time_min, rows.start_min, rows.places}, logits);
    sampler.step(logits, rows.slots, rows.token_id, rows.time_min, status);
    for (auto& place : rows.places) ++place.own_length;
    if (std::ranges::any_of(status, [](auto s) { return s != running; })) return step + 1;
  }
  return max_steps;
}

}  // namespace chronoward
