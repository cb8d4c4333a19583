#include "core/cross_entropy.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "core/fastmath.hpp"
#include "core/parallel.hpp"

namespace chronoward {
namespace {

constexpr std::size_t kLanes = 8;
constexpr std::size_t kRowBlock = 32;

CHRONOWARD_CLONES void add_row(const float* bias, std::size_t n, float* x) {
  for (std::size_t i = 0; i < n; ++i) x[i] += bias[i];
}

CHRONOWARD_CLONES float largest(const float* x, std::size_t n) {
  float tops[kLanes];
  std::fill_n(tops, kLanes, -std::numeric_limits<float>::infinity());
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::size_t j = 0; j < kLanes; ++j) tops[j] = x[i + j] > tops[j] ? x[i + j] : tops[j];
  }
  for (; i < n; ++i) tops[0] = x[i] > tops[0] ? x[i] : tops[0];
  return *std::max_element(tops, tops + kLanes);
}

/// Turns x into exp(x − top); returns the sum.
CHRONOWARD_CLONES float exponentials(float top, std::size_t n, float* x) {
  float sums[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::size_t j = 0; j < kLanes; ++j) {
      x[i + j] = fast_exp(x[i + j] - top);
      sums[j] += x[i + j];
    }
  }
  for (; i < n; ++i) {
    x[i] = fast_exp(x[i] - top);
    sums[0] += x[i];
  }
  float sum = 0.0F;
  for (const float lane : sums) sum += lane;
  return sum;
}

CHRONOWARD_CLONES void scale_row(float factor, std::size_t n, float* x) {
  for (std::size_t i = 0; i < n; ++i) x[i] *= factor;
}

/// One row: logits become the gradient; returns the loss.
float row_gradient(const CrossEntropyRows& rows, std::size_t r, float* x) {
  const auto n = rows.bias.size();
  add_row(rows.bias.data(), n, x);
  if (!rows.repeat_bias.empty()) {
    for (auto i = rows.offsets[r]; i < rows.offsets[r + 1]; ++i) {
      const auto token = static_cast<std::size_t>(rows.seen[static_cast<std::size_t>(i)]);
      x[token] += rows.repeat_bias[token];
    }
  }
  const auto aim = static_cast<std::size_t>(rows.target[r]);
  const float chosen = x[aim];
  const float top = largest(x, n);
  const float sum = exponentials(top, n, x);
  scale_row(rows.weight[r] / sum, n, x);
  x[aim] -= rows.weight[r];
  return top + std::log(sum) - chosen;
}

void check(std::size_t n_logits, const CrossEntropyRows& rows, std::size_t n_losses,
           std::size_t n_d_bias, std::size_t n_d_repeat) {
  const auto n = rows.target.size();
  const auto vocab = rows.bias.size();
  const bool repeats = !rows.repeat_bias.empty();
  const bool fits =
      vocab > 0 && n_logits == n * vocab && rows.weight.size() == n && n_losses == n &&
      n_d_bias == vocab &&
      (!repeats ||
       (rows.repeat_bias.size() == vocab && n_d_repeat == vocab && rows.offsets.size() == n + 1 &&
        rows.offsets.front() >= 0 && std::is_sorted(rows.offsets.begin(), rows.offsets.end()) &&
        static_cast<std::size_t>(rows.offsets.back()) <= rows.seen.size()));
  if (!fits) throw std::invalid_argument("cross_entropy: arrays do not fit each other");
  const auto outside = [vocab](auto token) {
    return token < 0 || static_cast<std::size_t>(token) >= vocab;
  };
  if (std::any_of(rows.target.begin(), rows.target.end(), outside) ||
      (repeats && std::any_of(rows.seen.begin(), rows.seen.end(), outside))) {
    throw std::invalid_argument("cross_entropy: a token is not in the vocabulary");
  }
}

}  // namespace

void cross_entropy_rows(std::span<float> logits, const CrossEntropyRows& rows,
                        std::span<float> losses, std::span<float> d_bias,
                        std::span<float> d_repeat_bias, int n_threads) {
  check(logits.size(), rows, losses.size(), d_bias.size(), d_repeat_bias.size());
  const auto n = rows.target.size();
  const auto vocab = rows.bias.size();
  const bool repeats = !rows.repeat_bias.empty();
  const auto n_blocks = (n + kRowBlock - 1) / kRowBlock;
  std::vector<float> sums(n_blocks * vocab, 0.0F);
  std::vector<float> repeat_sums(repeats ? n_blocks * vocab : 0, 0.0F);
  parallel_for(n_blocks, n_threads, [&](std::size_t begin, std::size_t end, std::size_t) {
    for (std::size_t block = begin; block < end; ++block) {
      for (auto r = block * kRowBlock; r < std::min(n, (block + 1) * kRowBlock); ++r) {
        float* x = logits.data() + r * vocab;
        losses[r] = row_gradient(rows, r, x);
        add_row(x, vocab, sums.data() + block * vocab);
        if (!repeats) continue;
        float* repeat = repeat_sums.data() + block * vocab;
        for (auto i = rows.offsets[r]; i < rows.offsets[r + 1]; ++i) {
          const auto token = static_cast<std::size_t>(rows.seen[static_cast<std::size_t>(i)]);
          repeat[token] += x[token];
        }
      }
    }
  });
  for (std::size_t block = 0; block < n_blocks; ++block) {
    add_row(sums.data() + block * vocab, vocab, d_bias.data());
    if (repeats) add_row(repeat_sums.data() + block * vocab, vocab, d_repeat_bias.data());
  }
}

}  // namespace chronoward
