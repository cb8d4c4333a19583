#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace chronoward {

/// What keys are made of, (n,) each; unit -1 is none.
struct KeyColumns {
  std::span<const std::uint8_t> role;
  std::span<const std::int32_t> table, code, unit;
};

/// Numbers the distinct keys (role, table, code, unit) of any number of batches, in order of first
/// sight.
class KeyIndex {
 public:
  KeyIndex();

  /// The number of each row's key; the result does not depend on `n_threads`.
  ///
  /// @throws std::invalid_argument columns of different lengths.
  /// @throws std::out_of_range 4,096 tables, 2^27 codes or 2^20 units, or a negative number.
  std::vector<std::int32_t> number(const KeyColumns& rows, int n_threads);

  std::size_t size() const { return seen_.size(); }

  /// The parts of key i: role, table, code, unit.
  struct Key {
    std::int32_t role, table, code, unit;
  };
  Key key(std::size_t i) const;

 private:
  std::int32_t find(std::int64_t packed) const;
  std::int32_t number_of(std::int64_t packed);
  std::size_t slot_of(std::int64_t packed) const;
  void grow();

  std::vector<std::int64_t> slots_;  // open addressing
  std::vector<std::int32_t> numbers_;
  std::vector<std::int64_t> seen_;
};

}  // namespace chronoward
