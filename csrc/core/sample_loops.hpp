#pragma once

#include <cstddef>
#include <cstdint>

// The sampler's passes over a row of logits, whose legal tokens are the set bits of `words` (32
// tokens each; rows are in whole words). Compiled for AVX-512 and AVX2 too; nothing is fused, so
// all give the same draws.
namespace chronoward {

/// Copies a row; false where a number is none.
bool copy_numbers(const float* from, std::size_t n, float* to);

/// The largest legal logit; -inf where there is none.
float legal_max(const float* logits, const std::uint32_t* words, std::size_t n_words);

/// mass = exp((logit - top) · scale) in words with a legal token, 0 for the others in them.
void exponentials(const float* logits, const std::uint32_t* words, std::size_t n_words, float top,
                  float scale, float* mass);

/// Sum of each word's 32 masses (0 where no token is legal), in four lanes of doubles.
void sum_words(const float* mass, const std::uint32_t* words, std::size_t n_words, double* sums);

}  // namespace chronoward
