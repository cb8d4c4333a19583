#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <memory_resource>
#include <span>
#include <string>
#include <vector>

#include "core/file_memory.hpp"

namespace chronoward {

/// Sampled rows, sorted by (group, priority, subject, value).
struct SampledRows {
  std::vector<std::int64_t> group;
  std::vector<std::uint64_t> priority, subject;  // `subject` is hashed
  std::vector<double> value;
};

/// Per group the `size` rows of least priority. A row's priority is a hash of the row alone, so the
/// sample of a union is made from the samples of its parts, in any order.
class BottomSample {
 public:
  /// @param size rows a group keeps at most; at least 1.
  /// @param folder where the rows lie, in a file without a name; in memory where it is empty.
  /// @throws std::system_error no file can be made there; so do the calls that offer rows.
  explicit BottomSample(std::size_t size, const std::string& folder = "");

  /// Offers rows.
  ///
  /// @param group 0 ..; memory grows with the largest.
  /// @param salt tells rows of one subject and value apart.
  /// @throws std::invalid_argument columns of different lengths, or a negative group.
  void add(std::span<const std::int64_t> group, std::span<const std::int64_t> subject,
           std::span<const std::int64_t> salt, std::span<const double> value);

  /// Offers one row; group 0 ...
  void add_row(std::size_t group, std::int64_t subject, std::int64_t salt, double value);

  /// Offers rows of another sample.
  ///
  /// @throws std::invalid_argument as `add`.
  void add_sampled(std::span<const std::int64_t> group, std::span<const std::uint64_t> priority,
                   std::span<const std::uint64_t> subject, std::span<const double> value);

  /// The sample of everything offered so far, which is forgotten: it is not held twice.
  SampledRows take();

  /// The sample of the groups first .. end - 1, which stays.
  SampledRows rows(std::size_t first, std::size_t end);

 private:
  struct Row {
    std::uint64_t priority, subject;
    double value;
    auto operator<=>(const Row&) const = default;
  };
  using Rows = std::pmr::vector<Row>;
  struct Group {
    Rows rows;
    std::uint64_t limit = std::numeric_limits<std::uint64_t>::max();  // no row above it can stay
  };

  void offer(std::size_t group, const Row& row);
  void shrink(Group& group) const;
  void put(std::size_t group, SampledRows& out);

  std::size_t size_, room_;  // rows kept, and rows at which a group is cut back to that
  std::unique_ptr<FileMemory> file_;
  std::unique_ptr<std::pmr::memory_resource> pool_;  // on the file
  std::vector<Group> groups_;
};

}  // namespace chronoward
