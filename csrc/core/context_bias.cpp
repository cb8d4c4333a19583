#include "core/context_bias.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <stdexcept>
#include <string>

namespace chronoward {
namespace {

[[noreturn]] void refuse_token(std::int64_t token) {
  throw std::invalid_argument("token " + std::to_string(token) + " is not in the vocabulary");
}

/// Entries by token become entries by column, see `context_lists`.
void append_columns(std::span<const std::int32_t> entries, std::span<const std::int64_t> column,
                    std::int64_t n_columns, std::vector<std::int32_t>& out) {
  const auto vocab = column.size();
  for (const auto entry : entries) {
    const auto e = static_cast<std::size_t>(entry);
    const auto place = column[e < vocab ? e : e - vocab];
    if (place < 0) continue;
    out.push_back(static_cast<std::int32_t>(e < vocab ? place : n_columns + place));
  }
}

}  // namespace

ContextRules::ContextRules(std::span<const std::int8_t> visit_kind,
                           std::span<const std::int32_t> companion, std::size_t n_kinds)
    : visit_kind_(visit_kind.begin(), visit_kind.end()), n_kinds_(n_kinds) {
  const auto vocab = visit_kind.size();
  const auto bad_kind = [n_kinds](std::int8_t kind) {
    return kind < -1 || (kind >= 0 && static_cast<std::size_t>(kind) >= n_kinds);
  };
  const auto bad_token = [vocab](std::int32_t token) {
    return token < -1 || (token >= 0 && static_cast<std::size_t>(token) >= vocab);
  };
  if (companion.size() != vocab || n_kinds == 0 ||
      vocab > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max() / 2) ||
      std::any_of(visit_kind.begin(), visit_kind.end(), bad_kind) ||
      std::any_of(companion.begin(), companion.end(), bad_token)) {
    throw std::invalid_argument("visit kinds or companions do not fit the vocabulary");
  }
  offsets_.assign(vocab + 1, 0);
  for (const auto u : companion) {
    if (u >= 0) ++offsets_[static_cast<std::size_t>(u) + 1];
  }
  for (std::size_t u = 0; u < vocab; ++u) offsets_[u + 1] += offsets_[u];
  followers_.resize(offsets_.back());
  auto next = offsets_;
  for (std::size_t v = 0; v < vocab; ++v) {
    if (companion[v] < 0) continue;
    followers_[next[static_cast<std::size_t>(companion[v])]++] = static_cast<std::int32_t>(v);
  }
}

ContextWalk::ContextWalk(const ContextRules& rules)
    : rules_(rules), state_(rules.vocab_size(), TokenState::unseen), slot_(rules.vocab_size(), 0) {}

void ContextWalk::reset() {
  const auto vocab = static_cast<std::int32_t>(state_.size());
  for (const auto entry : entries_) {
    state_[static_cast<std::size_t>(entry % vocab)] = TokenState::unseen;
  }
  entries_.clear();
  kind_ = 0;
}

void ContextWalk::take(std::int64_t token) {
  if (token < 0 || static_cast<std::size_t>(token) >= state_.size()) refuse_token(token);
  const auto v = static_cast<std::size_t>(token);
  kind_ = rules_.kind_after(v, kind_);
  if (state_[v] == TokenState::seen) return;
  if (state_[v] == TokenState::announced) {
    entries_[slot_[v]] = static_cast<std::int32_t>(v);
  } else {
    slot_[v] = entries_.size();
    entries_.push_back(static_cast<std::int32_t>(v));
  }
  state_[v] = TokenState::seen;
  for (const auto follower : rules_.announces(v)) {
    const auto f = static_cast<std::size_t>(follower);
    if (state_[f] != TokenState::unseen) continue;
    state_[f] = TokenState::announced;
    slot_[f] = entries_.size();
    entries_.push_back(static_cast<std::int32_t>(state_.size() + f));
  }
}

