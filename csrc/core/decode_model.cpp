#include "core/decode_model.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/decode_kernels.hpp"

namespace chronoward {
namespace {

constexpr double kMinutesPerDay = 1440.0, kMinutesPerYear = 525960.0, kYearsPerKnot = 5.0;
constexpr double kLastDay = 43830.0, kLastIndex = 4095.0;

std::vector<float> copied(std::span<const float> from, std::size_t size, const char* name) {
  if (from.size() != size) {
    throw std::invalid_argument(std::string("decode model: ") + name + " has the wrong size");
  }
  return {from.begin(), from.end()};
}

}  // namespace

DecodeModel::DecodeModel(const ModelShape& shape, const ModelParameters& parameters,
                         ContextRules rules, NumberType type)
    : shape_(shape),
      n_knots_(parameters.n_knots.begin(), parameters.n_knots.end()),
      index_frequency_(parameters.index_frequency.begin(), parameters.index_frequency.end()),
      time_frequency_(parameters.time_frequency.begin(), parameters.time_frequency.end()),
      rules_(std::move(rules)),
      type_(type == NumberType::i8 ? NumberType::bf16 : type) {
  const auto& a = shape.attention;
  const auto d = shape.d_model, vocab = shape.vocab_size;
  const auto d_q = a.n_heads * a.d_head, d_kv = a.n_kv_heads * a.d_head;
  const auto n_pairs = index_frequency_.size() + time_frequency_.size();
  if (a.n_layers != parameters.blocks.size() || n_knots_.size() != 3 ||
      (n_pairs != 0 && n_pairs != a.d_head / 2) || rules_.vocab_size() != vocab) {
    throw std::invalid_argument("decode model: blocks, knots, angles or rules do not fit");
  }
  const auto knots = n_knots_[0] + n_knots_[1] + n_knots_[2];
  embedded_ = copied(parameters.embedded, vocab * d, "embedded");
  if (!parameters.clock.empty()) clock_ = copied(parameters.clock, knots * d, "clock");
  final_norm_ = copied(parameters.final_norm, d, "final_norm");
  output_ = PackedMatrix(parameters.output, vocab, d, type);
  unseen_ = copied(parameters.unseen, rules_.n_kinds() * vocab, "unseen");
  known_ = copied(parameters.known, 2 * rules_.n_kinds() * vocab, "known");
  const auto n_bias = a.bias == TimeBias::none ? 0 : a.n_heads;
  for (const auto& from : parameters.blocks) {
    const auto norm_size = from.query_norm.empty() ? 0 : a.d_head;
    blocks_.push_back({copied(from.attention_norm, d, "attention_norm"),
                       copied(from.query_norm, norm_size, "query_norm"),
                       copied(from.key_norm, norm_size, "key_norm"),
                       copied(from.feed_forward_norm, d, "feed_forward_norm"),
                       PackedMatrix(from.qkv, d_q + 2 * d_kv, d, type),
                       PackedMatrix(from.attention_output, d, d_q, type),
                       PackedMatrix(from.gate_and_up, 2 * shape.d_ff, d, type),
                       PackedMatrix(from.down, d, shape.d_ff, type),
                       copied(from.slope, n_bias, "slope"),
                       copied(from.inverse_tau, n_bias, "inverse_tau")});
  }
  const auto room = [](std::size_t width) {
    return std::vector<float>(kProductRows * whole_panels(width), 0.0F);
  };
  x_ = room(d);
  normed_ = room(d);
  projected_ = room(d_q + 2 * d_kv);
  gate_up_ = room(2 * shape.d_ff);
  gated_ = room(shape.d_ff);
  scores_ = room(vocab);
  q_.resize(kProductRows * d_q);
  k_.resize(kProductRows * d_kv);
  v_.resize(kProductRows * d_kv);
  attended_.resize(kProductRows * d_q);
  cosine_.resize(kProductRows * n_pairs);
  sine_.resize(kProductRows * n_pairs);
}

void DecodeModel::open(std::size_t n_buffers, std::size_t capacity, std::size_t max_pages) {
  attention_.reset();
  cache_.reset();  // before the new one: there may be no room for both
  cache_ = std::make_unique<PagedCache>(shape_.attention, type_, n_buffers, capacity, max_pages);
  attention_ = std::make_unique<PagedAttention>(*cache_);
  contexts_.emplace(rules_, n_buffers);
}

PagedCache& DecodeModel::cache() {
  if (cache_ == nullptr) throw std::invalid_argument("decode model: open() comes first");
  return *cache_;
}

const PagedCache& DecodeModel::cache() const { return const_cast<DecodeModel*>(this)->cache(); }

std::size_t DecodeModel::weight_bytes() const {
  std::size_t bytes = output_.bytes();
  for (const auto& b : blocks_) {
    bytes += b.qkv.bytes() + b.attention_output.bytes() + b.gate_and_up.bytes() + b.down.bytes();
  }
  return bytes;
}

void DecodeModel::check(const DecodeRows& rows, std::span<const float> logits) const {
  const auto n = rows.places.size(), vocab = shape_.vocab_size;
  if (rows.token_id.size() != n || rows.time_min.size() != n || rows.start_min.size() != n ||
      (!logits.empty() && logits.size() != n * vocab)) {
    throw std::invalid_argument("decode model: rows do not fit each other");
  }
  for (const auto token : rows.token_id) {
    if (token < 0 || static_cast<std::size_t>(token) >= vocab) {
      throw std::invalid_argument("token " + std::to_string(token) + " is not in the vocabulary");
    }
  }
}

void DecodeModel::step(const DecodeRows& rows, std::span<float> logits) {
  check(rows, logits);
  const auto vocab = shape_.vocab_size;
  for (std::size_t first = 0; first < rows.places.size(); first += kProductRows) {
    const auto n = std::min(kProductRows, rows.places.size() - first);
    const DecodeRows tile{rows.token_id.subspan(first, n), rows.time_min.subspan(first, n),
                          rows.start_min.subspan(first, n), rows.places.subspan(first, n)};
    cache().check(tile.places);
    cache().write_times(tile.places, tile.time_min);
    begin(tile);
    for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
      run_block(blocks_[layer], layer, tile.places);
    }
    if (!logits.empty()) write_logits(n, logits.data() + first * vocab);
  }
  contexts_->advance(rows.places, rows.token_id, unseen_, known_, logits);
}

