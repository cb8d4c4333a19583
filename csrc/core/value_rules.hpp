#pragma once

#include <cstdint>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/mend_meds.hpp"

namespace chronoward {

/// How a number of one unit is told in another: number * factor + offset.
struct UnitConversion {
  double factor = 1.0, offset = 0.0;
  std::int32_t unit = kNone;  // name of the unit it has then
};

/// What all subjects together say about units and texts (chronoward/data/value_rules.py); each
/// event's own value follows from it.
class ValueRules {
 public:
  /// @param unit_name by unit of a row: number of the unit's name, kNone where it has none.
  /// @param is_fixed_text by text: a word of ours, never rare.
  ValueRules(std::vector<std::int32_t> unit_name, std::vector<std::uint8_t> is_fixed_text)
      : unit_name_(std::move(unit_name)), is_fixed_text_(std::move(is_fixed_text)) {}

  void add_conversion(std::int32_t code, std::int32_t unit, const UnitConversion& how) {
    conversions_.insert_or_assign(pair(code, unit), how);
  }

  /// Numbers of (table, code) without a unit have this one, or none that can be told (kNone).
  void add_assumed(std::int32_t table, std::int32_t code, std::int32_t unit) {
    assumed_.insert_or_assign(pair(table, code), unit);
  }

  void add_kept_text(std::int32_t table, std::int32_t code, std::int32_t text) {
    kept_texts_[text].insert(pair(table, code));
  }

  /// Makes an event's unit a name, its number one of that unit, and removes a rare text.
  ///
  /// @return bits of Change.
  std::uint32_t resolve(MendedEvent& event) const;

  bool has_units() const { return !unit_name_.empty(); }

 private:
  static std::uint64_t pair(std::int32_t a, std::int32_t b) {
    return std::uint64_t{static_cast<std::uint32_t>(a)} << 32 | static_cast<std::uint32_t>(b);
  }
  std::uint32_t resolve_unit(MendedEvent& event) const;

  std::vector<std::int32_t> unit_name_;
  std::vector<std::uint8_t> is_fixed_text_;
  std::unordered_map<std::uint64_t, UnitConversion> conversions_;  // by code and unit's name
  std::unordered_map<std::uint64_t, std::int32_t> assumed_;        // by table and code
  std::unordered_map<std::int32_t, std::unordered_set<std::uint64_t>> kept_texts_;
};

}  // namespace chronoward
