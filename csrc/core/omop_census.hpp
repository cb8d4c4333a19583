#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "core/omop_rows.hpp"

namespace chronoward {

/// Whose records count, and how times and names are looked at.
struct CensusRules {
  std::vector<std::int64_t> subjects;  // ids, ascending
  std::vector<std::int64_t> excluded;  // ids of subjects that are left out, ascending
  std::vector<std::pair<std::int64_t, std::int64_t>> sentinel_us;  // [begin, end) of years
  std::int64_t border_us = 0;        // times after it make a calendar shifted
  std::int32_t zero = 0;             // number of the concept 0
  bool uses_source_concept = false;  // see `OmopRules`
};

/// A growing set of small numbers.
class Marks {
 public:
  void add(std::int32_t number) {
    if (number == kNone) return;
    const auto place = static_cast<std::size_t>(number);
    if (place >= seen_.size()) seen_.resize(2 * place + 64);
    seen_[place] = 1;
  }

  /// Those that were added, ascending.
  std::vector<std::int32_t> numbers() const;

 private:
  std::vector<std::uint8_t> seen_;
};

/// Whose the rows are.
struct Owners {
  std::vector<std::int32_t> subject;  // place among the subjects, kNone where it is none of them
  std::vector<std::uint8_t> gone;     // RecordRemoval
  std::size_t n_known = 0;
};

/// What the rules need to know about all clinical records of a source, counted as they are read.
class RecordCensus {
 public:
  explicit RecordCensus(CensusRules rules) : rules_(std::move(rules)) {}

  /// Takes records of one table.
  ///
  /// @param subject_id of each row, kNullUs for null.
  /// @param rows `table` and `order` are not looked at.
  /// @throws std::invalid_argument columns of several lengths.
  Owners take(std::span<const std::int64_t> subject_id, const OmopRows& rows, std::uint16_t table,
              bool is_drug);

  /// Times outside of sentinel years, and those of them after the border.
  std::int64_t n_dated() const { return n_dated_; }
  std::int64_t n_late() const { return n_late_; }

  /// By (table, number of a type or kNone): records with a time of day, and those at 00:00:00.
  const std::map<std::pair<std::int32_t, std::int32_t>, std::array<std::int64_t, 2>>& midnights()
      const {
    return midnights_;
  }

  /// Concepts that stand where concepts name events, that are values, that are drugs; source values
  /// that name events.
  Marks names, values, drugs, source_codes;

 private:
  Owners owners(std::span<const std::int64_t> subject_id);
  void count_times(const OmopRows& rows, std::size_t n, std::uint16_t table);
  void count_names(const OmopRows& rows, std::size_t n, bool is_drug);

  CensusRules rules_;
  std::int64_t n_dated_ = 0, n_late_ = 0;
  std::map<std::pair<std::int32_t, std::int32_t>, std::array<std::int64_t, 2>> midnights_;
};

}  // namespace chronoward
