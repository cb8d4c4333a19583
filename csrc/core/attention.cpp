#include "core/attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <stdexcept>

#include "core/fastmath.hpp"
#include "core/packed_kernels.hpp"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace chronoward {
namespace {

constexpr std::size_t kLanes = 8;
// Eight floats at once, in one register with AVX and in two without.
using Lanes = float __attribute__((vector_size(32)));

std::size_t padded(std::size_t n) { return (n + kKeyBlock - 1) / kKeyBlock * kKeyBlock; }

/// scores[t] = q·k_t for whole blocks. Even and odd d are summed apart: two chains of additions.
CHRONOWARD_CLONES void key_scores(const float* q, const float* keys, std::size_t n_blocks,
                                  std::size_t d_head, float scale, float* scores) {
  for (std::size_t block = 0; block < n_blocks; ++block) {
    const float* k = keys + block * kKeyBlock * d_head;
    Lanes even_low{}, even_high{}, odd_low{}, odd_high{};
    std::size_t d = 0;
    for (; d + 1 < d_head; d += 2, k += 2 * kKeyBlock) {
      Lanes a, b, c, e;
      std::memcpy(&a, k, sizeof(Lanes));
      std::memcpy(&b, k + kLanes, sizeof(Lanes));
      std::memcpy(&c, k + 2 * kLanes, sizeof(Lanes));
      std::memcpy(&e, k + 3 * kLanes, sizeof(Lanes));
      even_low += q[d] * a;
      even_high += q[d] * b;
      odd_low += q[d + 1] * c;
      odd_high += q[d + 1] * e;
    }
    for (; d < d_head; ++d, k += kKeyBlock) {
      Lanes a, b;
      std::memcpy(&a, k, sizeof(Lanes));
      std::memcpy(&b, k + kLanes, sizeof(Lanes));
      even_low += q[d] * a;
      even_high += q[d] * b;
    }
    even_low = (even_low + odd_low) * scale;
    even_high = (even_high + odd_high) * scale;
    std::memcpy(scores + block * kKeyBlock, &even_low, sizeof(Lanes));
    std::memcpy(scores + block * kKeyBlock + kLanes, &even_high, sizeof(Lanes));
  }
}

CHRONOWARD_CLONES void add_log_bias(const float* delta, std::size_t n, float slope,
                                    float inverse_tau, float* scores) {
  for (std::size_t t = 0; t < n; ++t) {
    scores[t] -= slope * fast_log(1.0F + delta[t] * inverse_tau);
  }
}

CHRONOWARD_CLONES void add_linear_bias(const float* delta, std::size_t n, float slope,
                                       float inverse_tau, float* scores) {
  for (std::size_t t = 0; t < n; ++t) scores[t] -= slope * (delta[t] * inverse_tau);
}

/// out[0..8) += Σ_t weights[t]·values[t], for a width of 8; rows of values lie `d_head` apart.
CHRONOWARD_CLONES void add_eight(const float* weights, const float* values, std::size_t n,
                                 std::size_t d_head, float* out) {
  Lanes sum{};
  for (std::size_t t = 0; t < n; ++t) {
    Lanes a;
    std::memcpy(&a, values + t * d_head, sizeof(Lanes));
    sum += weights[t] * a;
  }
  for (std::size_t d = 0; d < kLanes; ++d) out[d] += sum[d];
}

/// The same for a width of 32, even and odd t summed apart.
CHRONOWARD_CLONES void add_thirty_two(const float* weights, const float* values, std::size_t n,
                                      std::size_t d_head, float* out) {
  Lanes sums[2][4]{};
  std::size_t t = 0;
  for (; t + 1 < n; t += 2) {
    Lanes rows[2][4];
    std::memcpy(rows[0], values + t * d_head, sizeof(rows[0]));
    std::memcpy(rows[1], values + (t + 1) * d_head, sizeof(rows[1]));
    for (std::size_t i = 0; i < 4; ++i) sums[0][i] += weights[t] * rows[0][i];
    for (std::size_t i = 0; i < 4; ++i) sums[1][i] += weights[t + 1] * rows[1][i];
  }
  for (; t < n; ++t) {
    Lanes rows[4];
    std::memcpy(rows, values + t * d_head, sizeof(rows));
    for (std::size_t i = 0; i < 4; ++i) sums[0][i] += weights[t] * rows[i];
  }
  for (std::size_t i = 0; i < 4; ++i) {
    const Lanes sum = sums[0][i] + sums[1][i];
    for (std::size_t d = 0; d < kLanes; ++d) out[i * kLanes + d] += sum[d];
  }
}

/// out += Σ_t weights[t]·values[t].
void add_values(const float* weights, const float* values, std::size_t n, std::size_t d_head,
                float* out) {
  std::size_t d = 0;
  for (; d + 32 <= d_head; d += 32) add_thirty_two(weights, values + d, n, d_head, out + d);
  for (; d + kLanes <= d_head; d += kLanes) add_eight(weights, values + d, n, d_head, out + d);
  for (; d < d_head; ++d) {
    for (std::size_t t = 0; t < n; ++t) out[d] += weights[t] * values[t * d_head + d];
  }
}

}  // namespace

