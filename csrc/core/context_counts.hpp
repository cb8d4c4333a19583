#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/context_bias.hpp"

// Counts over whole timelines that the output layer's biases and companions start from.
namespace chronoward {

/// Timelines laid end to end.
struct TimelineTokens {
  std::span<const std::int64_t> offsets;  // (n + 1,)
  std::span<const std::int32_t> token_id;
};

/// How often candidates come before each other.
struct Precedence {
  std::vector<std::int64_t> before;    // (C, C): timelines where u came first, before v did
  std::vector<std::int64_t> n;         // (C,): timelines that hold the candidate
  std::vector<std::int64_t> n_places;  // (C,): places whose context holds it
};

/// `candidate` (V,) numbers the candidates, -1 for other tokens. Throws std::invalid_argument for a
/// token that is not in the vocabulary.
Precedence count_precedence(const TimelineTokens& timelines,
                            std::span<const std::int32_t> candidate, std::size_t n_candidates);

/// Counts by the token's state, the kind of visit and the token, each (3, K, V).
struct ContextCounts {
  std::vector<std::int64_t> counted;  // times the token came next
  std::vector<std::int64_t> exposed;  // places where it might have
};

/// Every place but a timeline's last counts. Throws as `count_precedence`.
ContextCounts count_contexts(const ContextRules& rules, const TimelineTokens& timelines);

}  // namespace chronoward
