#include "core/paged_cache.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace chronoward {
namespace {

const AttentionShape& checked(const AttentionShape& shape) {
  if (shape.n_kv_heads == 0 || shape.n_heads % shape.n_kv_heads != 0 || shape.d_head == 0 ||
      shape.n_layers == 0) {
    throw std::invalid_argument("key-value cache: heads or layers do not fit");
  }
  return shape;
}

}  // namespace

PagedCache::PagedCache(const AttentionShape& shape, NumberType type, std::size_t n_buffers,
                       std::size_t capacity, std::size_t max_pages)
    : shape_(checked(shape)),
      type_(type),
      capacity_(capacity),
      layer_size_(shape.layer_size()),
      page_size_(layer_size_ * shape.n_layers),
      n_pages_(max_pages),
      pages_(n_buffers),
      lengths_(n_buffers, 0) {
  if (type == NumberType::f32) {
    floats_ = HugeBlock<float>(n_pages_ * page_size_);
  } else {
    halves_ = HugeBlock<Bf16>(n_pages_ * page_size_);
  }
  times_.assign(n_pages_ * kPageTokens, 0);
  free_.resize(n_pages_);
  std::iota(free_.rbegin(), free_.rend(), 0);
}

void PagedCache::check(std::span<const RowPlace> places) const {
  const auto n = static_cast<std::int32_t>(pages_.size());
  for (const auto& place : places) {
    const bool fits = place.prefix_buffer >= 0 && place.prefix_buffer < n &&
                      place.own_buffer >= 0 && place.own_buffer < n && place.prefix_length >= 0 &&
                      place.own_length >= 1 &&
                      static_cast<std::size_t>(place.own_length) <= capacity_ &&
                      static_cast<std::size_t>(place.prefix_length) <=
                          lengths_[static_cast<std::size_t>(place.prefix_buffer)];
    if (!fits) throw std::invalid_argument("a row's place lies outside the key-value cache");
  }
}

std::int32_t PagedCache::take_page() {
  if (free_.empty()) throw std::length_error("the key-value cache has no page left");
  const auto page = free_.back();
  free_.pop_back();
  // Memory that was never written may hold anything, and 0 · NaN is NaN.
  const auto first = static_cast<std::size_t>(page) * page_size_;
  if (type_ == NumberType::f32) {
    std::fill_n(floats_.data() + first, page_size_, 0.0F);
  } else {
    std::fill_n(halves_.data() + first, page_size_, Bf16{});
  }
  return page;
}

void PagedCache::release(std::size_t buffer) {
  auto& pages = pages_.at(buffer);
  free_.insert(free_.end(), pages.rbegin(), pages.rend());
  pages.clear();
  lengths_[buffer] = 0;
}

void PagedCache::write_times(std::span<const RowPlace> places,
                             std::span<const std::int32_t> time_min) {
  if (time_min.size() != places.size()) throw std::invalid_argument("one time a row is needed");
  for (std::size_t r = 0; r < places.size(); ++r) {
    const auto buffer = static_cast<std::size_t>(places[r].own_buffer);
    const auto length = static_cast<std::size_t>(places[r].own_length);
    if (length == 1) release(buffer);
    if (length > lengths_[buffer] + 1) {
      throw std::invalid_argument("a row's place lies outside the key-value cache");
    }
    auto& pages = pages_[buffer];
    if (pages.size() * kPageTokens < length) pages.push_back(take_page());
    lengths_[buffer] = length;
    const auto page = static_cast<std::size_t>(pages[(length - 1) / kPageTokens]);
    times_[page * kPageTokens + (length - 1) % kPageTokens] = time_min[r];
  }
}

template <typename T, typename Convert>
void PagedCache::write_rows(T* data, std::size_t layer, std::span<const RowPlace> places,
                            const float* k, const float* v, Convert convert) {
  const auto d = shape_.d_head, heads = shape_.n_kv_heads;
  for (const auto& place : places) {
    const auto position = static_cast<std::size_t>(place.own_length - 1);
    const auto lane = position % kPageTokens;
    T* base = data + layer_offset(layer, pages(place.own_buffer)[position / kPageTokens]);
    for (std::size_t head = 0; head < heads; ++head, k += d, v += d) {
      T* key = base + head * kPageTokens * d + lane;
      T* value = base + key_size() + (head * kPageTokens + lane) * shape_.d_value();
      for (std::size_t i = 0; i < d; ++i) key[i * kPageTokens] = convert(k[i]);
      for (std::size_t i = 0; i < d; ++i) value[i] = convert(v[i]);
    }
  }
}

void PagedCache::write(std::size_t layer, std::span<const RowPlace> places,
                       std::span<const float> k, std::span<const float> v) {
  const auto width = shape_.n_kv_heads * shape_.d_head;
  if (layer >= shape_.n_layers || k.size() != places.size() * width || v.size() != k.size()) {
    throw std::invalid_argument("keys or values do not fit the cache");
  }
  if (type_ == NumberType::f32) {
    write_rows(floats_.data(), layer, places, k.data(), v.data(), [](float x) { return x; });
  } else {
    write_rows(halves_.data(), layer, places, k.data(), v.data(), to_bf16);
  }
}

}  // namespace chronoward
