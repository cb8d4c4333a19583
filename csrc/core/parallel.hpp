#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <future>
#include <vector>

namespace chronoward {

/// Splits [0, n) into `n_threads` contiguous ranges and calls fn(begin, end, thread) on each, the
/// first on the caller's thread: one that only waits lets the others be put on one core.
/// An exception of any range is rethrown on the caller's thread (the first by range order).
template <typename Fn>
void parallel_for(std::size_t n, int n_threads, const Fn& fn) {
  const std::size_t n_ranges = std::min<std::size_t>(
      static_cast<std::size_t>(std::max(1, n_threads)), std::max<std::size_t>(n, 1));
  if (n_ranges == 1) {
    fn(std::size_t{0}, n, std::size_t{0});
    return;
  }
  std::vector<std::future<void>> ranges;
  ranges.reserve(n_ranges);
  for (std::size_t r = 1; r < n_ranges; ++r) {
    const std::size_t begin = n * r / n_ranges;
    const std::size_t end = n * (r + 1) / n_ranges;
    ranges.push_back(std::async(std::launch::async, [&fn, begin, end, r] { fn(begin, end, r); }));
  }
  std::exception_ptr first;
  try {
    fn(std::size_t{0}, n / n_ranges, std::size_t{0});
  } catch (...) {
    first = std::current_exception();
  }
  for (auto& range : ranges) range.wait();
  if (first) std::rethrow_exception(first);
  for (auto& range : ranges) range.get();
}

}  // namespace chronoward
