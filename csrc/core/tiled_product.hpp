#pragma once

#include <cstddef>

namespace chronoward {

/// A product of bf16 or int8 matrices as AMX's tiles and AVX-512's dot products read it:
/// out (+)= a · b. Sums of bf16 are fp32, one chain of pairs in the order of depth; those of int8
/// are int32, and exact.
template <typename T, typename Sum>
struct TiledProduct {
  static constexpr std::size_t kTogether = 4 / sizeof(T);  // rows of b that lie side by side
  const T* a = nullptr;                                    // (n_rows up to whole 16s, depth)
  std::size_t n_rows = 0;
  const T* b = nullptr;  // panels of (depth / kTogether, 16, kTogether), column by column
  std::size_t n_panels = 0;
  std::size_t depth = 0;  // a multiple of 64 bytes
  bool adds = false;
  Sum* out = nullptr;  // (n_rows up to whole 16s, out_stride); the rows past n_rows may be written
  std::size_t out_stride = 0;
};

}  // namespace chronoward
