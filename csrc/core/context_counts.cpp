#include "core/context_counts.hpp"

#include <algorithm>
#include <stdexcept>

namespace chronoward {
namespace {

std::span<const std::int32_t> timeline(const TimelineTokens& all, std::size_t i) {
  const auto begin = all.offsets[i], end = all.offsets[i + 1];
  if (begin < 0 || end < begin || static_cast<std::size_t>(end) > all.token_id.size()) {
    throw std::invalid_argument("offsets do not fit the tokens");
  }
  return all.token_id.subspan(static_cast<std::size_t>(begin),
                              static_cast<std::size_t>(end - begin));
}

std::size_t checked(std::int32_t token, std::size_t vocab) {
  if (token < 0 || static_cast<std::size_t>(token) >= vocab) {
    throw std::invalid_argument("a token is not in the vocabulary");
  }
  return static_cast<std::size_t>(token);
}

/// Adds up the counts, one timeline after the other.
class Counter {
 public:
  Counter(const ContextRules& rules, ContextCounts& counts)
      : vocab_(rules.vocab_size()),
        n_kinds_(rules.n_kinds()),
        walk_(rules),
        places_(n_kinds_, 0),
        all_places_(n_kinds_, 0),
        since_(vocab_ * n_kinds_, 0),
        counts_(counts) {
    counts.counted.assign(kTokenStates * n_kinds_ * vocab_, 0);
    counts.exposed.assign(kTokenStates * n_kinds_ * vocab_, 0);
  }

  void add(std::span<const std::int32_t> tokens) {
    walk_.reset();
    std::fill(places_.begin(), places_.end(), 0);
    for (std::size_t p = 0; p < tokens.size(); ++p) {
      const auto token = checked(tokens[p], vocab_);
      if (p > 0) ++counts_.counted[cell(walk_.state(token), walk_.kind(), token)];
      if (walk_.state(token) == TokenState::announced) leave(token);
      const auto n_before = walk_.entries().size();
      const bool is_new = walk_.state(token) != TokenState::seen;
      walk_.take(tokens[p]);
      if (is_new) enter(token);
      for (auto e = n_before; e < walk_.entries().size(); ++e) {
        enter(static_cast<std::size_t>(walk_.entries()[e]) % vocab_);
      }
      if (p + 1 < tokens.size()) ++places_[walk_.kind()];
    }
    for (const auto entry : walk_.entries()) leave(static_cast<std::size_t>(entry) % vocab_);
    for (std::size_t k = 0; k < n_kinds_; ++k) all_places_[k] += places_[k];
  }

  /// What no token spent in another state it was unseen.
  void finish() {
    for (std::size_t k = 0; k < n_kinds_; ++k) {
      for (std::size_t v = 0; v < vocab_; ++v) {
        counts_.exposed[cell(TokenState::unseen, k, v)] += all_places_[k];
      }
    }
  }

 private:
  std::size_t cell(TokenState state, std::size_t kind, std::size_t token) const {
    return (static_cast<std::size_t>(state) * n_kinds_ + kind) * vocab_ + token;
  }

  /// The token enters a state at the next place.
  void enter(std::size_t token) {
    std::copy(places_.begin(), places_.end(),
              since_.begin() + static_cast<std::ptrdiff_t>(token * n_kinds_));
  }

  /// The token leaves its state: its places count there, and not as unseen.
  void leave(std::size_t token) {
    for (std::size_t k = 0; k < n_kinds_; ++k) {
      const auto spent = places_[k] - since_[token * n_kinds_ + k];
      counts_.exposed[cell(walk_.state(token), k, token)] += spent;
      counts_.exposed[cell(TokenState::unseen, k, token)] -= spent;
    }
  }

  std::size_t vocab_, n_kinds_;
  ContextWalk walk_;
  std::vector<std::int64_t> places_, all_places_;  // by kind: of this timeline so far, of all
  std::vector<std::int64_t> since_;                // (V, K): places_ when the token's state began
  ContextCounts& counts_;
};

}  // namespace

Precedence count_precedence(const TimelineTokens& timelines,
                            std::span<const std::int32_t> candidate, std::size_t n_candidates) {
  Precedence counts;
  counts.before.assign(n_candidates * n_candidates, 0);
  counts.n.assign(n_candidates, 0);
  counts.n_places.assign(n_candidates, 0);
  std::vector<std::size_t> last_timeline(n_candidates, 0);  // 1-based number, 0: none
  std::vector<std::size_t> held;
  for (std::size_t i = 0; i + 1 < timelines.offsets.size(); ++i) {
    const auto tokens = timeline(timelines, i);
    held.clear();
    for (std::size_t p = 0; p < tokens.size(); ++p) {
      const auto number = candidate[checked(tokens[p], candidate.size())];
      if (number < 0) continue;
      const auto v = static_cast<std::size_t>(number);
      if (last_timeline[v] == i + 1) continue;
      last_timeline[v] = i + 1;
      ++counts.n[v];
      counts.n_places[v] += static_cast<std::int64_t>(tokens.size() - 1 - p);
      for (const auto u : held) ++counts.before[u * n_candidates + v];
      held.push_back(v);
    }
  }
  return counts;
}

ContextCounts count_contexts(const ContextRules& rules, const TimelineTokens& timelines) {
  ContextCounts counts;
  Counter counter(rules, counts);
  for (std::size_t i = 0; i + 1 < timelines.offsets.size(); ++i) {
    counter.add(timeline(timelines, i));
  }
  counter.finish();
  return counts;
}

}  // namespace chronoward
