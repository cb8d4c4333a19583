#include "core/sample_loops.hpp"

#include <limits>

#include "core/fastmath.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define SAMPLER_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SAMPLER_CLONES
#endif

namespace chronoward {

SAMPLER_CLONES bool copy_numbers(const float* from, std::size_t n, float* to) {
  int n_bad = 0;
  for (std::size_t i = 0; i < n; ++i) {
    to[i] = from[i];
    n_bad += from[i] != from[i] ? 1 : 0;
  }
  return n_bad == 0;
}

SAMPLER_CLONES float legal_max(const float* logits, const std::uint32_t* words,
                               std::size_t n_words) {
  float best[32];
  for (float& lane : best) lane = -std::numeric_limits<float>::infinity();
  for (std::size_t w = 0; w < n_words; ++w) {
    if (words[w] == 0) continue;
    for (unsigned b = 0; b < 32; ++b) {
      const bool legal = ((words[w] >> b) & 1U) != 0;
      const float value = legal ? logits[32 * w + b] : -std::numeric_limits<float>::infinity();
      best[b] = value > best[b] ? value : best[b];
    }
  }
  float top = best[0];
  for (const float lane : best) top = lane > top ? lane : top;
  return top;
}

SAMPLER_CLONES void exponentials(const float* logits, const std::uint32_t* words,
                                 std::size_t n_words, float top, float scale, float* mass) {
  for (std::size_t w = 0; w < n_words; ++w) {
    if (words[w] == 0) continue;
    for (unsigned b = 0; b < 32; ++b) {
      const bool legal = ((words[w] >> b) & 1U) != 0;
      const float value = fast_exp((logits[32 * w + b] - top) * scale);
      mass[32 * w + b] = legal ? value : 0.0F;
    }
  }
}

SAMPLER_CLONES void sum_words(const float* mass, const std::uint32_t* words, std::size_t n_words,
                              double* sums) {
  for (std::size_t w = 0; w < n_words; ++w) {
    double lanes[4] = {};
    if (words[w] != 0) {
      for (std::size_t b = 0; b < 32; b += 4) {
        for (std::size_t i = 0; i < 4; ++i) lanes[i] += static_cast<double>(mass[32 * w + b + i]);
      }
    }
    sums[w] = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  }
}

}  // namespace chronoward
