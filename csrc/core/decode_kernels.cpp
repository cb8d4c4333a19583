#include "core/decode_kernels.hpp"

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

const DecodeKernels& decode_kernels() {
  static const DecodeKernels& chosen = []() -> const DecodeKernels& {
    const bool has_v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool has_v4 = has_v3 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    return has_v4 ? v4::kKernels : has_v3 ? v3::kKernels : v1::kKernels;
  }();
  return chosen;
}
#else
const DecodeKernels& decode_kernels() { return v1::kKernels; }
#endif

}  // namespace chronoward
