#include "core/bottom_sample.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <utility>

#include "core/philox.hpp"

namespace chronoward {
namespace {

std::size_t checked(std::int64_t group) {
  if (group < 0) throw std::invalid_argument("groups of a sample must not be negative");
  return static_cast<std::size_t>(group);
}

}  // namespace

BottomSample::BottomSample(std::size_t size) : size_(size), room_(size + size / 4 + 1) {
  if (size == 0) throw std::invalid_argument("a sample keeps at least one row a group");
}

void BottomSample::add(std::span<const std::int64_t> group, std::span<const std::int64_t> subject,
                       std::span<const std::int64_t> salt, std::span<const double> value) {
  if (subject.size() != group.size() || salt.size() != group.size() ||
      value.size() != group.size()) {
    throw std::invalid_argument("columns of offered rows must have one length");
  }
  for (std::size_t i = 0; i < group.size(); ++i) {
    add_row(checked(group[i]), subject[i], salt[i], value[i]);
  }
}

void BottomSample::add_row(std::size_t group, std::int64_t subject, std::int64_t salt,
                           double value) {
  const std::uint64_t who = splitmix64(static_cast<std::uint64_t>(subject));
  const std::uint64_t salted = splitmix64(who ^ static_cast<std::uint64_t>(salt));
  offer(group, {splitmix64(salted ^ std::bit_cast<std::uint64_t>(value)), who, value});
}

void BottomSample::add_sampled(std::span<const std::int64_t> group,
                               std::span<const std::uint64_t> priority,
                               std::span<const std::uint64_t> subject,
                               std::span<const double> value) {
  if (priority.size() != group.size() || subject.size() != group.size() ||
      value.size() != group.size()) {
    throw std::invalid_argument("columns of sampled rows must have one length");
  }
  for (std::size_t i = 0; i < group.size(); ++i) {
    offer(checked(group[i]), {priority[i], subject[i], value[i]});
  }
}

void BottomSample::offer(std::size_t group, const Row& row) {
  if (group >= groups_.size()) groups_.resize(group + 1);
  Group& mine = groups_[group];
  if (row.priority > mine.limit) return;
  if (mine.rows.size() == mine.rows.capacity()) {  // doubling would pass `room_`
    mine.rows.reserve(std::min(room_, std::max<std::size_t>(16, 2 * mine.rows.size())));
  }
  mine.rows.push_back(row);
  if (mine.rows.size() >= room_) shrink(mine);
}

void BottomSample::shrink(Group& group) const {
  if (group.rows.size() <= size_) return;
  const auto last = group.rows.begin() + static_cast<std::ptrdiff_t>(size_ - 1);
  std::nth_element(group.rows.begin(), last, group.rows.end());
  group.limit = last->priority;
  group.rows.resize(size_);
}

SampledRows BottomSample::take() {
  std::size_t n = 0;
  for (Group& group : groups_) {
    shrink(group);
    n += group.rows.size();
  }
  SampledRows out;
  out.group.reserve(n);
  out.priority.reserve(n);
  out.subject.reserve(n);
  out.value.reserve(n);
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    Group group = std::exchange(groups_[g], Group{});
    std::sort(group.rows.begin(), group.rows.end());
    for (const Row& row : group.rows) {
      out.group.push_back(static_cast<std::int64_t>(g));
      out.priority.push_back(row.priority);
      out.subject.push_back(row.subject);
      out.value.push_back(row.value);
    }
  }
  return out;
}

}  // namespace chronoward
