#pragma once

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace chronoward {

/// While it lives, the thread that made it takes floats below 1.2e-38 for zero. The gradient of a
/// token through an attention weight of e^-80 is such a number: it changes nothing, and every
/// operation on it costs a hundred cycles.
class WithoutDenormals {
 public:
#if defined(__SSE__)
  WithoutDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushAndIgnore); }
  ~WithoutDenormals() { _mm_setcsr(before_); }
#else
  WithoutDenormals() = default;
#endif
  WithoutDenormals(const WithoutDenormals&) = delete;
  WithoutDenormals& operator=(const WithoutDenormals&) = delete;

#if defined(__SSE__)
 private:
  static constexpr unsigned kFlushAndIgnore = 0x8040;  // of results, of inputs
  unsigned before_;
#endif
};

}  // namespace chronoward
