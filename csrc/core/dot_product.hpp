#pragma once

#include "core/amx.hpp"

// Products of bf16 or int8 matrices with AVX-512's dot products of two or four neighbours, for
// processors that have them and no AMX (AMD's since Zen 4).
namespace chronoward {

/// Whether the processor has both.
bool has_dot_products();

/// What `amx_product` computes, from the same layout; only the first `n_rows` rows of out are made.
void dot_product(const AmxProduct<Bf16, float>& product, std::size_t n_rows);
void dot_product(const AmxProduct<std::int8_t, std::int32_t>& product, std::size_t n_rows);

}  // namespace chronoward
