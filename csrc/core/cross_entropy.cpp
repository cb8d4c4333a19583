#include "core/cross_entropy.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "core/fastmath.hpp"
#include "core/parallel.hpp"

namespace chronoward {
namespace {

constexpr std::size_t kLanes = 8;
constexpr std::size_t kColumns = 256;  // of the logits that one thread adds up at a time

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
float row_gradient(const CrossEntropyRows& rows, std::size_t n, std::size_t r, float* x) {
  const auto kind = static_cast<std::size_t>(rows.kind[r]);
  add_row(rows.unseen.data() + kind * n, n, x);
  const float* known = rows.known.data() + kind * 2 * n;
  for (auto i = rows.offsets[r]; i < rows.offsets[r + 1]; ++i) {
    const auto entry = static_cast<std::size_t>(rows.entry[static_cast<std::size_t>(i)]);
    x[entry < n ? entry : entry - n] += known[entry];
  }
  const auto aim = static_cast<std::size_t>(rows.target[r]);
  const float chosen = x[aim];
  const float top = largest(x, n);
  const float sum = exponentials(top, n, x);
  scale_row(rows.weight[r] / sum, n, x);
  x[aim] -= rows.weight[r];
  return top + std::log(sum) - chosen;
}

/// Adds the gradients of all rows' logits to those of the biases by kind of visit.
void add_unseen(std::span<const float> logits, const CrossEntropyRows& rows, std::size_t n,
                std::span<float> d_unseen, int n_threads) {
  parallel_for((n + kColumns - 1) / kColumns, n_threads,
               [&](std::size_t begin, std::size_t end, std::size_t) {
                 for (std::size_t block = begin; block < end; ++block) {
                   const auto first = block * kColumns;
                   const auto width = std::min(kColumns, n - first);
                   for (std::size_t r = 0; r < rows.kind.size(); ++r) {
                     const auto kind = static_cast<std::size_t>(rows.kind[r]);
                     add_row(logits.data() + r * n + first, width,
                             d_unseen.data() + kind * n + first);
                   }
                 }
               });
}

/// The same for the biases of tokens that a context holds or that are announced.
void add_known(std::span<const float> logits, const CrossEntropyRows& rows, std::size_t n,
               std::span<float> d_known) {
  for (std::size_t r = 0; r < rows.kind.size(); ++r) {
    const float* x = logits.data() + r * n;
    float* sums = d_known.data() + static_cast<std::size_t>(rows.kind[r]) * 2 * n;
    for (auto i = rows.offsets[r]; i < rows.offsets[r + 1]; ++i) {
      const auto entry = static_cast<std::size_t>(rows.entry[static_cast<std::size_t>(i)]);
      sums[entry] += x[entry < n ? entry : entry - n];
    }
  }
}

/// Number of tokens.
std::size_t checked_width(std::size_t n_logits, const CrossEntropyRows& rows, std::size_t n_losses,
                          std::size_t n_d_unseen, std::size_t n_d_known) {
  const auto n = rows.target.size();
  const auto vocab = rows.n_kinds == 0 ? 0 : rows.unseen.size() / rows.n_kinds;
  const auto table = rows.n_kinds * vocab;
  const bool fits = vocab > 0 && rows.unseen.size() == table && rows.known.size() == 2 * table &&
                    n_logits == n * vocab && rows.weight.size() == n && rows.kind.size() == n &&
                    n_losses == n && (n_d_unseen == 0 || n_d_unseen == table) &&
                    (n_d_known == 0 || n_d_known == 2 * table) && rows.offsets.size() == n + 1 &&
                    rows.offsets.front() >= 0 &&
                    std::is_sorted(rows.offsets.begin(), rows.offsets.end()) &&
                    static_cast<std::size_t>(rows.offsets.back()) <= rows.entry.size();
  if (!fits) throw std::invalid_argument("cross_entropy: arrays do not fit each other");
  const auto below = [](std::size_t limit) {
    return [limit](auto number) { return number >= 0 && static_cast<std::size_t>(number) < limit; };
  };
  if (!std::all_of(rows.target.begin(), rows.target.end(), below(vocab)) ||
      !std::all_of(rows.entry.begin(), rows.entry.end(), below(2 * vocab))) {
    throw std::invalid_argument("cross_entropy: a token is not in the vocabulary");
  }
  if (!std::all_of(rows.kind.begin(), rows.kind.end(), below(rows.n_kinds))) {
    throw std::invalid_argument("cross_entropy: no such kind of visit");
  }
  return vocab;
}

}  // namespace

void cross_entropy_rows(std::span<float> logits, const CrossEntropyRows& rows,
                        std::span<float> losses, std::span<float> d_unseen,
                        std::span<float> d_known, int n_threads) {
  const auto n = checked_width(logits.size(), rows, losses.size(), d_unseen.size(), d_known.size());
  parallel_for(rows.target.size(), n_threads, [&](std::size_t begin, std::size_t end, std::size_t) {
    for (auto r = begin; r < end; ++r) losses[r] = row_gradient(rows, n, r, logits.data() + r * n);
  });
  if (!d_unseen.empty()) add_unseen(logits, rows, n, d_unseen, n_threads);
  if (!d_known.empty()) add_known(logits, rows, n, d_known);
}

}  // namespace chronoward
