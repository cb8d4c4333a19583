#include "core/value_rules.hpp"

#include <cmath>
#include <cstddef>

namespace chronoward {

std::uint32_t ValueRules::resolve_unit(MendedEvent& event) const {
  event.unit = event.unit == kNone ? kNone : unit_name_[static_cast<std::size_t>(event.unit)];
  if (std::isnan(event.number)) return 0;
  std::uint32_t changes = 0;
  if (event.unit != kNone) {
    const auto how = conversions_.find(pair(event.code, event.unit));
    if (how != conversions_.end()) {
      event.number = event.number * how->second.factor + how->second.offset;
      event.unit = how->second.unit;
      changes = bit_of(Change::kUnitConverted);
    }
    if (event.unit != kNone) return changes;
  }
  const auto assumed = assumed_.find(pair(event.table, event.code));
  if (assumed == assumed_.end()) return changes;
  event.unit = assumed->second;
  return changes | bit_of(event.unit == kNone ? Change::kUnitMissing : Change::kUnitAssumed);
}

std::uint32_t ValueRules::resolve(MendedEvent& event) const {
  std::uint32_t changes = 0;
  if (has_units()) changes = resolve_unit(event);
  if (event.text != kNone && is_fixed_text_[static_cast<std::size_t>(event.text)] == 0) {
    const auto owners = kept_texts_.find(event.text);
    if (owners == kept_texts_.end() || !owners->second.contains(pair(event.table, event.code))) {
      event.text = kNone;
      changes |= bit_of(Change::kTextRare);
    }
  }
  return changes;
}

}  // namespace chronoward
