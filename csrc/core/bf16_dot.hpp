#pragma once

#include "core/amx.hpp"

// Products of bf16 matrices with AVX-512's dot product of pairs, for processors that have it and no
// AMX (AMD's since Zen 4).
namespace chronoward {

/// Whether the processor adds products of bf16 pairs to fp32 sums in one instruction.
bool has_bf16_dot();

/// What `amx_product` computes, from the same layout; rows past the last of `n_rows` are left out.
void bf16_dot_product(const AmxProduct<Bf16, float>& product, std::size_t n_rows);

}  // namespace chronoward
