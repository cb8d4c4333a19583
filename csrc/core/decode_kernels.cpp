#include "core/decode_kernels.hpp"

#include <stdexcept>

#include "core/amx.hpp"
#include "core/dot_product.hpp"

namespace chronoward {

namespace v1 {
extern const DecodeKernels kKernels;
}

#ifdef CHRONOWARD_X86_LEVELS
namespace v3 {
extern const DecodeKernels kKernels;
}
namespace v4 {
extern const DecodeKernels kKernels;
}
#endif

namespace {

DecodeLevel best_level() {
#ifdef CHRONOWARD_X86_LEVELS
  const bool has_v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_v4 = has_v3 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (has_v4 && has_dot_products()) return has_amx() ? DecodeLevel::amx : DecodeLevel::dot;
  if (has_v4) return DecodeLevel::v4;
  if (has_v3) return DecodeLevel::v3;
#endif
  return DecodeLevel::v1;
}

const DecodeKernels& kernels_of(DecodeLevel level) {
#ifdef CHRONOWARD_X86_LEVELS
  if (level >= DecodeLevel::v4) return v4::kKernels;
  if (level == DecodeLevel::v3) return v3::kKernels;
#else
  static_cast<void>(level);
#endif
  return v1::kKernels;
}

struct Chosen {
  DecodeLevel level;
  const DecodeKernels* kernels;
};

Chosen& chosen() {
  static Chosen now{best_level(), &kernels_of(best_level())};
  return now;
}

}  // namespace

const DecodeKernels& decode_kernels() { return *chosen().kernels; }

DecodeLevel decode_level() { return chosen().level; }

void use_decode_level(DecodeLevel level) {
  if (level > best_level()) throw std::invalid_argument("this processor lacks that level");
  chosen() = {level, &kernels_of(level)};
}

}  // namespace chronoward