FloatBlock::FloatBlock(std::size_t n) {
  constexpr std::size_t page = std::size_t{1} << 21;
  const std::size_t bytes = (n * sizeof(float) + page - 1) / page * page;
  values_.reset(static_cast<float*>(std::aligned_alloc(page, bytes)));
  if (values_ == nullptr) throw std::bad_alloc();
#ifdef __linux__
  madvise(values_.get(), bytes, MADV_HUGEPAGE);  // a wish: without it everything works, slower
#endif
  std::fill_n(values_.get(), n, 0.0F);
}

namespace {

const AttentionShape& checked(const AttentionShape& shape) {
  if (shape.n_kv_heads == 0 || shape.n_heads % shape.n_kv_heads != 0 || shape.d_head == 0 ||
      shape.n_layers == 0 || shape.capacity == 0 || shape.capacity % kKeyBlock != 0) {
    throw std::invalid_argument("key-value cache: heads, layers or capacity do not fit");
  }
  return shape;
}

}  // namespace

KeyValueCache::KeyValueCache(const AttentionShape& shape, std::size_t n_buffers)
    : shape_(checked(shape)),
      n_buffers_(n_buffers),
      keys_(n_buffers * shape.n_layers * shape.n_kv_heads * shape.capacity * shape.d_head),
      values_(n_buffers * shape.n_layers * shape.n_kv_heads * shape.capacity * shape.d_head) {
  times_.assign(n_buffers * shape.capacity, 0);
  scores_.assign(2 * shape.capacity, 0.0F);
  delta_.assign(2 * shape.capacity, 0.0F);
}

void KeyValueCache::check(std::span<const RowPlace> places) const {
  const auto n = static_cast<std::int32_t>(n_buffers_);
  const auto capacity = static_cast<std::int32_t>(shape_.capacity);
  for (const auto& place : places) {
    const bool fits = place.prefix_buffer >= 0 && place.prefix_buffer < n &&
                      place.own_buffer >= 0 && place.own_buffer < n && place.prefix_length >= 0 &&
                      place.prefix_length <= capacity && place.own_length >= 1 &&
                      place.own_length <= capacity;
    if (!fits) throw std::invalid_argument("a row's place lies outside the key-value cache");
  }
}

void KeyValueCache::write_times(std::span<const RowPlace> places,
                                std::span<const std::int32_t> time_min) {
  if (time_min.size() != places.size()) throw std::invalid_argument("one time a row is needed");
  for (std::size_t r = 0; r < places.size(); ++r) {
    const auto position = static_cast<std::size_t>(places[r].own_length - 1);
    times_[static_cast<std::size_t>(places[r].own_buffer) * shape_.capacity + position] =
        time_min[r];
  }
}

