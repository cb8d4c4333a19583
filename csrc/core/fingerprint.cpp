#include "core/fingerprint.hpp"

#include <bit>
#include <cmath>
#include <cstddef>

#include "core/philox.hpp"

namespace chronoward {
namespace {

constexpr std::uint64_t kNoNumber = 0x7FC00000U;  // all NaNs are one
constexpr std::uint64_t kPeriod = 1;

std::uint64_t number_bits(float value) {
  return std::isnan(value) ? kNoNumber : std::bit_cast<std::uint32_t>(value);
}

}  // namespace

std::vector<std::uint64_t> fingerprints(const EventView& events,
                                        std::span<const std::uint64_t> key_hash,
                                        std::span<const std::uint64_t> text_hash) {
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  std::vector<std::uint64_t> found(events.row_offsets.size() - 1);
  for (std::size_t s = 0; s < found.size(); ++s) {
    std::uint64_t sum = 0;  // of hashes, so that the order does not matter and repeats count
    for (std::size_t i = at(events.row_offsets[s]); i < at(events.row_offsets[s + 1]); ++i) {
      const std::int32_t text = events.text[i];
      sum += hash64(key_hash[at(events.key[i])], text < 0 ? std::uint64_t{0} : text_hash[at(text)],
                    events.time_us[i], events.available_us[i], events.end_us[i], events.visit_id[i],
                    number_bits(events.value[i]));
    }
    for (std::size_t i = at(events.obs_offsets[s]); i < at(events.obs_offsets[s + 1]); ++i) {
      sum += hash64(kPeriod, events.obs_start_us[i], events.obs_end_us[i]);
    }
    found[s] = hash64(sum, events.row_offsets[s + 1] - events.row_offsets[s]);
  }
  return found;
}

}  // namespace chronoward
