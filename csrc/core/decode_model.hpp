#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/context_bias.hpp"
#include "core/packed_matrix.hpp"
#include "core/paged_attention.hpp"
#include "core/paged_cache.hpp"

// The decoder of chronoward.model, one token a row with a cache of keys and values: one call a step
// from token ids to logits. Its truth is `Model.forward`; a row's result depends on that row only.
namespace chronoward {

struct ModelShape {
  AttentionShape attention;
  std::size_t vocab_size = 0;
  std::size_t d_model = 0;
  std::size_t d_ff = 0;
  float norm_eps = 0.0F;
};

/// A block's parameters; matrices are (n_out, n_in), what a model lacks is empty.
struct BlockParameters {
  std::span<const float> attention_norm, qkv, query_norm, key_norm, attention_output;
  std::span<const float> feed_forward_norm, gate_and_up, down;
  std::span<const float> slope, inverse_tau;
};

struct ModelParameters {
  std::span<const float> embedded;  // (V, d): each token's start of the residual stream
  std::span<const float> clock;     // (n_knots, d), knot by knot; empty without clock embedding
  std::span<const std::size_t> n_knots;                     // of age, days and tokens
  std::span<const double> index_frequency, time_frequency;  // of rotary pairs, per token and minute
  std::vector<BlockParameters> blocks;
  std::span<const float> final_norm, output;  // (d,), (V, d)
  std::span<const float> unseen, known;       // biases by context, see ContextBuffers
};

/// The rows of one call.
struct DecodeRows {
  std::span<const std::int32_t> token_id;
  std::span<const std::int32_t> time_min;
  std::span<const std::int32_t> start_min;  // clock of the first token of the row's context
  std::span<const RowPlace> places;
};

class DecodeModel {
 public:
  /// Throws std::invalid_argument when sizes do not fit each other.
  DecodeModel(const ModelShape& shape, const ModelParameters& parameters, ContextRules rules,
              NumberType type);

  /// Room for `n_buffers` contexts of up to `capacity` tokens, `max_pages` pages together.
  void open(std::size_t n_buffers, std::size_t capacity, std::size_t max_pages);

  /// Takes one token a row into the cache; `logits` is (rows, V), or empty for prefill.
  void step(const DecodeRows& rows, std::span<float> logits);

  void release(std::size_t buffer) { cache().release(buffer); }

  const PagedCache& cache() const;
  std::size_t page_bytes() const { return shape_.attention.page_bytes(type_); }
  std::size_t weight_bytes() const;

 private:
  struct Block {
    std::vector<float> attention_norm, query_norm, key_norm, feed_forward_norm;
    PackedMatrix qkv, attention_output, gate_and_up, down;
    std::vector<float> slope, inverse_tau;
  };

  PagedCache& cache();
  void check(const DecodeRows& rows, std::span<const float> logits) const;
  void begin(const DecodeRows& rows);
  void add_clock(double place, std::size_t first_knot, std::size_t n_knots, float* x) const;
  void run_block(const Block& block, std::size_t layer, std::span<const RowPlace> places);
  void split_heads(const Block& block, std::size_t n_rows);
  void head(const float* from, std::size_t n_heads, std::span<const float> norm, std::size_t row,
            float* to) const;
  void write_logits(std::size_t n_rows, float* logits);

  ModelShape shape_;
  std::vector<float> embedded_, clock_;
  std::vector<std::size_t> n_knots_;
  std::vector<double> index_frequency_, time_frequency_;
  std::vector<Block> blocks_;
  std::vector<float> final_norm_;
  PackedMatrix output_;
  std::vector<float> unseen_, known_;
  ContextRules rules_;
  NumberType type_;

  std::unique_ptr<PagedCache> cache_;
  std::unique_ptr<PagedAttention> attention_;
  std::optional<ContextBuffers> contexts_;

  // scratch of one tile of rows; widths are whole panels
  std::vector<float> x_, normed_, projected_, gate_up_, gated_, scores_;
  std::vector<float> q_, k_, v_, attended_, cosine_, sine_;
};

}  // namespace chronoward
