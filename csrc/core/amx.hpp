#pragma once

#include <cstdint>

#include "core/bf16.hpp"
#include "core/tiled_product.hpp"

// Products with AMX's tile registers (16 rows of 64 bytes), where the processor has them and the
// system lets us.
namespace chronoward {

/// Whether this process may use AMX with bf16 and int8; asks the system when first called.
bool has_amx();

void amx_product(const TiledProduct<Bf16, float>& product);
void amx_product(const TiledProduct<std::int8_t, std::int32_t>& product);

}  // namespace chronoward
