#pragma once

#include <cstddef>

#include "core/bf16.hpp"

// Products of bf16 matrices with AMX's tile registers (16 rows by 32 columns of bf16), where the
// processor has them and the system lets us.
namespace chronoward {

/// Whether this process may use AMX with bf16; asks the system when first called.
bool has_amx();

/// out (+)= a · b. Sums are fp32, one chain of pairs in the order of depth.
struct AmxProduct {
  const Bf16* a = nullptr;  // (16 * n_row_tiles, depth)
  std::size_t n_row_tiles = 0;
  const Bf16* b = nullptr;  // panels of (depth / 2, 16, 2): pairs of rows, column by column
  std::size_t n_panels = 0;
  std::size_t depth = 0;  // a multiple of 32
  bool adds = false;
  float* out = nullptr;  // (16 * n_row_tiles, out_stride)
  std::size_t out_stride = 0;
};

void amx_product(const AmxProduct& product);

}  // namespace chronoward
