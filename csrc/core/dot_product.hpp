#pragma once

#include <cstdint>

#include "core/bf16.hpp"
#include "core/tiled_product.hpp"

// The same products with AVX-512's dot products of two or four neighbours, for processors that have
// them and no AMX (AMD's since Zen 4).
namespace chronoward {

/// Whether the processor has both, of bf16 and of int8.
bool has_dot_products();

void dot_product(const TiledProduct<Bf16, float>& product);
void dot_product(const TiledProduct<std::int8_t, std::int32_t>& product);

}  // namespace chronoward
