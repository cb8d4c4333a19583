#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/mend_omop.hpp"

namespace chronoward {

/// A text of a code, counted.
struct TextCounts {
  std::vector<std::int32_t> table, code, text;
  std::vector<std::int64_t> n_events, n_subjects;
};

/// A code with a number in a unit, each once; unit kNone is none.
struct UnitPairs {
  std::vector<std::int32_t> table, code, unit;
};

/// Counts what needs all subjects: texts of codes, units of numbers, kinds of drug records.
class ValueCounts {
 public:
  /// Takes a subject's events of codes into account.
  void add(const std::vector<MendedEvent>& events, const OmopTables& tables);

  /// Takes types of a subject's kept drug records into account.
  void add_drug_types(std::size_t begin, const std::vector<JudgedRecord>& records,
                      const OmopRows& rows, const OmopTables& tables);

  /// Everything that several have counted, of subjects that none shares with another.
  static TextCounts texts(const std::deque<ValueCounts>& parts);
  static UnitPairs units(const std::deque<ValueCounts>& parts);
  static std::vector<std::int32_t> drug_types(const std::deque<ValueCounts>& parts);

 private:
  struct Key {
    std::int32_t table, code, other;
    auto operator<=>(const Key&) const = default;
  };
  struct Hash {
    std::size_t operator()(const Key& key) const;
  };
  struct Count {
    std::int64_t n_events = 0, n_subjects = 0, last_subject = 0;
  };

  std::int64_t ordinal_ = 0;  // of the subject that is looked at, from 1
  std::unordered_map<Key, Count, Hash> texts_;
  std::unordered_set<Key, Hash> units_;
  Key last_unit_{kNone, kNone, kNone};
  std::unordered_set<std::int32_t> drug_types_;
};

}  // namespace chronoward
