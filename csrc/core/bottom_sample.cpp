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

constexpr std::size_t kMostBlocks = 32;  // of one size, which the pool asks for at a time

void reserve(SampledRows& out, std::size_t n) {
  out.group.reserve(n);
  out.priority.reserve(n);
  out.subject.reserve(n);
  out.value.reserve(n);
}

}  // namespace

BottomSample::BottomSample(std::size_t size, const std::string& folder)
    : size_(size), room_(size + size / 4 + 1) {
  if (size == 0) throw std::invalid_argument("a sample keeps at least one row a group");
  if (folder.empty()) return;
  file_ = std::make_unique<FileMemory>(folder);
  const std::pmr::pool_options options{.max_blocks_per_chunk = kMostBlocks,
                                       .largest_required_pool_block = room_ * sizeof(Row)};
  pool_ = std::make_unique<std::pmr::unsynchronized_pool_resource>(options, file_.get());
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
  while (group >= groups_.size()) {
    groups_.push_back({.rows = Rows(pool_ ? pool_.get() : std::pmr::get_default_resource())});
  }
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
  reserve(out, n);
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    put(g, out);
    const Rows gone = std::move(groups_[g].rows);
    groups_[g].limit = std::numeric_limits<std::uint64_t>::max();
  }
  return out;
}

SampledRows BottomSample::rows(std::size_t first, std::size_t end) {
  SampledRows out;
  const std::size_t last = std::min(end, groups_.size());
  std::size_t n = 0;
  for (std::size_t g = first; g < last; ++g) {
    shrink(groups_[g]);
    n += groups_[g].rows.size();
  }
  reserve(out, n);
  for (std::size_t g = first; g < last; ++g) put(g, out);
  return out;
}

void BottomSample::put(std::size_t group, SampledRows& out) {
  Rows& rows = groups_[group].rows;
  std::sort(rows.begin(), rows.end());
  for (const Row& row : rows) {
    out.group.push_back(static_cast<std::int64_t>(group));
    out.priority.push_back(row.priority);
    out.subject.push_back(row.subject);
    out.value.push_back(row.value);
  }
}

}  // namespace chronoward
