#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/omop_rows.hpp"

namespace chronoward {

/// A clinical record after the rules on single records.
struct JudgedRecord {
  std::int64_t time = kNullUs;      // of a date its 00:00:00
  std::int64_t end_time = kNullUs;  // kNullUs where it has none or a faulty one
  double number = 0.0;
  std::int32_t text = kNone;
  std::int32_t value_concept = kNone;  // where it says the value
  std::uint32_t changes = 0;
  RecordRemoval gone = RecordRemoval::kKept;
  bool is_date = false;  // the start has no time
  bool has_number = false;
};

/// Applies to a subject's clinical records the rules that need no visit
/// (chronoward/data/rules.py): copies, times, life, values, ends.
class RecordJudge {
 public:
  RecordJudge(const OmopRows& rows, const OmopTables& tables, const OmopRules& rules)
      : rows_(rows), t_(tables), rules_(rules) {}

  /// @param out one a row of [begin, end).
  void judge(std::size_t begin, std::size_t end, const Life& life, std::vector<JudgedRecord>& out);

 private:
  /// A record among those of one table and start: copies and targets of a source lie together.
  struct Compared {
    std::uint64_t source = 0;        // hash of what several targets of a source code share
    std::int64_t concept_value = 0;  // id of the standard concept
    std::uint64_t rest = 0;          // hash of the rest but the key
    std::int64_t order = 0;
    std::size_t row = 0;
    auto operator<=>(const Compared&) const = default;
  };

  Compared compared(std::size_t row) const;
  void find_copies(std::size_t begin, std::vector<JudgedRecord>& out);
  void compare_group(std::size_t first, std::size_t last, std::size_t begin,
                     std::vector<JudgedRecord>& out);
  bool is_same(std::size_t a, std::size_t b) const;
  bool has_same_source(std::size_t a, std::size_t b) const;
  std::int64_t concept_at(std::size_t row) const;
  bool is_sentinel(std::int64_t us) const;
  RecordRemoval removal_of(std::size_t row, const JudgedRecord& judged, const Life& life) const;
  void read_value(std::size_t row, JudgedRecord& judged) const;
  void read_end(std::size_t row, JudgedRecord& judged) const;

  const OmopRows& rows_;
  const OmopTables& t_;
  const OmopRules& rules_;
  std::vector<std::size_t> by_start_;  // rows in order of table and start
  std::vector<Compared> group_;
  std::vector<std::uint8_t> is_further_;  // another target of a source code that has a smaller one
};

}  // namespace chronoward
