#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/bf16.hpp"
#include "core/decode_kernels.hpp"
#include "core/huge_block.hpp"
#include "core/packed_matrix.hpp"
#include "core/row_place.hpp"

namespace chronoward {

struct AttentionShape {
  std::size_t n_layers = 0;
  std::size_t n_heads = 0;
  std::size_t n_kv_heads = 0;
  std::size_t d_head = 0;
  TimeBias bias = TimeBias::none;

  std::size_t group() const { return n_heads / n_kv_heads; }
  /// Width of a value as it is stored, whole panels.
  std::size_t d_value() const { return whole_panels(d_head); }
  /// Numbers that 16 tokens take in one layer.
  std::size_t layer_size() const { return n_kv_heads * kWide * (d_head + d_value()); }
  /// Bytes of a page of a cache.
  std::size_t page_bytes(NumberType type) const {
    return n_layers * layer_size() * (type == NumberType::f32 ? 4 : 2);
  }
};

/// Keys, values and times of many buffers, in pages of 16 tokens that a buffer takes as it grows.
/// A page holds all layers; in a layer it holds the keys of each head by dimension, (d, 16), so
/// that 16 scores are computed at once, then the values of each head token by token, (16, d).
class PagedCache {
 public:
  static constexpr std::size_t kPageTokens = kWide;

  /// `capacity`: most tokens of one buffer; `max_tokens`: of all together, whole pages each.
  PagedCache(const AttentionShape& shape, NumberType type, std::size_t n_buffers,
             std::size_t capacity, std::size_t max_pages);

  const AttentionShape& shape() const { return shape_; }
  NumberType type() const { return type_; }
  std::size_t n_buffers() const { return pages_.size(); }
  std::size_t pages_in_use() const { return n_pages_ - free_.size(); }

  /// Throws std::invalid_argument unless every row continues its buffer by at most one token (or
  /// begins it anew) and sees what is there.
  void check(std::span<const RowPlace> places) const;

  /// Makes room for the rows' own tokens and takes their times; a buffer's first token empties it.
  void write_times(std::span<const RowPlace> places, std::span<const std::int32_t> time_min);

  /// The rows' keys and values (rows, n_kv_heads, d_head) of one layer.
  void write(std::size_t layer, std::span<const RowPlace> places, std::span<const float> k,
             std::span<const float> v);

  /// Gives a buffer's pages back.
  void release(std::size_t buffer);

  std::span<const std::int32_t> pages(std::int32_t buffer) const {
    return pages_[static_cast<std::size_t>(buffer)];
  }
  const std::int32_t* times(std::int32_t page) const {
    return times_.data() + static_cast<std::size_t>(page) * kPageTokens;
  }
  template <typename T>
  const T* keys(std::size_t layer, std::int32_t page, std::size_t head) const {
    return data<T>() + layer_offset(layer, page) + head * kPageTokens * shape_.d_head;
  }
  template <typename T>
  const T* values(std::size_t layer, std::int32_t page, std::size_t head) const {
    return data<T>() + layer_offset(layer, page) + key_size() +
           head * kPageTokens * shape_.d_value();
  }

 private:
  template <typename T>
  const T* data() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return floats_.data();
    } else {
      return halves_.data();
    }
  }
  std::size_t key_size() const { return shape_.n_kv_heads * kPageTokens * shape_.d_head; }
  std::size_t layer_offset(std::size_t layer, std::int32_t page) const {
    return static_cast<std::size_t>(page) * page_size_ + layer * layer_size_;
  }
  std::int32_t take_page();
  template <typename T, typename Convert>
  void write_rows(T* data, std::size_t layer, std::span<const RowPlace> places, const float* k,
                  const float* v, Convert convert);

  AttentionShape shape_;
  NumberType type_;
  std::size_t capacity_;
  std::size_t layer_size_, page_size_;  // in elements
  std::size_t n_pages_;
  HugeBlock<float> floats_;
  HugeBlock<Bf16> halves_;
  std::vector<std::int32_t> times_;               // (n_pages, 16)
  std::vector<std::int32_t> free_;                // pages that no buffer holds; the last is next
  std::vector<std::vector<std::int32_t>> pages_;  // of each buffer, in order
  std::vector<std::size_t> lengths_;              // tokens of each buffer
};

}  // namespace chronoward
