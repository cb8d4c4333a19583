#pragma once

#include <cstddef>
#include <cstdint>

#include "core/bf16.hpp"

// Products of bf16 or int8 matrices with AMX's tile registers (16 rows of 64 bytes), where the
// processor has them and the system lets us.
namespace chronoward {

/// Whether this process may use AMX with bf16 and int8; asks the system when first called.
bool has_amx();

/// out (+)= a · b. Sums of bf16 are fp32, one chain of pairs in the order of depth; those of int8
/// are int32, and exact.
template <typename T, typename Sum>
struct AmxProduct {
  static constexpr std::size_t kTogether = 4 / sizeof(T);  // rows of b that lie side by side
  const T* a = nullptr;                                    // (16 * n_row_tiles, depth)
  std::size_t n_row_tiles = 0;
  const T* b = nullptr;  // panels of (depth / kTogether, 16, kTogether), column by column
  std::size_t n_panels = 0;
  std::size_t depth = 0;  // a multiple of a tile's 64 bytes
  bool adds = false;
  Sum* out = nullptr;  // (16 * n_row_tiles, out_stride)
  std::size_t out_stride = 0;
};

void amx_product(const AmxProduct<Bf16, float>& product);
void amx_product(const AmxProduct<std::int8_t, std::int32_t>& product);

}  // namespace chronoward
