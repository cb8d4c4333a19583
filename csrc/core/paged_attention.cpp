#include "core/paged_attention.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "core/fastmath.hpp"

namespace chronoward {
namespace {

// Rows of a group: enough that a key read from memory is used often, few enough that their scores
// stay in the second-level cache.
constexpr std::size_t kGroupRows = 32;

}  // namespace

void PagedAttention::attend(std::size_t layer, std::span<const RowPlace> places,
                            std::span<const float> q, const BiasOfHeads& bias,
                            std::span<float> out) {
  const auto& shape = cache_.shape();
  const bool biased = shape.bias != TimeBias::none;
  if (layer >= shape.n_layers || q.size() != places.size() * shape.n_heads * shape.d_head ||
      out.size() != q.size() ||
      (biased &&
       (bias.slope.size() != shape.n_heads || bias.inverse_tau.size() != shape.n_heads))) {
    throw std::invalid_argument("queries or bias parameters do not fit the cache");
  }
  for (Part* part : {&prefix_, &own_}) {
    part->sums.resize(places.size() * shape.n_heads * shape.d_value());
    part->mass.resize(places.size() * shape.n_heads);
    part->top.resize(places.size() * shape.n_heads);
  }
  for (const bool is_prefix : {true, false}) {
    if (cache_.type() == NumberType::f32) {
      phase<float>(layer, places, q.data(), bias, is_prefix);
    } else {
      phase<Bf16>(layer, places, q.data(), bias, is_prefix);
    }
  }
  merge(places, out.data());
}

void PagedAttention::sort_rows(std::span<const RowPlace> places, bool is_prefix) {
  order_.clear();
  for (std::size_t r = 0; r < places.size(); ++r) {
    if (!is_prefix || places[r].prefix_length > 0) order_.push_back(static_cast<std::uint32_t>(r));
  }
  const auto before = [&](std::uint32_t a, std::uint32_t b) {
    return buffer_of(places[a], is_prefix) < buffer_of(places[b], is_prefix);
  };
  if (!std::is_sorted(order_.begin(), order_.end(), before)) {
    std::stable_sort(order_.begin(), order_.end(), before);
  }
}

template <typename T>
void PagedAttention::phase(std::size_t layer, std::span<const RowPlace> places, const float* q,
                           const BiasOfHeads& bias, bool is_prefix) {
  sort_rows(places, is_prefix);
  for (std::size_t first = 0; first < order_.size();) {
    const auto buffer = buffer_of(places[order_[first]], is_prefix);
    std::size_t last = first + 1;
    while (last < order_.size() && last - first < kGroupRows &&
           buffer_of(places[order_[last]], is_prefix) == buffer) {
      ++last;
    }
    const Group group{std::span(order_).subspan(first, last - first), buffer};
    segment<T>(layer, group, places, q, bias, is_prefix);
    first = last;
  }
}

template <typename T>
void PagedAttention::segment(std::size_t layer, const Group& group,
                             std::span<const RowPlace> places, const float* q,
                             const BiasOfHeads& bias, bool is_prefix) {
  const auto& shape = cache_.shape();
  const auto n_rows = group.rows.size(), per_head = shape.group(), n_queries = n_rows * per_head;
  const auto d = shape.d_head, d_value = shape.d_value();
  Part& part = is_prefix ? prefix_ : own_;
  lengths_.resize(n_rows);
  for (std::size_t r = 0; r < n_rows; ++r) {
    const auto& place = places[group.rows[r]];
    lengths_[r] = static_cast<std::size_t>(is_prefix ? place.prefix_length : place.own_length);
  }
  const auto longest = *std::max_element(lengths_.begin(), lengths_.end());
  const auto n_pages = (longest + kWide - 1) / kWide, width = n_pages * kWide;
  pages_ = cache_.pages(group.buffer).first(n_pages);
  queries_.resize(shape.n_kv_heads * n_queries * d);
  for (std::size_t r = 0; r < n_rows; ++r) {
    const float* from = q + group.rows[r] * shape.n_heads * d;
    for (std::size_t head = 0; head < shape.n_kv_heads; ++head) {
      std::copy_n(from + head * per_head * d, per_head * d,
                  queries_.data() + (head * n_queries + r * per_head) * d);
    }
  }
  if (shape.bias != TimeBias::none) {
    elapsed_min_.resize(n_rows * width);
    for (std::size_t r = 0; r < n_rows; ++r) {
      const auto& place = places[group.rows[r]];
      const auto last = static_cast<std::size_t>(place.own_length - 1);
      const auto now = cache_.times(cache_.pages(place.own_buffer)[last / kWide])[last % kWide];
      for (std::size_t p = 0; p < n_pages; ++p) {
        decode_kernels().elapsed(cache_.times(pages_[p]), kWide, now,
                                 elapsed_min_.data() + r * width + p * kWide);
      }
    }
  }
  if (n_rows == 1) {
    one_row<T>(layer, group.rows, bias, part);
    return;
  }
  scores_.resize(n_queries * width);
  sums_.resize(n_queries * d_value);
  for (std::size_t head = 0; head < shape.n_kv_heads; ++head) {
    score<T>(layer, head, n_queries);
    weigh(head, bias, n_queries, scores_.data(), group.rows, part);
    sum_values<T>(layer, head, n_queries);
    for (std::size_t r = 0; r < n_rows; ++r) {
      std::copy_n(sums_.data() + r * per_head * d_value, per_head * d_value,
                  part.sums.data() + (group.rows[r] * shape.n_heads + head * per_head) * d_value);
    }
  }
}

/// Pages outside, heads inside: memory is read as it lies. Pages lie far apart, so no processor
/// foresees the next one: it is asked for, line by line, while this one is summed.
template <typename T>
void PagedAttention::one_row(std::size_t layer, std::span<const std::uint32_t> rows,
                             const BiasOfHeads& bias, Part& part) {
  const auto& shape = cache_.shape();
  const auto per_head = shape.group(), d = shape.d_head, d_value = shape.d_value();
  const auto n_pages = pages_.size(), width = n_pages * kWide;
  scores_.resize(shape.n_heads * width);
  HeadsProduct<T> keys;
  keys.x = queries_.data();
  keys.x_stride = d;
  keys.x_head_step = per_head * d;
  keys.n_rows = per_head;
  keys.n_heads = shape.n_kv_heads;
  keys.head_step = kWide * d;
  keys.n_panels = 1;
  keys.depth = d;
  keys.out_stride = width;
  keys.out_head_step = per_head * width;
  for (std::size_t p = 0; p < n_pages; ++p) {
    keys.next = cache_.keys<T>(layer, pages_[std::min(p + 1, n_pages - 1)], 0);
    keys.block = cache_.keys<T>(layer, pages_[p], 0);
    keys.out = scores_.data() + p * kWide;
    heads_product(keys);
  }
  for (std::size_t head = 0; head < shape.n_kv_heads; ++head) {
    weigh(head, bias, per_head, scores_.data() + head * per_head * width, rows, part);
  }
  HeadsProduct<T> values = keys;
  values.x_stride = width;
  values.x_head_step = per_head * width;
  values.head_step = kWide * d_value;
  values.n_panels = d_value / kWide;
  values.row_stride = d_value;
  values.depth = kWide;
  values.out = part.sums.data() + rows[0] * shape.n_heads * d_value;
  values.out_stride = d_value;
  values.out_head_step = per_head * d_value;
  for (std::size_t p = 0; p < n_pages; ++p) {
    values.next = cache_.values<T>(layer, pages_[std::min(p + 1, n_pages - 1)], 0);
    values.x = scores_.data() + p * kWide;
    values.block = cache_.values<T>(layer, pages_[p], 0);
    values.adds = p > 0;
    heads_product(values);
  }
}

/// scores[m][t] = q_m·k_t; rows of scores are as wide as all pages of the group.
template <typename T>
void PagedAttention::score(std::size_t layer, std::size_t head, std::size_t n_queries) {
  const auto d = cache_.shape().d_head, n_pages = pages_.size();
  blocks_.resize(n_pages);
  for (std::size_t p = 0; p < n_pages; ++p) {
    blocks_[p] = cache_.keys<T>(layer, pages_[p], head);
  }
  TileProduct<T> product;
  product.x = queries_.data() + head * n_queries * d;
  product.x_stride = d;
  product.n_rows = n_queries;
  product.blocks = reinterpret_cast<const T* const*>(blocks_.data());
  product.panel_step = 1;
  product.n_panels = n_pages;
  product.depth = d;
  product.out = scores_.data();
  product.out_stride = n_pages * kWide;
  tile_product(product);
}

/// sums[m] = Σ_t weight_t·v_t.
template <typename T>
void PagedAttention::sum_values(std::size_t layer, std::size_t head, std::size_t n_queries) {
  const auto d_value = cache_.shape().d_value(), n_pages = pages_.size();
  blocks_.resize(n_pages);
  for (std::size_t p = 0; p < n_pages; ++p) {
    blocks_[p] = cache_.values<T>(layer, pages_[p], head);
  }
  TileProduct<T> product;
  product.x = scores_.data();
  product.x_stride = n_pages * kWide;
  product.n_rows = n_queries;
  product.blocks = reinterpret_cast<const T* const*>(blocks_.data());
  product.n_blocks = n_pages;
  product.block_step = 1;
  product.panel_offset = kWide;
  product.n_panels = d_value / kWide;
  product.row_stride = d_value;
  product.depth = kWide;
  product.out = sums_.data();
  product.out_stride = d_value;
  tile_product(product);
}

/// Scores of one key head become weights; their sums and tops go to `part`.
void PagedAttention::weigh(std::size_t head, const BiasOfHeads& bias, std::size_t n_queries,
                           float* scores, std::span<const std::uint32_t> rows, Part& part) {
  const auto& shape = cache_.shape();
  const auto per_head = shape.group(), width = pages_.size() * kWide;
  ScoreRow row;
  row.n_blocks = pages_.size();
  row.scale = 1.0F / std::sqrt(static_cast<float>(shape.d_head));
  row.bias = shape.bias;
  for (std::size_t m = 0; m < n_queries; ++m) {
    const auto r = m / per_head, query_head = head * per_head + m % per_head;
    row.scores = scores + m * width;
    row.n = lengths_[r];
    if (shape.bias != TimeBias::none) {
      row.elapsed_min = elapsed_min_.data() + r * width;
      row.slope = bias.slope[query_head];
      row.inverse_tau = bias.inverse_tau[query_head];
    }
    const auto at = rows[r] * shape.n_heads + query_head;
    decode_kernels().weigh(row, &part.top[at], &part.mass[at]);
  }
}

void PagedAttention::merge(std::span<const RowPlace> places, float* out) const {
  const auto& shape = cache_.shape();
  const auto d = shape.d_head, d_value = shape.d_value();
  for (std::size_t at = 0; at < places.size() * shape.n_heads; ++at, out += d) {
    const float* own = own_.sums.data() + at * d_value;
    if (places[at / shape.n_heads].prefix_length == 0) {
      const float inverse = 1.0F / own_.mass[at];
      for (std::size_t i = 0; i < d; ++i) out[i] = own[i] * inverse;
      continue;
    }
    const float* prefix = prefix_.sums.data() + at * d_value;
    const float top = std::max(prefix_.top[at], own_.top[at]);
    const float of_prefix = fast_exp(prefix_.top[at] - top), of_own = fast_exp(own_.top[at] - top);
    const float inverse = 1.0F / (prefix_.mass[at] * of_prefix + own_.mass[at] * of_own);
    for (std::size_t i = 0; i < d; ++i) {
      out[i] = (prefix[i] * of_prefix + own[i] * of_own) * inverse;
    }
  }
}

}  // namespace chronoward
