#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace chronoward {

/// Rows of logits and what they have to predict.
struct CrossEntropyRows {
  std::span<const float> bias;            // (V,)
  std::span<const std::int64_t> target;   // (n,)
  std::span<const float> weight;          // (n,)
  std::span<const float> repeat_bias;     // (V,), or empty
  std::span<const std::int64_t> offsets;  // (n + 1,) into seen; unused without repeat_bias
  std::span<const std::int32_t> seen;     // tokens that get their repeat_bias
};

/// Replaces each row x of `logits` (n, V), to which bias and repeat_bias are added first, by the
/// gradient of weight · −log softmax(x)[target], and adds up the gradients of both biases.
/// `losses` (n,) get the unweighted terms. Sums run in blocks of rows, in order, so the result does
/// not depend on the number of threads. Throws std::invalid_argument when sizes do not fit.
void cross_entropy_rows(std::span<float> logits, const CrossEntropyRows& rows,
                        std::span<float> losses, std::span<float> d_bias,
                        std::span<float> d_repeat_bias, int n_threads);

}  // namespace chronoward
