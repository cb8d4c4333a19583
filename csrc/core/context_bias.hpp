#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/row_place.hpp"

// The output layer's biases are looked up by the context: in which kind of visit it stands, and of
// each token whether the context holds it, its companion only, or neither of them.
namespace chronoward {

/// What the context holds of a token. Its companion is the code whose presence announces it best
/// (heart failure announces its subtypes), so a token is `announced` before it is `seen`.
enum class TokenState : std::uint8_t { unseen = 0, announced = 1, seen = 2 };

inline constexpr std::size_t kTokenStates = 3;

/// Which tokens begin and end a kind of visit, and which announce which.
class ContextRules {
 public:
  /// `visit_kind` (V,): the kind a token begins, 0 outside visits, -1 where it changes nothing;
  /// `companion` (V,): the token that announces this one, -1 for none. Throws
  /// std::invalid_argument when sizes differ or a number is out of range.
  ContextRules(std::span<const std::int8_t> visit_kind, std::span<const std::int32_t> companion,
               std::size_t n_kinds);

  std::size_t vocab_size() const noexcept { return visit_kind_.size(); }
  std::size_t n_kinds() const noexcept { return n_kinds_; }

  std::uint8_t kind_after(std::size_t token, std::uint8_t before) const noexcept {
    const auto kind = visit_kind_[token];
    return kind < 0 ? before : static_cast<std::uint8_t>(kind);
  }

  /// Tokens whose companion this one is.
  std::span<const std::int32_t> announces(std::size_t token) const noexcept {
    return {followers_.data() + offsets_[token], offsets_[token + 1] - offsets_[token]};
  }

 private:
  std::vector<std::int8_t> visit_kind_;
  std::size_t n_kinds_;
  std::vector<std::size_t> offsets_;  // (V + 1,) into followers_
  std::vector<std::int32_t> followers_;
};

/// One context, token by token.
class ContextWalk {
 public:
  explicit ContextWalk(const ContextRules& rules);

  void reset();
  /// Throws std::invalid_argument for a token that is not below the vocabulary's size.
  void take(std::int64_t token);

  std::uint8_t kind() const noexcept { return kind_; }
  TokenState state(std::size_t token) const noexcept { return state_[token]; }
  /// Tokens that are not unseen, each once: v where v is seen, V + v where it is announced.
  std::span<const std::int32_t> entries() const noexcept { return entries_; }

 private:
  const ContextRules& rules_;
  std::vector<TokenState> state_;
  std::vector<std::size_t> slot_;  // of a token in entries_
  std::vector<std::int32_t> entries_;
  std::uint8_t kind_ = 0;
};

/// The contexts of chosen places of a packed row, laid end to end.
struct ContextLists {
  std::vector<std::int64_t> kind;     // (n_places,)
  std::vector<std::int64_t> offsets;  // (n_places + 1,) into entry
  std::vector<std::int32_t> entry;    // see ContextWalk::entries
  std::vector<std::uint8_t> next;     // (n_places,), state of the token after the place
};

/// A place's context is its segment up to and including the place; `places` are ascending positions
/// of a packed row whose segments are `bounds`. Where not all tokens have a column in the output
/// layer, `column` (V,) gives it or -1, and entries are numbered by it (C columns instead of V
/// tokens; those without a column are left out); it is empty where all have theirs. Throws
/// std::invalid_argument when a place lies outside every segment, places are not ascending, or a
/// token is not in the vocabulary.
ContextLists context_lists(const ContextRules& rules, std::span<const std::int64_t> token_id,
                           std::span<const std::int32_t> bounds,
                           std::span<const std::int64_t> places,
                           std::span<const std::int64_t> column);

/// The same for decoding: the context in each buffer of a key-value cache.
class ContextBuffers {
 public:
  ContextBuffers(ContextRules rules, std::size_t n_buffers);

  /// Row by row: takes the row's token into its own buffer (a buffer's first token empties it
  /// before), then adds the biases of its context to its logits: `unseen` (K, V) by the kind of
  /// visit, and `known` (K, 2V), on top of that, for tokens seen and announced.
  /// `logits` is (rows, V), or empty to take the tokens only.
  void advance(std::span<const RowPlace> places, std::span<const std::int32_t> token_id,
               std::span<const float> unseen, std::span<const float> known,
               std::span<float> logits);

 private:
  void add(const RowPlace& place, std::uint8_t kind, const float* unseen, const float* known,
           float* logits) const;

  ContextRules rules_;
  std::size_t n_buffers_;
  std::size_t n_words_;
  std::vector<std::uint64_t> words_;  // (n_buffers, n_words): tokens that a buffer holds
  std::vector<std::uint8_t> kind_;    // (n_buffers,): the visit it stands in
};

}  // namespace chronoward
