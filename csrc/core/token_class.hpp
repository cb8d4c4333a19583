#pragma once

#include <cstdint>

namespace chronoward {

/// What a token is; the numbers are those of chronoward.tokenizer.grammar.TokenClass.
enum class TokenClass : std::uint8_t {
  pad = 0,
  end = 1,
  year = 2,
  age = 3,
  sex = 4,
  race = 5,
  continued = 6,
  visit_start = 7,
  visit_type = 8,
  detail_start = 9,
  detail_end = 10,
  visit_end = 11,
  discharge = 12,
  gap = 13,
  inpatient_gap = 14,
  inpatient_hour = 15,
  code = 16,
  value = 17,
  death = 18,
  gap_repeat = 19,
  flat_visit_type = 20,
};

/// Time between visits (between moments in preset `events`).
constexpr bool is_gap(TokenClass c) noexcept {
  return c == TokenClass::gap || c == TokenClass::gap_repeat;
}

}  // namespace chronoward
