#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "core/paged_cache.hpp"

namespace chronoward {

/// One layer's learned time bias: `slope` (a) and `inverse_tau` (1/τ, per minute), one entry a
/// head; empty without bias.
struct BiasOfHeads {
  std::span<const float> slope;
  std::span<const float> inverse_tau;
};

/// softmax(q·k/√d − a·f(|Δt|/τ))·v of single rows over a paged cache: the shared prefix, then the
/// row's own tokens, merged by their log-sum-exps. Rows that see the same buffer (rollouts of one
/// prefix; a chunk of a prefill) are taken together, so that its keys are read once; that changes
/// no byte, because every sum runs in the order of the keys.
class PagedAttention {
 public:
  explicit PagedAttention(const PagedCache& cache) : cache_(cache) {}

  /// q and out are (rows, n_heads, d_head).
  void attend(std::size_t layer, std::span<const RowPlace> places, std::span<const float> q,
              const BiasOfHeads& bias, std::span<float> out);

 private:
  /// What a row and head have of one buffer: Σ exp(s − top)·v, Σ exp(s − top), top.
  struct Part {
    std::vector<float> sums, mass, top;
  };
  struct Group {
    std::span<const std::uint32_t> rows;
    std::int32_t buffer = 0;
  };

  std::int32_t buffer_of(const RowPlace& place, bool is_prefix) const {
    return is_prefix ? place.prefix_buffer : place.own_buffer;
  }
  void sort_rows(std::span<const RowPlace> places, bool is_prefix);
  template <typename T>
  void phase(std::size_t layer, std::span<const RowPlace> places, const float* q,
             const BiasOfHeads& bias, bool is_prefix);
  template <typename T>
  void segment(std::size_t layer, const Group& group, std::span<const RowPlace> places,
               const float* q, const BiasOfHeads& bias, bool is_prefix);
  template <typename T>
  void one_row(std::size_t layer, std::span<const std::uint32_t> rows, const BiasOfHeads& bias,
               Part& part);
  template <typename T>
  void score(std::size_t layer, std::size_t head, std::size_t n_queries);
  template <typename T>
  void sum_values(std::size_t layer, std::size_t head, std::size_t n_queries);
  void weigh(std::size_t head, const BiasOfHeads& bias, std::size_t n_queries, float* scores,
             std::span<const std::uint32_t> rows, Part& part);
  void merge(std::span<const RowPlace> places, float* out) const;

  const PagedCache& cache_;
  Part prefix_, own_;                 // (rows, n_heads, …)
  std::vector<std::uint32_t> order_;  // rows by buffer
  // scratch of one group
  std::span<const std::int32_t> pages_;
  std::vector<std::size_t> lengths_;
  std::vector<float> queries_;      // (n_kv_heads, rows · group, d)
  std::vector<float> elapsed_min_;  // (rows, 16 · n_pages)
  std::vector<float> scores_;
  std::vector<float> sums_;  // (rows · group, d_value) of one head
  std::vector<const void*> blocks_;
};

}  // namespace chronoward
