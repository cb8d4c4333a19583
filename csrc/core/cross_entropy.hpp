#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace chronoward {

/// Rows of logits and what they have to predict; the biases are those of core/context_bias.hpp.
struct CrossEntropyRows {
  std::size_t n_kinds;
  std::span<const float> unseen;          // (K, V)
  std::span<const float> known;           // (K, 2V)
  std::span<const std::int64_t> target;   // (n,)
  std::span<const float> weight;          // (n,)
  std::span<const std::int64_t> kind;     // (n,), visit that each row stands in
  std::span<const std::int64_t> offsets;  // (n + 1,) into entry
  std::span<const std::int32_t> entry;    // v: seen, V + v: announced
};

/// Replaces each row x of `logits` (n, V), to which its biases are added first, by the gradient of
/// weight · −log softmax(x)[target], and adds up the gradients of both tables of biases (empty: not
/// wanted). `losses` (n,) get the unweighted terms. Sums run over the rows in order, so the result
/// does not depend on the number of threads. Throws std::invalid_argument when sizes do not fit.
void cross_entropy_rows(std::span<float> logits, const CrossEntropyRows& rows,
                        std::span<float> losses, std::span<float> d_unseen,
                        std::span<float> d_known, int n_threads);

}  // namespace chronoward
