#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/decode.hpp"

namespace chronoward {

/// The automaton and the clock's bounds (chronoward/tokenizer/grammar.py, GrammarTables).
struct Grammar {
  std::vector<std::uint8_t> token_class;
  std::vector<std::int8_t> next_state;  // (S, C) by rows
  std::size_t n_classes = 0;
  std::int32_t start_state = 0;
  std::vector<std::uint32_t> state_mask;  // (S, W) by rows
  std::vector<std::uint32_t> sex_mask;    // (3, W) by rows
  std::vector<std::uint8_t> token_sex;
  std::vector<std::uint8_t> duration_rule;
  std::vector<std::int32_t> duration_q;  // (V, n_knots) by rows
  std::size_t n_knots = 0;
  std::vector<std::int32_t> duration_lo, duration_hi;
  std::int32_t max_clock_min = 0;
  std::size_t n_prompt = 0;
};

/// Which rule a timeline breaks; the order is that of `kGrammarRules`.
enum class GrammarRule : std::uint8_t {
  kTokenRange,  // not an id of the vocabulary
  kOrder,       // the automaton refuses the class here
  kMask,        // the state's mask refuses the token
  kSex,         // a code of the other sex
  kClockBack,   // the clock goes back
  kClockMoved,  // the clock moves at a token without a duration
  kDuration,    // the clock moves by another duration than the token's
  kClockCap,    // the clock passes the cap
  kEventTime,   // the event's own time lies after the clock
  kIncomplete,  // the timeline does not reach its end
  kCount,
};

inline constexpr const char* kGrammarRules[] = {
    "token_range", "order",    "mask",      "sex",        "clock_back",
    "clock_moved", "duration", "clock_cap", "event_time", "incomplete"};

/// The first fault of each timeline that has one.
struct Violations {
  std::vector<std::int64_t> subject, position;  // position is global in the batch
  std::vector<std::uint8_t> rule;
  std::vector<std::int32_t> state;
};

/// Checks all timelines; `complete` demands that each reaches `end`.
Violations validate(const Grammar& grammar, const TimelineView& timelines, bool complete,
                    int n_threads);

}  // namespace chronoward
