#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace chronoward {

/// Memory for `n` elements on huge pages where the system has them: a step touches thousands of
/// places that lie far apart, and with small pages their addresses cost more than their bytes.
/// Not filled, so that what is never used never becomes memory.
template <typename T>
class HugeBlock {
 public:
  HugeBlock() = default;
  explicit HugeBlock(std::size_t n) : size_(n) {
    constexpr std::size_t page = std::size_t{1} << 21;
    const std::size_t bytes = (n * sizeof(T) + page - 1) / page * page;
    if (bytes == 0) return;
    values_.reset(static_cast<T*>(std::aligned_alloc(page, bytes)));
    if (values_ == nullptr) throw std::bad_alloc();
#ifdef __linux__
    madvise(values_.get(), bytes, MADV_HUGEPAGE);  // a wish: without it everything works, slower
#endif
  }

  T* data() { return values_.get(); }
  const T* data() const { return values_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(T* values) const { std::free(values); }
  };
  std::unique_ptr<T, Free> values_;
  std::size_t size_ = 0;
};

}  // namespace chronoward
