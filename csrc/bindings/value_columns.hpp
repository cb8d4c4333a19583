#pragma once

#include <pybind11/stl.h>

#include <cstdint>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/event_columns.hpp"
#include "core/value_counts.hpp"
#include "core/value_rules.hpp"

// What is counted of values and decided on them, of MEDS and of OMOP alike.
namespace chronoward::bindings {

using Converted = std::tuple<std::int32_t, std::int32_t, double, double, std::int32_t>;
using Triple = std::tuple<std::int32_t, std::int32_t, std::int32_t>;

inline constexpr const char* kTextsDoc =
    "Texts of codes that `survey` counted: table, code, text, n_events, n_subjects, (n,) each.";
inline constexpr const char* kUnitsDoc =
    "Codes with numbers, in each unit once: table, code, unit, (n,) each.";
inline constexpr const char* kUnitValuesDoc =
    "Numbers of the chosen (table, code) by their units: those of table[i], code[i], unit[i] are "
    "number[offsets[i]:offsets[i + 1]]. is_chosen: (n_tables * n_codes,).";

/// @param value what the keys' values are: "text" or "unit".
inline Columns key_columns(ValueKeyColumns&& keys, const char* value) {
  Columns out;
  out["table"] = to_numpy(std::move(keys.table));
  out["code"] = to_numpy(std::move(keys.code));
  out[value] = to_numpy(std::move(keys.value));
  return out;
}

inline Columns text_columns(TextCounts&& found) {
  Columns out = key_columns(std::move(found.keys), "text");
  out["n_events"] = to_numpy(std::move(found.n_events));
  out["n_subjects"] = to_numpy(std::move(found.n_subjects));
  return out;
}

inline Columns unit_columns(ValueKeyColumns&& found) {
  return key_columns(std::move(found), "unit");
}

inline Columns unit_value_columns(UnitValues&& found) {
  Columns out = key_columns(std::move(found.keys), "unit");
  out["offsets"] = to_numpy(std::move(found.offsets));
  out["number"] = to_numpy(std::move(found.number));
  return out;
}

/// @param is_fixed_text by text: a word of ours, never rare.
inline ValueRules value_rules(const Array<std::int32_t>& unit_name,
                              std::span<const std::uint8_t> is_fixed_text,
                              const std::vector<Converted>& conversions,
                              const std::vector<Triple>& assumed,
                              const std::vector<Triple>& kept_texts) {
  ValueRules values(copied(unit_name, "unit_name"), {is_fixed_text.begin(), is_fixed_text.end()});
  for (const auto& [code, unit, factor, offset, new_unit] : conversions) {
    values.add_conversion(code, unit, {.factor = factor, .offset = offset, .unit = new_unit});
  }
  for (const auto& [table, code, unit] : assumed) values.add_assumed(table, code, unit);
  for (const auto& [table, code, text] : kept_texts) values.add_kept_text(table, code, text);
  return values;
}

}  // namespace chronoward::bindings
