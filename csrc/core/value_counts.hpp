#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "core/mend_meds.hpp"
#include "core/numbering.hpp"

namespace chronoward {

/// A code of a table, and a text or a unit that events of it have.
struct ValueKey {
  std::int32_t table, code, value;
  auto operator<=>(const ValueKey&) const = default;
};

/// The same, column by column.
struct ValueKeyColumns {
  std::vector<std::int32_t> table, code, value;

  void push_back(const ValueKey& key) {
    table.push_back(key.table);
    code.push_back(key.code);
    value.push_back(key.value);
  }
};

/// Texts of codes, counted.
struct TextCounts {
  ValueKeyColumns keys;
  std::vector<std::int64_t> n_events, n_subjects;
};

/// Numbers of codes by their units: those of key i are number[offsets[i]] ..
/// number[offsets[i + 1]].
struct UnitValues {
  ValueKeyColumns keys;
  std::vector<std::int64_t> offsets;
  std::vector<double> number;
};

/// Distinct keys in the order in which they came.
class ValueKeys {
 public:
  /// The place of a key, a new one where it is new.
  std::size_t of(const ValueKey& key);

  const std::vector<ValueKey>& keys() const { return keys_; }

 private:
  Places places_;
  std::vector<ValueKey> keys_;
  std::vector<std::size_t> latest_;  // by code: place of its key that came last, from 1
};

/// Counts what needs all subjects: texts of codes, and units of numbers.
class ValueCounts {
 public:
  /// Takes a subject's events into account: none but those of codes have a number or a text.
  ///
  /// @param is_fixed_text by text: a word of ours, never rare.
  void add(std::span<const MendedEvent> events, std::span<const std::uint8_t> is_fixed_text);

  /// Everything that several have counted, of subjects that none shares with another; ascending.
  static TextCounts texts(const std::deque<ValueCounts>& parts);
  /// Codes with a number in a unit, each once; unit kNone is none.
  static ValueKeyColumns units(const std::deque<ValueCounts>& parts);

 private:
  struct Count {
    std::int64_t n_events = 0, n_subjects = 0, last_subject = 0;
  };

  std::int64_t ordinal_ = 0;  // of the subject that is looked at, from 1
  ValueKeys texts_, units_;
  std::vector<Count> counts_;  // of each text
};

/// Gathers the numbers of chosen codes by their units.
class ChosenNumbers {
 public:
  /// @param is_chosen (n_tables * n_codes,).
  ChosenNumbers(std::span<const std::uint8_t> is_chosen, std::size_t n_codes)
      : is_chosen_(is_chosen), n_codes_(n_codes) {}

  void add(std::span<const MendedEvent> events);

  /// Everything that was added, in the order in which it came.
  UnitValues by_unit() const;

 private:
  std::span<const std::uint8_t> is_chosen_;
  std::size_t n_codes_;
  ValueKeys keys_;
  std::vector<std::size_t> place_;  // of each number's key
  std::vector<double> number_;
};

}  // namespace chronoward
