#pragma once

#include <cstddef>
#include <cstdint>

#include "core/bf16.hpp"

// Inner loops of the decode step, written once over sixteen floats (decode_kernels.inl) and
// compiled for each level of x86: AVX-512, AVX2 with FMA, neither. Which one runs is chosen when
// first used.
namespace chronoward {

constexpr std::size_t kWide = 16;

/// What the loops are compiled for, each level with what the ones before it have. `dot` and `amx`
/// are v4 with units for products of bf16 and int8.
enum class DecodeLevel : std::uint8_t { v1, v3, v4, dot, amx };

enum class TimeBias : std::uint8_t { none, log, linear };

/// out (+)= x · B for a few rows of x, where B lies in panels of sixteen columns. Matrix products
/// and both halves of attention are this one loop. Every element of `out` is one chain of additions
/// in the order of depth, so a row's bytes do not depend on which rows or panels go together.
template <typename T>
struct TileProduct {
  const float* x = nullptr;  // (n_rows, n_blocks * depth), rows `x_stride` apart
  std::size_t x_stride = 0;
  std::size_t n_rows = 0;
  /// Depth comes in blocks. Panel p of block b begins at
  /// blocks[b * block_step + p * panel_step] + p * panel_offset; its rows lie `row_stride` apart.
  const T* const* blocks = nullptr;
  std::size_t n_blocks = 1;
  std::size_t block_step = 0;
  std::size_t panel_step = 0;
  std::size_t panel_offset = 0;
  std::size_t n_panels = 0;
  std::size_t row_stride = kWide;
  std::size_t depth = 0;
  bool adds = false;
  float* out = nullptr;  // panel p fills columns 16p … 16p + 15
  std::size_t out_stride = 0;
};

/// The same sums for all key heads of one row at once, so that enough chains of additions run side
/// by side: head h has `n_rows` rows of x and its own B, n_panels panels wide.
template <typename T>
struct HeadsProduct {
  const float* x = nullptr;
  std::size_t x_stride = 0;  // between the rows of a head
  std::size_t x_head_step = 0;
  std::size_t n_rows = 0;
  std::size_t n_heads = 0;
  /// Panel p of head h begins at block + h * head_step + 16p; its `depth` rows lie `row_stride`
  /// apart.
  const T* block = nullptr;
  const T* next = nullptr;  // the block that is read next, asked for meanwhile
  std::size_t head_step = 0;
  std::size_t n_panels = 0;
  std::size_t row_stride = kWide;
  std::size_t depth = 0;
  bool adds = false;
  float* out = nullptr;
  std::size_t out_stride = 0;  // between the rows of a head
  std::size_t out_head_step = 0;
};

/// A row of attention scores, `n` of which are keys of the row; there is room for whole blocks.
struct ScoreRow {
  float* scores = nullptr;
  const float* elapsed_min = nullptr;  // minutes between the row and each key; unused without bias
  std::size_t n = 0;
  std::size_t n_blocks = 0;
  float scale = 1.0F;
  TimeBias bias = TimeBias::none;
  float slope = 0.0F;
  float inverse_tau = 0.0F;
};

struct DecodeKernels {
  void (*product_f32)(const TileProduct<float>&);
  void (*product_bf16)(const TileProduct<Bf16>&);
  void (*product_i8)(const TileProduct<std::int8_t>&);
  void (*heads_f32)(const HeadsProduct<float>&);
  void (*heads_bf16)(const HeadsProduct<Bf16>&);
  /// scores -> exp(score - top), 0 behind `n`; also the sum. `n` is at least 1.
  void (*weigh)(const ScoreRow& row, float* top, float* sum);
  /// |now - time| of each key, in minutes; n is a multiple of 16.
  void (*elapsed)(const std::int32_t* times, std::size_t n, std::int32_t now, float* out);
  /// out = x / sqrt(mean(x²) + eps) · weight.
  void (*norm)(const float* x, const float* weight, std::size_t n, float eps, float* out);
  /// out = silu(gate) · up.
  void (*gate)(const float* gate, const float* up, std::size_t n, float* out);
  /// A row as integers of -127 … 127 times `scale`: bytes where `bytes` is given, else floats, with
  /// room for whole panels; the scale of a row that is not finite is NaN.
  void (*quantize)(const float* x, std::size_t n, float* integers, std::int8_t* bytes,
                   float* scale);
  /// out (+)= sum · scale · scales[i]; n is a multiple of 16.
  void (*rescale_f32)(const float* sums, const float* scales, std::size_t n, float scale, bool adds,
                      float* out);
  void (*rescale_i32)(const std::int32_t* sums, const float* scales, std::size_t n, float scale,
                      bool adds, float* out);
};

const DecodeKernels& decode_kernels();

/// The level in use: the best of this processor, unless a test has chosen another.
DecodeLevel decode_level();

/// Takes another level, for models made from then on. Throws std::invalid_argument where the
/// processor lacks it.
void use_decode_level(DecodeLevel level);

inline void tile_product(const TileProduct<float>& p) { decode_kernels().product_f32(p); }
inline void tile_product(const TileProduct<Bf16>& p) { decode_kernels().product_bf16(p); }
inline void tile_product(const TileProduct<std::int8_t>& p) { decode_kernels().product_i8(p); }
inline void heads_product(const HeadsProduct<float>& p) { decode_kernels().heads_f32(p); }
inline void heads_product(const HeadsProduct<Bf16>& p) { decode_kernels().heads_bf16(p); }

}  // namespace chronoward
