#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/attention.hpp"

// Which tokens a context holds already: the output layer gives them a bias of their own.
namespace chronoward {

/// Distinct tokens of each place's segment up to and including the place, laid end to end.
struct SeenLists {
  std::vector<std::int64_t> offsets;   // (n_places + 1,)
  std::vector<std::int32_t> token_id;  // in order of first occurrence
};

/// `places` are ascending positions of a packed row whose segments are `bounds`.
/// Throws std::invalid_argument when a place lies outside every segment, places are not ascending,
/// or a token is not below `vocab_size`.
SeenLists seen_lists(std::span<const std::int64_t> token_id, std::span<const std::int32_t> bounds,
                     std::span<const std::int64_t> places, std::size_t vocab_size);

/// The same for decoding: a set of tokens for each buffer of a key-value cache.
class SeenTokens {
 public:
  SeenTokens(std::size_t n_buffers, std::size_t vocab_size);

  /// Row by row: takes the row's token into its own buffer (a buffer's first token empties it
  /// before), then adds to its logits the bias of each token that its prefix or own buffer holds.
  /// `logits` is (rows, V), or empty to take the tokens only.
  void advance(std::span<const RowPlace> places, std::span<const std::int32_t> token_id,
               std::span<const float> bias, std::span<float> logits);

 private:
  void add(const RowPlace& place, const float* bias, float* logits) const;

  std::size_t n_buffers_;
  std::size_t vocab_size_;
  std::size_t n_words_;
  std::vector<std::uint64_t> words_;  // (n_buffers, n_words)
};

}  // namespace chronoward
