#include "core/packed_matrix.hpp"

#include <algorithm>
#include <stdexcept>

#include "core/amx.hpp"
#include "core/decode_kernels.hpp"

namespace chronoward {

PackedMatrix::PackedMatrix(std::span<const float> weight, std::size_t n_out, std::size_t n_in,
                           NumberType type)
    : n_out_(n_out), n_in_(n_in), n_panels_(whole_panels(n_out) / kWide) {
  if (n_out == 0 || n_in == 0 || weight.size() != n_out * n_in) {
    throw std::invalid_argument("a weight does not fit its shape");
  }
  is_amx_ = type == NumberType::bf16 && has_amx();
  depth_ = is_amx_ ? (n_in + 31) / 32 * 32 : n_in;
  const auto size = n_panels_ * kWide * depth_;
  if (type == NumberType::f32) {
    floats_ = HugeBlock<float>(size);
    std::fill_n(floats_.data(), size, 0.0F);
  } else {
    halves_ = HugeBlock<Bf16>(size);
    std::fill_n(halves_.data(), size, Bf16{});
  }
  if (is_amx_) rows_.assign(kProductRows * depth_, Bf16{});
  pack(weight);
}

void PackedMatrix::pack(std::span<const float> weight) {
  for (std::size_t o = 0; o < n_out_; ++o) {
    const auto panel = o / kWide * kWide * depth_, lane = o % kWide;
    for (std::size_t k = 0; k < n_in_; ++k) {
      const float value = weight[o * n_in_ + k];
      if (is_amx_) {
        halves_.data()[panel + k / 2 * 2 * kWide + 2 * lane + k % 2] = to_bf16(value);
      } else if (halves_.size() != 0) {
        halves_.data()[panel + k * kWide + lane] = to_bf16(value);
      } else {
        floats_.data()[panel + k * kWide + lane] = value;
      }
    }
  }
}

void PackedMatrix::multiply(const float* x, std::size_t x_stride, std::size_t n_rows, float* out,
                            std::size_t out_stride, bool adds) const {
  if (is_amx_) return multiply_amx(x, x_stride, n_rows, out, out_stride, adds);
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

void PackedMatrix::multiply_amx(const float* x, std::size_t x_stride, std::size_t n_rows,
                                float* out, std::size_t out_stride, bool adds) const {
  for (std::size_t r = 0; r < n_rows; ++r) {
    const float* from = x + r * x_stride;
    Bf16* to = rows_.data() + r * depth_;
    for (std::size_t k = 0; k < n_in_; ++k) to[k] = to_bf16(from[k]);
  }
  AmxProduct product;
  product.a = rows_.data();
  product.n_row_tiles = (n_rows + 15) / 16;
  product.b = halves_.data();
  product.n_panels = n_panels_;
  product.depth = depth_;
  product.adds = adds;
  product.out = out;
  product.out_stride = out_stride;
  amx_product(product);
}

}  // namespace chronoward
