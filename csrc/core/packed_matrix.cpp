#include "core/packed_matrix.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "core/amx.hpp"
#include "core/decode_kernels.hpp"
#include "core/dot_product.hpp"

namespace chronoward {
namespace {

constexpr std::size_t kStripPanels = 8;  // whose int8 sums stay in the first cache

}  // namespace

PackedMatrix::PackedMatrix(std::span<const float> weight, std::size_t n_out, std::size_t n_in,
                           NumberType type)
    : n_out_(n_out), n_in_(n_in), n_panels_(whole_panels(n_out) / kWide) {
  if (n_out == 0 || n_in == 0 || weight.size() != n_out * n_in) {
    throw std::invalid_argument("a weight does not fit its shape");
  }
  is_tiled_ = type != NumberType::f32 && decode_level() >= DecodeLevel::dot;
  is_amx_ = is_tiled_ && decode_level() == DecodeLevel::amx;
  const std::size_t tile = type == NumberType::bf16 ? 32 : 64;
  depth_ = is_tiled_ ? (n_in + tile - 1) / tile * tile : n_in;
  const auto size = n_panels_ * kWide * depth_;
  if (type == NumberType::i8) {
    bytes_ = HugeBlock<std::int8_t>(size);
    std::fill_n(bytes_.data(), size, std::int8_t{0});
    pack_int8(weight);
    return;
  }
  if (type == NumberType::f32) {
    floats_ = HugeBlock<float>(size);
    std::fill_n(floats_.data(), size, 0.0F);
  } else {
    halves_ = HugeBlock<Bf16>(size);
    std::fill_n(halves_.data(), size, Bf16{});
  }
  if (is_tiled_) rows_.assign(kProductRows * depth_, Bf16{});
  pack(weight);
}

void PackedMatrix::pack(std::span<const float> weight) {
  for (std::size_t o = 0; o < n_out_; ++o) {
    const auto panel = o / kWide * kWide * depth_, lane = o % kWide;
    for (std::size_t k = 0; k < n_in_; ++k) {
      const float value = weight[o * n_in_ + k];
      if (is_tiled_) {
        halves_.data()[panel + k / 2 * 2 * kWide + 2 * lane + k % 2] = to_bf16(value);
      } else if (halves_.size() != 0) {
        halves_.data()[panel + k * kWide + lane] = to_bf16(value);
      } else {
        floats_.data()[panel + k * kWide + lane] = value;
      }
    }
  }
}

/// The largest weight of each output becomes 127.
void PackedMatrix::pack_int8(std::span<const float> weight) {
  const std::size_t together = is_tiled_ ? 4 : 1;
  scales_.assign(n_panels_ * kWide, 0.0F);
  for (std::size_t o = 0; o < n_out_; ++o) {
    const auto row = weight.subspan(o * n_in_, n_in_);
    float top = 0.0F, fault = 0.0F;
    for (const float w : row) {
      top = std::max(top, std::fabs(w));
      fault += w * 0.0F;  // NaN of NaN and of infinity
    }
    scales_[o] = top / 127.0F + fault;
    if (top < 1e-30F || fault != 0.0F) continue;
    const auto panel = o / kWide * kWide * depth_, lane = o % kWide;
    for (std::size_t k = 0; k < n_in_; ++k) {
      const auto at = panel + k / together * together * kWide + together * lane + k % together;
      bytes_.data()[at] = static_cast<std::int8_t>(std::nearbyint(row[k] * (127.0F / top)));
    }
  }
  const auto strip = kProductRows * kStripPanels * kWide;
  if (is_tiled_) {
    integers_.bytes.assign(kProductRows * depth_, 0);
    integers_.whole_sums.assign(strip, 0);
  } else {
    integers_.rows.assign(kProductRows * whole_panels(n_in_), 0.0F);
    integers_.sums.assign(strip, 0.0F);
  }
}

void PackedMatrix::multiply(const float* x, std::size_t x_stride, std::size_t n_rows, float* out,
                            std::size_t out_stride, bool adds) const {
  if (bytes_.size() != 0) return multiply_int8(x, x_stride, n_rows, out, out_stride, adds);
  if (is_tiled_) return multiply_bf16(x, x_stride, n_rows, out, out_stride, adds);
  const auto run = [&]<typename T>(const T* base) {
    TileProduct<T> product;
    product.x = x;
    product.x_stride = x_stride;
    product.n_rows = n_rows;
    product.blocks = &base;
    product.panel_offset = depth_ * kWide;
    product.n_panels = n_panels_;
    product.depth = depth_;
    product.adds = adds;
    product.out = out;
    product.out_stride = out_stride;
    tile_product(product);
  };
  if (halves_.size() != 0) {
    run(halves_.data());
  } else {
    run(floats_.data());
  }
}

void PackedMatrix::multiply_bf16(const float* x, std::size_t x_stride, std::size_t n_rows,
                                 float* out, std::size_t out_stride, bool adds) const {
  for (std::size_t r = 0; r < n_rows; ++r) {
    const float* from = x + r * x_stride;
    Bf16* to = rows_.data() + r * depth_;
    for (std::size_t k = 0; k < n_in_; ++k) to[k] = to_bf16(from[k]);
  }
  TiledProduct<Bf16, float> product;
  product.a = rows_.data();
  product.n_rows = n_rows;
  product.b = halves_.data();
  product.n_panels = n_panels_;
  product.depth = depth_;
  product.adds = adds;
  product.out = out;
  product.out_stride = out_stride;
  is_amx_ ? amx_product(product) : dot_product(product);
}

void PackedMatrix::multiply_int8(const float* x, std::size_t x_stride, std::size_t n_rows,
                                 float* out, std::size_t out_stride, bool adds) const {
  const auto& kernels = decode_kernels();
  Integers& scratch = integers_;
  const auto width = whole_panels(n_in_);
  for (std::size_t r = 0; r < n_rows; ++r) {
    float* integers = is_tiled_ ? nullptr : scratch.rows.data() + r * width;
    std::int8_t* bytes = is_tiled_ ? scratch.bytes.data() + r * depth_ : nullptr;
    kernels.quantize(x + r * x_stride, n_in_, integers, bytes, scratch.scales + r);
  }
  constexpr std::size_t kStrip = kStripPanels * kWide;
  for (std::size_t first = 0; first < n_panels_; first += kStripPanels) {
    const auto n_panels = std::min(kStripPanels, n_panels_ - first), n = n_panels * kWide;
    const std::int8_t* base = bytes_.data() + first * kWide * depth_;
    if (is_tiled_) {
      TiledProduct<std::int8_t, std::int32_t> product;
      product.a = scratch.bytes.data();
      product.n_rows = n_rows;
      product.b = base;
      product.n_panels = n_panels;
      product.depth = depth_;
      product.out = scratch.whole_sums.data();
      product.out_stride = kStrip;
      is_amx_ ? amx_product(product) : dot_product(product);
    } else {
      TileProduct<std::int8_t> product;
      product.x = scratch.rows.data();
      product.x_stride = width;
      product.n_rows = n_rows;
      product.blocks = &base;
      product.panel_offset = depth_ * kWide;
      product.n_panels = n_panels;
      product.depth = depth_;
      product.out = scratch.sums.data();
      product.out_stride = kStrip;
      tile_product(product);
    }
    for (std::size_t r = 0; r < n_rows; ++r) {
      const float* scales = scales_.data() + first * kWide;
      float* to = out + r * out_stride + first * kWide;
      if (is_tiled_) {
        const auto* sums = scratch.whole_sums.data() + r * kStrip;
        kernels.rescale_i32(sums, scales, n, scratch.scales[r], adds, to);
      } else {
        const float* sums = scratch.sums.data() + r * kStrip;
        kernels.rescale_f32(sums, scales, n, scratch.scales[r], adds, to);
      }
    }
  }
}

}  // namespace chronoward
