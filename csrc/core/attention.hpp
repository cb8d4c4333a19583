#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

// CPU decode attention over a cache of keys and values, each row over its own length: the shared
// prefix first, then the row's own tokens. A row's result depends on that row and its keys only.
namespace chronoward {

/// Keys lie in blocks of 16 tokens, (block, d, 16), so that scores of 16 keys are computed at once;
/// values lie token by token, (token, d).
constexpr std::size_t kKeyBlock = 16;

enum class TimeBias : std::uint8_t { none, log, linear };

struct AttentionShape {
  std::size_t n_layers = 0;
  std::size_t n_heads = 0;
  std::size_t n_kv_heads = 0;
  std::size_t d_head = 0;
  std::size_t capacity = 0;  // tokens a buffer holds, a multiple of 16
  TimeBias bias = TimeBias::none;
};

/// Where a row's keys are: `prefix_length` tokens of one buffer, then `own_length` of another (the
/// row's own token is the last of them).
struct RowPlace {
  std::int32_t prefix_buffer = 0;
  std::int32_t prefix_length = 0;
  std::int32_t own_buffer = 0;
  std::int32_t own_length = 0;
};

/// Zeroed floats on huge pages where the system has them: a step touches thousands of places that
/// lie far apart, and with small pages their addresses cost more than their bytes.
class FloatBlock {
 public:
  explicit FloatBlock(std::size_t n);
  float* data() { return values_.get(); }
  const float* data() const { return values_.get(); }

 private:
  struct Free {
    void operator()(float* values) const { std::free(values); }
  };
  std::unique_ptr<float, Free> values_;
};

class KeyValueCache {
 public:
  KeyValueCache(const AttentionShape& shape, std::size_t n_buffers);

  const AttentionShape& shape() const { return shape_; }
  std::size_t n_buffers() const { return n_buffers_; }

  /// Writes the times of the rows' own tokens (once a step, before the layers).
  void write_times(std::span<const RowPlace> places, std::span<const std::int32_t> time_min);

  /// Appends the rows' keys and values of one layer; k, v are (rows, n_kv_heads, d_head).
  void write(std::size_t layer, std::span<const RowPlace> places, std::span<const float> k,
             std::span<const float> v);

  /// softmax(q·k/√d − a·f(|Δt|/τ))·v. q and out are (rows, n_heads, d_head); `slope` (a) and
  /// `inverse_tau` (1/τ, per minute) have one entry a head.
  void attend(std::size_t layer, std::span<const RowPlace> places, std::span<const float> q,
              std::span<const float> slope, std::span<const float> inverse_tau,
              std::span<float> out);

  void check(std::span<const RowPlace> places) const;

 private:
  std::size_t offset(std::size_t layer, std::int32_t buffer, std::size_t head) const {
    const auto b = static_cast<std::size_t>(buffer);
    return ((b * shape_.n_layers + layer) * shape_.n_kv_heads + head) * shape_.capacity *
           shape_.d_head;
  }

  AttentionShape shape_;
  std::size_t n_buffers_;
  FloatBlock keys_;
  FloatBlock values_;
  std::vector<std::int32_t> times_;  // (n_buffers, capacity)
  std::vector<float> scores_;        // scratch of one row and head
  std::vector<float> delta_;         // scratch: minutes between the row and each key
};

}  // namespace chronoward
