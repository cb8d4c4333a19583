#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "core/days.hpp"
#include "core/token_class.hpp"

namespace chronoward {

/// What encode drops or changes; the order is that of `kEncodeRules`.
enum class EncodeRule : std::size_t {
  kAfterDeath,
  kClampedToCap,
  kClampedToOrigin,
  kClampedToVisit,
  kDuplicateToken,
  kDuplicateVisit,
  kEmptyVisit,
  kInfiniteValue,
  kNotInPreset,
  kPlaced,
  kRolledUp,
  kSexConflict,
  kUnknownCode,
  kUnknownText,
  kVisitOverlap,
  kWithoutTime,
  kWithoutVisit,
  kCount,
};

inline constexpr std::array<const char*, static_cast<std::size_t>(EncodeRule::kCount)>
    kEncodeRules = {"after_death",     "clamped_to_cap",  "clamped_to_origin", "clamped_to_visit",
                    "duplicate_token", "duplicate_visit", "empty_visit",       "infinite_value",
                    "not_in_preset",   "placed",          "rolled_up",         "sex_conflict",
                    "unknown_code",    "unknown_text",    "visit_overlap",     "without_time",
                    "without_visit"};

using EncodeCounts = std::array<std::int64_t, static_cast<std::size_t>(EncodeRule::kCount)>;

/// How a key got its entry (chronoward/tokenizer/inputs.py).
enum class KeyMatch : std::uint8_t { kRolledUp, kExact, kPlaced };

inline constexpr std::int32_t kNotInPreset = -2;  // entry of a key that the preset has no place for
inline constexpr std::int32_t kNoText = -1;
inline constexpr std::int32_t kDayMin = 1440;
inline constexpr std::int32_t kHourMin = 60;
inline constexpr std::int32_t kRepeatMin = 180 * kDayMin;

/// Roles of chronoward/schema.py.
enum class Role : std::uint8_t {
  kBirth,
  kSex,
  kRace,
  kStatic,
  kVisit,
  kDetail,
  kCode,
  kDischarge,
  kDeath,
};
inline constexpr std::size_t kRoles = 9;

enum class Preset : int { kCompact, kCehr, kEvents };

/// chronoward/tokenizer/encode_tables.py, field by field.
struct EncodeTables {
  Preset preset = Preset::kCompact;
  std::int32_t resolution_min = 1;
  bool is_calendar = false;
  bool order_by_time = false;
  bool use_hours = false;
  bool is_split = false;
  std::int32_t max_clock_min = 0;
  std::int32_t end_token = 0, visit_start = 0, visit_end = 0, detail_end = 0, death = 0;
  std::int32_t default_sex = 0, default_race = 0, default_discharge = 0;
  std::vector<std::uint8_t> prompt_classes;
  std::int32_t year_first = 0;
  std::vector<std::int32_t> year_token, age_edge_min, age_token;
  std::int32_t age_unknown = -1;
  std::vector<std::int32_t> entry_plain, entry_bin_token, entry_n_bins;
  std::vector<std::int64_t> entry_edge_offset;
  std::vector<float> edges;
  std::vector<std::uint8_t> entry_sex;
  std::vector<std::int64_t> text_key;
  std::vector<std::int32_t> text_token;
  std::vector<std::uint8_t> token_class, token_sex;
  std::vector<std::int32_t> token_rank, base_code;
  std::vector<std::int32_t> gap_lo, gap_token, inner_lo, inner_token, hour_token;
  std::int32_t gap_repeat_token = -1;
};

/// What every event asks of its key, in one place of memory.
struct KeyFacts {
  std::int32_t entry, plain, bin_token, n_bins;
  std::int64_t first_edge;
  std::int32_t n_edges;
  std::uint8_t match, sex;
};

/// Events of whole subjects, rows row_offsets[i] .. row_offsets[i + 1] belong to subject i.
struct EventView {
  std::span<const std::int64_t> time_us, available_us;
  std::span<const std::uint8_t> role;
  std::span<const std::int32_t> key;
  std::span<const float> value;
  std::span<const std::int32_t> text;
  std::span<const std::int64_t> visit_id, end_us;
  std::span<const std::int32_t> key_entry;
  std::span<const std::uint8_t> key_exact;    // a `KeyMatch`
  std::span<const std::int32_t> text_number;  // the last element serves text -1
  std::span<const std::int64_t> row_offsets;
  std::span<const std::int64_t> obs_offsets, obs_start_us, obs_end_us;
};

/// Timelines, flat (chronoward/tokenizer/batch.py).
struct TokenTimelines {
  std::vector<std::int64_t> origin_us, offsets;
  std::vector<std::int32_t> token_id, time_min, event_min;
  std::vector<std::uint8_t> n_prior;
  std::vector<std::int32_t> obs_start_min, obs_end_min;
  EncodeCounts counts{};
};

/// A token before columns are made of it.
struct PlacedToken {
  std::int32_t id, clock, event;
  std::uint8_t n_prior;
};

/// Encodes all subjects; the result does not depend on `n_threads`.
TokenTimelines encode(const EncodeTables& tables, const EventView& events, int n_threads);

}  // namespace chronoward