ContextLists context_lists(const ContextRules& rules, std::span<const std::int64_t> token_id,
                           std::span<const std::int32_t> bounds,
                           std::span<const std::int64_t> places,
                           std::span<const std::int64_t> column) {
  if (!column.empty() && column.size() != rules.vocab_size()) {
    throw std::invalid_argument("column does not fit the vocabulary");
  }
  const auto n_columns = std::count_if(column.begin(), column.end(), [](auto c) { return c >= 0; });
  ContextLists lists;
  lists.offsets.reserve(places.size() + 1);
  lists.offsets.push_back(0);
  ContextWalk walk(rules);
  std::size_t next = 0;
  for (std::size_t s = 0; s + 1 < bounds.size(); ++s) {
    walk.reset();
    for (auto at = static_cast<std::int64_t>(bounds[s]); at < bounds[s + 1]; ++at) {
      if (at < 0 || static_cast<std::size_t>(at) >= token_id.size()) {
        throw std::invalid_argument("cu_seqlens lies outside the row");
      }
      walk.take(token_id[static_cast<std::size_t>(at)]);
      if (next == places.size() || places[next] != at) continue;
      const auto entries = walk.entries();
      if (column.empty()) {
        lists.entry.insert(lists.entry.end(), entries.begin(), entries.end());
      } else {
        append_columns(entries, column, n_columns, lists.entry);
      }
      lists.offsets.push_back(static_cast<std::int64_t>(lists.entry.size()));
      lists.kind.push_back(walk.kind());
      const bool ends = at + 1 >= bounds[s + 1];
      const auto after = ends ? -1 : token_id[static_cast<std::size_t>(at + 1)];
      const bool known = after >= 0 && static_cast<std::size_t>(after) < rules.vocab_size();
      lists.next.push_back(static_cast<std::uint8_t>(
          known ? walk.state(static_cast<std::size_t>(after)) : TokenState::unseen));
      ++next;
    }
  }
  if (next != places.size()) {
    throw std::invalid_argument("places must be ascending positions inside segments");
  }
  return lists;
}

ContextBuffers::ContextBuffers(ContextRules rules, std::size_t n_buffers)
    : rules_(std::move(rules)), n_buffers_(n_buffers), n_words_((rules_.vocab_size() + 63) / 64) {
  words_.assign(n_buffers * n_words_, 0);
  kind_.assign(n_buffers, 0);
}

void ContextBuffers::advance(std::span<const RowPlace> places,
                             std::span<const std::int32_t> token_id, std::span<const float> unseen,
                             std::span<const float> known, std::span<float> logits) {
  const auto vocab = rules_.vocab_size();
  const auto table = rules_.n_kinds() * vocab;
  if (token_id.size() != places.size() || unseen.size() != table || known.size() != 2 * table ||
      (!logits.empty() && logits.size() != places.size() * vocab)) {
    throw std::invalid_argument("tokens, biases or logits do not fit the rows");
  }
  const auto n = static_cast<std::int32_t>(n_buffers_);
  for (std::size_t r = 0; r < places.size(); ++r) {
    const auto& place = places[r];
    if (place.prefix_buffer < 0 || place.prefix_buffer >= n || place.own_buffer < 0 ||
        place.own_buffer >= n) {
      throw std::invalid_argument("a row's place lies outside the buffers");
    }
    if (token_id[r] < 0 || static_cast<std::size_t>(token_id[r]) >= vocab) {
      refuse_token(token_id[r]);
    }
    const auto token = static_cast<std::size_t>(token_id[r]);
    const auto own = static_cast<std::size_t>(place.own_buffer);
    auto* words = words_.data() + own * n_words_;
    if (place.own_length == 1) {
      std::fill_n(words, n_words_, std::uint64_t{0});
      kind_[own] = place.prefix_length > 0 ? kind_[static_cast<std::size_t>(place.prefix_buffer)]
                                           : std::uint8_t{0};
    }
    words[token / 64] |= std::uint64_t{1} << (token % 64);
    kind_[own] = rules_.kind_after(token, kind_[own]);
    if (!logits.empty()) {
      add(place, kind_[own], unseen.data(), known.data(), logits.data() + r * vocab);
    }
  }
}

void ContextBuffers::add(const RowPlace& place, std::uint8_t kind, const float* unseen,
                         const float* known, float* logits) const {
  const auto vocab = rules_.vocab_size();
  const auto* own = words_.data() + static_cast<std::size_t>(place.own_buffer) * n_words_;
  const auto* prefix = words_.data() + static_cast<std::size_t>(place.prefix_buffer) * n_words_;
  const auto word = [&](std::size_t w) {
    return own[w] | (place.prefix_length > 0 ? prefix[w] : 0);
  };
  const float* base = unseen + kind * vocab;
  const float* seen = known + kind * 2 * vocab;
  const float* announced = seen + vocab;
  for (std::size_t v = 0; v < vocab; ++v) logits[v] += base[v];
  for (std::size_t w = 0; w < n_words_; ++w) {
    for (auto bits = word(w); bits != 0; bits &= bits - 1) {
      const auto token = 64 * w + static_cast<std::size_t>(std::countr_zero(bits));
      logits[token] += seen[token];
      for (const auto follower : rules_.announces(token)) {
        const auto f = static_cast<std::size_t>(follower);
        if (((word(f / 64) >> (f % 64)) & 1U) == 0) logits[f] += announced[f];
      }
    }
  }
}

}  // namespace chronoward
