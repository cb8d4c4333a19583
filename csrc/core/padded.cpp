#include "core/padded.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "core/errors.hpp"

namespace chronoward {

namespace {

/// In double: a gap of decades has more minutes than a float counts.
float days(std::int32_t minutes) { return static_cast<float>(minutes / 1440.0); }

/// One row of the output from its first used position on.
struct RowOut {
  std::int64_t* code;
  float* value;
  std::uint8_t* has_value;
  float* delta_days;
  std::uint8_t* is_static;
};

RowOut row_at(const PaddedOut& out, std::size_t at) {
  return {out.code.data() + at, out.value.data() + at, out.has_value.data() + at,
          out.delta_days.data() + at, out.is_static.data() + at};
}

void put_padding(const RowOut& row, std::size_t from, std::size_t to) {
  std::fill(row.code + from, row.code + to, std::int64_t{0});
  std::fill(row.value + from, row.value + to, 0.0F);
  std::fill(row.has_value + from, row.has_value + to, std::uint8_t{0});
  std::fill(row.delta_days + from, row.delta_days + to, 0.0F);
  std::fill(row.is_static + from, row.is_static + to, std::uint8_t{0});
}

void put_static(const RowOut& row, std::span<const std::int32_t> tokens) {
  put_padding(row, 0, tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    row.code[i] = tokens[i];
    row.is_static[i] = 1;
  }
}

/// A shared value token's number: that of its bin, or of the last one, of the code before it.
float value_of_pair(const TokenValues& values, std::uint32_t code, std::uint32_t value) {
  const std::int32_t bin = values.bin[value];
  const std::int32_t n_bins = values.n_bins[code];
  if (bin < 0 || n_bins == 0) return std::numeric_limits<float>::quiet_NaN();
  const std::int32_t at = values.first_bin[code] + std::min(bin, n_bins - 1);
  return values.bin_value[static_cast<std::size_t>(at)];
}

void put_values(const RowOut& row, const TokenValues& values, std::span<const std::int32_t> tokens,
                std::int32_t before) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto token = static_cast<std::uint32_t>(tokens[i]);
    float value = values.value[token];
    if (value == kValueOfPredecessor) {
      const auto code = static_cast<std::uint32_t>(i > 0 ? tokens[i - 1] : before);
      value = code < values.value.size() ? value_of_pair(values, code, token)
                                         : std::numeric_limits<float>::quiet_NaN();
    }
    const bool has = !std::isnan(value);
    row.has_value[i] = has ? 1 : 0;
    row.value[i] = has ? value : 0.0F;
  }
}

void put_part(const RowOut& row, const TokenValues& values, const TimelinePlace& place,
              std::size_t begin, std::size_t length) {
  const ShardSpans& shard = *place.shard;
  const auto tokens = shard.token_id.subspan(begin, length);
  const auto times = shard.time_min.subspan(begin, length);
  std::uint32_t largest = 0;  // a negative id is a large one here
  for (std::size_t i = 0; i < length; ++i) {
    largest = std::max(largest, static_cast<std::uint32_t>(tokens[i]));
    row.code[i] = tokens[i];
  }
  if (largest >= values.value.size()) {
    throw DataError("token id outside the vocabulary in timeline " + std::to_string(place.row) +
                    " of its shard");
  }
  const bool is_first = begin == place.begin;
  const std::int32_t clock = is_first ? times[0] : shard.time_min[begin - 1];
  row.delta_days[0] = days(times[0] - clock);
  for (std::size_t i = 1; i < length; ++i) {
    row.delta_days[i] = days(times[i] - times[i - 1]);
  }
  std::fill_n(row.is_static, length, std::uint8_t{0});
  put_values(row, values, tokens, is_first ? 0 : shard.token_id[begin - 1]);
}

}  // namespace

void fill_padded(const SplitSpans& split, const SliceSpans& slices, const TokenValues& values,
                 std::size_t width, bool left, const PaddedOut& out) {
  for (std::size_t r = 0; r < slices.timeline.size(); ++r) {
    const TimelinePlace place = split.find(slices.timeline[r]);
    const auto begin = static_cast<std::size_t>(slices.begin[r]);
    const auto length = static_cast<std::size_t>(slices.length[r]);
    const std::size_t n_tokens = place.end - place.begin;
    if (begin > n_tokens || length > n_tokens - begin) {
      throw std::out_of_range("slice " + std::to_string(r) + " lies outside its timeline");
    }
    auto head = slices.static_tokens.subspan(r * slices.n_static, slices.n_static);
    while (!head.empty() && head.back() == 0) head = head.first(head.size() - 1);
    const std::size_t used = head.size() + length;
    if (used > width) {
      throw std::invalid_argument("slice " + std::to_string(r) + " overflows its row");
    }
    const std::size_t first = left ? width - used : 0;
    put_padding(row_at(out, r * width), 0, first);
    put_padding(row_at(out, r * width), first + used, width);
    put_static(row_at(out, r * width + first), head);
    if (length > 0) {
      put_part(row_at(out, r * width + first + head.size()), values, place, place.begin + begin,
               length);
    }
  }
}

void count_known(const SplitSpans& split, std::span<const std::int64_t> timeline,
                 std::span<const std::int64_t> until_min, std::int32_t end_id,
                 std::span<std::int64_t> known) {
  for (std::size_t r = 0; r < timeline.size(); ++r) {
    const TimelinePlace place = split.find(timeline[r]);
    const auto times = place.shard->time_min.subspan(place.begin, place.end - place.begin);
    const auto above = std::upper_bound(times.begin(), times.end(), until_min[r]);
    auto n = above - times.begin();
    if (n > 0 && place.shard->token_id[place.begin + static_cast<std::size_t>(n) - 1] == end_id) {
      --n;
    }
    known[r] = n;
  }
}

void read_heads(const SplitSpans& split, std::span<const std::int64_t> timeline,
                std::span<const std::int64_t> position, std::size_t n_prompt,
                std::span<std::int32_t> prompt, std::span<std::int32_t> clock) {
  for (std::size_t r = 0; r < timeline.size(); ++r) {
    const TimelinePlace place = split.find(timeline[r]);
    const auto at = static_cast<std::size_t>(position[r]);
    const std::size_t n_tokens = place.end - place.begin;
    if (at >= n_tokens) throw std::out_of_range("position outside its timeline");
    for (std::size_t p = 0; p < n_prompt; ++p) {
      prompt[r * n_prompt + p] = p < n_tokens ? place.shard->token_id[place.begin + p] : 0;
    }
    clock[r] = place.shard->time_min[place.begin + at];
  }
}

}  // namespace chronoward