void KeyValueCache::write(std::size_t layer, std::span<const RowPlace> places,
                          std::span<const float> k, std::span<const float> v) {
  const auto d_head = shape_.d_head;
  const auto width = shape_.n_kv_heads * d_head;
  if (layer >= shape_.n_layers || k.size() != places.size() * width || v.size() != k.size()) {
    throw std::invalid_argument("keys or values do not fit the cache");
  }
  for (std::size_t r = 0; r < places.size(); ++r) {
    const auto position = static_cast<std::size_t>(places[r].own_length - 1);
    const auto block = position / kKeyBlock;
    const auto lane = position % kKeyBlock;
    for (std::size_t head = 0; head < shape_.n_kv_heads; ++head) {
      const auto base = offset(layer, places[r].own_buffer, head);
      const float* source = k.data() + r * width + head * d_head;
      float* target = keys_.data() + base + block * kKeyBlock * d_head + lane;
      for (std::size_t d = 0; d < d_head; ++d) target[d * kKeyBlock] = source[d];
      std::copy_n(v.data() + r * width + head * d_head, d_head,
                  values_.data() + base + position * d_head);
    }
  }
}

void KeyValueCache::attend(std::size_t layer, std::span<const RowPlace> places,
                           std::span<const float> q, std::span<const float> slope,
                           std::span<const float> inverse_tau, std::span<float> out) {
  const auto d_head = shape_.d_head;
  const auto width = shape_.n_heads * d_head;
  const bool biased = shape_.bias != TimeBias::none;
  if (layer >= shape_.n_layers || q.size() != places.size() * width || out.size() != q.size() ||
      (biased && (slope.size() != shape_.n_heads || inverse_tau.size() != shape_.n_heads))) {
    throw std::invalid_argument("queries or bias parameters do not fit the cache");
  }
  const float scale = 1.0F / std::sqrt(static_cast<float>(d_head));
  const auto group = shape_.n_heads / shape_.n_kv_heads;
  for (std::size_t r = 0; r < places.size(); ++r) {
    const auto& place = places[r];
    const auto n_prefix = static_cast<std::size_t>(place.prefix_length);
    const auto n_own = static_cast<std::size_t>(place.own_length);
    const auto prefix_end = padded(n_prefix);
    const auto end = prefix_end + padded(n_own);
    const auto* prefix_times =
        times_.data() + static_cast<std::size_t>(place.prefix_buffer) * shape_.capacity;
    const auto* own_times =
        times_.data() + static_cast<std::size_t>(place.own_buffer) * shape_.capacity;
    if (biased) {
      const std::int32_t now = own_times[n_own - 1];
      packed::minutes_between(prefix_times, prefix_end, now, delta_.data());
      packed::minutes_between(own_times, end - prefix_end, now, delta_.data() + prefix_end);
    }
    for (std::size_t head = 0; head < shape_.n_heads; ++head) {
      const auto prefix_base = offset(layer, place.prefix_buffer, head / group);
      const auto own_base = offset(layer, place.own_buffer, head / group);
      const float* query = q.data() + r * width + head * d_head;
      float* scores = scores_.data();
      key_scores(query, keys_.data() + prefix_base, prefix_end / kKeyBlock, d_head, scale, scores);
      key_scores(query, keys_.data() + own_base, (end - prefix_end) / kKeyBlock, d_head, scale,
                 scores + prefix_end);
      if (shape_.bias == TimeBias::log) {
        add_log_bias(delta_.data(), end, slope[head], inverse_tau[head], scores);
      } else if (shape_.bias == TimeBias::linear) {
        add_linear_bias(delta_.data(), end, slope[head], inverse_tau[head], scores);
      }
      // Lanes behind either end hold what an earlier row left there.
      std::fill(scores + n_prefix, scores + prefix_end, packed::kNothing);
      std::fill(scores + prefix_end + n_own, scores + end, packed::kNothing);
      float top = packed::kNothing;
      const float sum = packed::exponentials(scores, end, &top);
      float* target = out.data() + r * width + head * d_head;
      std::fill_n(target, d_head, 0.0F);
      add_values(scores, values_.data() + prefix_base, n_prefix, d_head, target);
      add_values(scores + prefix_end, values_.data() + own_base, n_own, d_head, target);
      for (std::size_t d = 0; d < d_head; ++d) target[d] /= sum;
    }
  }
}

}  // namespace chronoward
