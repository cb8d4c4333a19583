#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/bf16.hpp"
#include "core/huge_block.hpp"

namespace chronoward {

enum class NumberType { f32, bf16, i8 };

constexpr std::size_t whole_panels(std::size_t n) { return (n + 15) / 16 * 16; }

/// Most rows of one product: the weights are read once for all of them.
constexpr std::size_t kProductRows = 64;

/// Weights of a linear layer, in panels of sixteen outputs, fp32, bf16 or int8. bf16 weights meet
/// bf16 inputs where the processor has units for them (AMX's tiles, AVX-512's dot products), fp32
/// inputs elsewhere; sums are fp32. int8 weights have a scale an output and meet inputs that are
/// rounded to int8 with a scale a row; products of integers are added, exactly in those units and,
/// up to a depth of 1,040, in fp32.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  /// `weight` is (n_out, n_in), as torch's Linear has it.
  PackedMatrix(std::span<const float> weight, std::size_t n_out, std::size_t n_in, NumberType type);

  std::size_t n_in() const { return n_in_; }
  std::size_t n_out() const { return n_out_; }
  std::size_t bytes() const {
    return (floats_.size() + scales_.size()) * 4 + halves_.size() * 2 + bytes_.size();
  }

  /// out (+)= x · weightᵀ for up to 64 rows. `out` must have whole panels of columns
  /// (`out_stride` >= whole_panels(n_out)), and 64 rows, of which only `n_rows` mean anything.
  void multiply(const float* x, std::size_t x_stride, std::size_t n_rows, float* out,
                std::size_t out_stride, bool adds) const;

 private:
  void pack(std::span<const float> weight);
  void pack_int8(std::span<const float> weight);
  void multiply_bf16(const float* x, std::size_t x_stride, std::size_t n_rows, float* out,
                     std::size_t out_stride, bool adds) const;
  void multiply_int8(const float* x, std::size_t x_stride, std::size_t n_rows, float* out,
                     std::size_t out_stride, bool adds) const;

  std::size_t n_out_ = 0, n_in_ = 0, n_panels_ = 0;
  bool is_tiled_ = false;  // laid out for AMX or dot products
  bool is_amx_ = false;    // for AMX
  std::size_t depth_ = 0;  // n_in_, where tiled up to whole tiles
  HugeBlock<float> floats_;
  HugeBlock<Bf16> halves_;
  HugeBlock<std::int8_t> bytes_;
  std::vector<float> scales_;       // of each output, for int8
  mutable std::vector<Bf16> rows_;  // scratch: the inputs as bf16
  struct Integers {  // scratch: the inputs as integers, their scales, and sums of some panels
    std::vector<float> rows, sums;
    std::vector<std::int8_t> bytes;
    std::vector<std::int32_t> whole_sums;
    float scales[kProductRows] = {};
  };
  mutable Integers integers_;
};

}  // namespace chronoward
