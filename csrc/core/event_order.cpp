#include "core/event_order.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <tuple>

namespace chronoward {
namespace {

float nulls_first(float x) { return std::isnan(x) ? -std::numeric_limits<float>::infinity() : x; }

}  // namespace

std::vector<std::int64_t> canonical_order(const EventKeys& e) {
  const std::size_t n = e.subject.size();
  if (e.available.size() != n || e.role.size() != n || e.table.size() != n || e.code.size() != n ||
      e.unit.size() != n || e.number.size() != n || e.text.size() != n || e.time.size() != n ||
      e.visit_id.size() != n || e.end_time.size() != n) {
    throw std::invalid_argument("columns of events must have one length");
  }
  if (!std::is_sorted(e.subject.begin(), e.subject.end())) {
    throw std::invalid_argument("subjects must ascend");
  }
  std::vector<std::int64_t> order(n);
  std::iota(order.begin(), order.end(), std::int64_t{0});
  const auto at = [](std::int64_t row) { return static_cast<std::size_t>(row); };
  const auto rest = [&](std::size_t i) {
    return std::tuple(e.table[i], e.code[i], e.unit[i], nulls_first(e.number[i]), e.text[i],
                      e.time[i], e.visit_id[i], e.end_time[i]);
  };
  const auto is_before = [&](std::int64_t x, std::int64_t y) {
    const std::size_t a = at(x), b = at(y);
    if (e.available[a] != e.available[b]) return e.available[a] < e.available[b];
    if (e.role[a] != e.role[b]) return e.role[a] < e.role[b];
    return rest(a) < rest(b);
  };
  for (std::size_t first = 0, last = 0; first < n; first = last) {
    while (last < n && e.subject[last] == e.subject[first]) ++last;
    const auto begin = order.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end = order.begin() + static_cast<std::ptrdiff_t>(last);
    if (!std::is_sorted(begin, end, is_before)) std::sort(begin, end, is_before);
  }
  return order;
}

}  // namespace chronoward
