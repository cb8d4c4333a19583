#include "core/repeat.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

namespace chronoward {

SeenLists seen_lists(std::span<const std::int64_t> token_id, std::span<const std::int32_t> bounds,
                     std::span<const std::int64_t> places, std::size_t vocab_size) {
  SeenLists lists;
  lists.offsets.reserve(places.size() + 1);
  lists.offsets.push_back(0);
  std::vector<std::size_t> last_segment(vocab_size, 0);  // 1-based number of the segment, 0: none
  std::vector<std::int32_t> seen;
  std::size_t next = 0;
  for (std::size_t s = 0; s + 1 < bounds.size(); ++s) {
    seen.clear();
    for (auto at = static_cast<std::int64_t>(bounds[s]); at < bounds[s + 1]; ++at) {
      if (at < 0 || static_cast<std::size_t>(at) >= token_id.size()) {
        throw std::invalid_argument("cu_seqlens lies outside the row");
      }
      const auto token = token_id[static_cast<std::size_t>(at)];
      if (token < 0 || static_cast<std::size_t>(token) >= vocab_size) {
        throw std::invalid_argument("token " + std::to_string(token) + " is not in the vocabulary");
      }
      auto& marked = last_segment[static_cast<std::size_t>(token)];
      if (marked != s + 1) {
        marked = s + 1;
        seen.push_back(static_cast<std::int32_t>(token));
      }
      if (next < places.size() && places[next] == at) {
        lists.token_id.insert(lists.token_id.end(), seen.begin(), seen.end());
        lists.offsets.push_back(static_cast<std::int64_t>(lists.token_id.size()));
        ++next;
      }
    }
  }
  if (next != places.size()) {
    throw std::invalid_argument("places must be ascending positions inside segments");
  }
  return lists;
}

SeenTokens::SeenTokens(std::size_t n_buffers, std::size_t vocab_size)
    : n_buffers_(n_buffers), vocab_size_(vocab_size), n_words_((vocab_size + 63) / 64) {
  words_.assign(n_buffers * n_words_, 0);
}

void SeenTokens::advance(std::span<const RowPlace> places, std::span<const std::int32_t> token_id,
                         std::span<const float> bias, std::span<float> logits) {
  if (token_id.size() != places.size() || bias.size() != vocab_size_ ||
      (!logits.empty() && logits.size() != places.size() * vocab_size_)) {
    throw std::invalid_argument("tokens, bias or logits do not fit the rows");
  }
  const auto n = static_cast<std::int32_t>(n_buffers_);
  for (std::size_t r = 0; r < places.size(); ++r) {
    const auto& place = places[r];
    const auto token = static_cast<std::size_t>(token_id[r]);
    if (place.prefix_buffer < 0 || place.prefix_buffer >= n || place.own_buffer < 0 ||
        place.own_buffer >= n) {
      throw std::invalid_argument("a row's place lies outside the buffers");
    }
    if (token_id[r] < 0 || token >= vocab_size_) {
      throw std::invalid_argument("token " + std::to_string(token_id[r]) +
                                  " is not in the vocabulary");
    }
    auto* words = words_.data() + static_cast<std::size_t>(place.own_buffer) * n_words_;
    if (place.own_length == 1) std::fill_n(words, n_words_, std::uint64_t{0});
    words[token / 64] |= std::uint64_t{1} << (token % 64);
    if (!logits.empty()) add(place, bias.data(), logits.data() + r * vocab_size_);
  }
}

void SeenTokens::add(const RowPlace& place, const float* bias, float* logits) const {
  const auto* own = words_.data() + static_cast<std::size_t>(place.own_buffer) * n_words_;
  const auto* prefix = words_.data() + static_cast<std::size_t>(place.prefix_buffer) * n_words_;
  for (std::size_t w = 0; w < n_words_; ++w) {
    auto bits = own[w] | (place.prefix_length > 0 ? prefix[w] : 0);
    for (; bits != 0; bits &= bits - 1) {
      const auto token = 64 * w + static_cast<std::size_t>(std::countr_zero(bits));
      logits[token] += bias[token];
    }
  }
}

}  // namespace chronoward