/// x = embedded token + clock, and the rows' rotary angles (in fp64: see Model.rotary).
void DecodeModel::begin(const DecodeRows& rows) {
  const auto d = shape_.d_model, stride = whole_panels(d);
  const auto n_index = index_frequency_.size(), n_pairs = n_index + time_frequency_.size();
  const double per_day = static_cast<double>(n_knots_[1] - 1) / std::log1p(kLastDay);
  const double per_index = static_cast<double>(n_knots_[2] - 1) / std::log1p(kLastIndex);
  for (std::size_t r = 0; r < rows.places.size(); ++r) {
    const auto& place = rows.places[r];
    const double index = place.prefix_length + place.own_length - 1;
    const double elapsed = static_cast<double>(rows.time_min[r]) - rows.start_min[r];
    float* x = x_.data() + r * stride;
    std::copy_n(embedded_.data() + static_cast<std::size_t>(rows.token_id[r]) * d, d, x);
    if (!clock_.empty()) {
      add_clock(rows.time_min[r] / (kMinutesPerYear * kYearsPerKnot), 0, n_knots_[0], x);
      add_clock(std::log1p(elapsed / kMinutesPerDay) * per_day, n_knots_[0], n_knots_[1], x);
      add_clock(std::log1p(index) * per_index, n_knots_[0] + n_knots_[1], n_knots_[2], x);
    }
    for (std::size_t i = 0; i < n_pairs; ++i) {
      const double angle =
          i < n_index ? index * index_frequency_[i] : elapsed * time_frequency_[i - n_index];
      cosine_[r * n_pairs + i] = static_cast<float>(std::cos(angle));
      sine_[r * n_pairs + i] = static_cast<float>(std::sin(angle));
    }
  }
}

/// The two knots around `place`, weighted by hat functions.
void DecodeModel::add_clock(double place, std::size_t first_knot, std::size_t n_knots,
                            float* x) const {
  const auto d = shape_.d_model;
  const double bounded = std::clamp(place, 0.0, static_cast<double>(n_knots - 1));
  const auto low = std::min(static_cast<std::size_t>(bounded), n_knots - 1);
  const auto up = static_cast<float>(bounded - static_cast<double>(low));
  const float* knot = clock_.data() + (first_knot + low) * d;
  for (std::size_t i = 0; i < d; ++i) x[i] += (1.0F - up) * knot[i];
  if (low + 1 == n_knots) return;
  for (std::size_t i = 0; i < d; ++i) x[i] += up * knot[d + i];
}

void DecodeModel::run_block(const Block& block, std::size_t layer,
                            std::span<const RowPlace> places) {
  const auto& a = shape_.attention;
  const auto& kernels = decode_kernels();
  const auto n = places.size(), d = shape_.d_model, d_ff = shape_.d_ff;
  const auto d_q = a.n_heads * a.d_head, d_kv = a.n_kv_heads * a.d_head;
  const auto stride = whole_panels(d), wide = whole_panels(2 * d_ff), narrow = whole_panels(d_ff);
  const auto norm_rows = [&](const std::vector<float>& weight) {
    for (std::size_t r = 0; r < n; ++r) {
      kernels.norm(x_.data() + r * stride, weight.data(), d, shape_.norm_eps,
                   normed_.data() + r * stride);
    }
  };
  norm_rows(block.attention_norm);
  block.qkv.multiply(normed_.data(), stride, n, projected_.data(), whole_panels(d_q + 2 * d_kv),
                     false);
  split_heads(block, n);
  cache().write(layer, places, std::span(k_).first(n * d_kv), std::span(v_).first(n * d_kv));
  attention_->attend(layer, places, std::span(q_).first(n * d_q), {block.slope, block.inverse_tau},
                     std::span(attended_).first(n * d_q));
  block.attention_output.multiply(attended_.data(), d_q, n, x_.data(), stride, true);
  norm_rows(block.feed_forward_norm);
  block.gate_and_up.multiply(normed_.data(), stride, n, gate_up_.data(), wide, false);
  for (std::size_t r = 0; r < n; ++r) {
    const float* gate = gate_up_.data() + r * wide;
    kernels.gate(gate, gate + d_ff, d_ff, gated_.data() + r * narrow);
  }
  block.down.multiply(gated_.data(), narrow, n, x_.data(), stride, true);
}

/// Rows of (q, k, v) heads apart; queries and keys normalized and turned.
void DecodeModel::split_heads(const Block& block, std::size_t n_rows) {
  const auto& a = shape_.attention;
  const auto d_q = a.n_heads * a.d_head, d_kv = a.n_kv_heads * a.d_head;
  for (std::size_t r = 0; r < n_rows; ++r) {
    const float* from = projected_.data() + r * whole_panels(d_q + 2 * d_kv);
    head(from, a.n_heads, block.query_norm, r, q_.data() + r * d_q);
    head(from + d_q, a.n_kv_heads, block.key_norm, r, k_.data() + r * d_kv);
    std::copy_n(from + d_q + d_kv, d_kv, v_.data() + r * d_kv);
  }
}

/// Normalizes some heads of a row and turns their pairs (i, i + D/2) by the row's angles.
void DecodeModel::head(const float* from, std::size_t n_heads, std::span<const float> norm,
                       std::size_t row, float* to) const {
  const auto d = shape_.attention.d_head;
  const auto n_pairs = index_frequency_.size() + time_frequency_.size();
  const float* cosine = cosine_.data() + row * n_pairs;
  const float* sine = sine_.data() + row * n_pairs;
  for (std::size_t h = 0; h < n_heads; ++h, from += d, to += d) {
    if (norm.empty()) {
      std::copy_n(from, d, to);
    } else {
      decode_kernels().norm(from, norm.data(), d, shape_.norm_eps, to);
    }
    for (std::size_t i = 0; i < n_pairs; ++i) {
      const float first = to[i], second = to[n_pairs + i];
      to[i] = first * cosine[i] - second * sine[i];
      to[n_pairs + i] = second * cosine[i] + first * sine[i];
    }
  }
}

void DecodeModel::write_logits(std::size_t n_rows, float* logits) {
  const auto d = shape_.d_model, stride = whole_panels(d), vocab = shape_.vocab_size;
  for (std::size_t r = 0; r < n_rows; ++r) {
    decode_kernels().norm(x_.data() + r * stride, final_norm_.data(), d, shape_.norm_eps,
                          normed_.data() + r * stride);
  }
  const auto width = whole_panels(vocab);
  output_.multiply(normed_.data(), stride, n_rows, scores_.data(), width, false);
  for (std::size_t r = 0; r < n_rows; ++r) {
    std::copy_n(scores_.data() + r * width, vocab, logits + r * vocab);
  }
}

}  // namespace chronoward
