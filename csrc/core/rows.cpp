#include "core/rows.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/errors.hpp"
#include "core/token_class.hpp"

namespace chronoward {

namespace {

// What a token's class says of its place in the loss; a gap's depends on observation too.
constexpr std::uint8_t kNoTarget = 0;
constexpr std::uint8_t kTarget = 1;
constexpr std::uint8_t kGap = 2;

std::vector<std::uint8_t> target_kinds(std::span<const std::uint8_t> token_class) {
  std::vector<std::uint8_t> kinds(token_class.size());
  for (std::size_t t = 0; t < kinds.size(); ++t) {
    const auto c = static_cast<TokenClass>(token_class[t]);
    kinds[t] = is_gap(c) ? kGap : c >= TokenClass::visit_start ? kTarget : kNoTarget;
  }
  return kinds;
}

/// Writes the segments of one row, left to right.
class RowWriter {
 public:
  RowWriter(const SplitSpans& split, const WindowSpans& windows, const SegmentSpans& segments,
            std::span<const std::uint8_t> kinds, std::int32_t row_tokens)
      : split_(split),
        windows_(windows),
        segments_(segments),
        kinds_(kinds),
        row_tokens_(static_cast<std::size_t>(row_tokens)) {}

  void start(const RowsOut& out, std::size_t row) {
    const std::size_t first = row * row_tokens_;
    token_id_ = out.token_id.subspan(first, row_tokens_);
    time_min_ = out.time_min.subspan(first, row_tokens_);
    n_prior_ = out.n_prior.subspan(first, row_tokens_);
    loss_mask_ = out.loss_mask.subspan(first, row_tokens_);
    used_ = 0;
  }

  std::size_t add(std::size_t w) {
    const TimelinePlace place = split_.find(windows_.timeline[w]);
    const std::size_t n_tokens = place.end - place.begin;
    const auto begin = static_cast<std::size_t>(windows_.begin[w]);
    const auto length = static_cast<std::size_t>(windows_.length[w]);
    const auto lead = static_cast<std::size_t>(windows_.n_lead[w]);
    if (length == 0 || begin > n_tokens || length > n_tokens - begin) {
      throw std::out_of_range("window " + std::to_string(w) + " lies outside its timeline");
    }
    if (lead > row_tokens_ || length > row_tokens_ || used_ + lead + length > row_tokens_) {
      throw std::invalid_argument("window " + std::to_string(w) + " overflows its row");
    }
    if (lead > 0) add_lead(w, place, place.shard->time_min[place.begin + begin], lead);
    add_body(place, place.begin + begin, length);
    return used_;
  }

  void pad() {
    std::fill(token_id_.begin() + offset(), token_id_.end(), 0);
    std::fill(time_min_.begin() + offset(), time_min_.end(), 0);
    std::fill(n_prior_.begin() + offset(), n_prior_.end(), std::uint8_t{0});
    std::fill(loss_mask_.begin() + offset(), loss_mask_.end(), std::uint8_t{0});
  }

 private:
  std::ptrdiff_t offset() const { return static_cast<std::ptrdiff_t>(used_); }

  void put_unscored(std::int32_t token, std::int32_t time, std::uint8_t prior) {
    token_id_[used_] = token;
    time_min_[used_] = time;
    n_prior_[used_] = prior;
    loss_mask_[used_] = 0;
    ++used_;
  }

  void add_lead(std::size_t w, const TimelinePlace& place, std::int32_t clock, std::size_t lead) {
    const std::size_t end = used_ + lead;
    const std::size_t n_prompt = segments_.n_prompt;
    if (prompt_ + n_prompt > segments_.prompt.size() || n_prompt > lead) {
      throw std::invalid_argument("there must be a prompt for each window with a lead");
    }
    for (const std::int32_t token : segments_.prompt.subspan(prompt_, n_prompt)) {
      put_unscored(token, clock, 0);
    }
    prompt_ += n_prompt;
    const ShardSpans& shard = *place.shard;
    const auto repeat = [&](std::int64_t position, std::size_t count) {
      if (position < 0) return;
      const std::size_t at = place.begin + static_cast<std::size_t>(position);
      if (at + count > place.end) throw std::out_of_range("open visit outside its timeline");
      if (used_ + count > end) throw std::invalid_argument("n_lead does not match its parts");
      for (std::size_t p = at; p < at + count; ++p) {
        put_unscored(shard.token_id[p], clock, shard.n_prior[p]);
      }
    };
    repeat(windows_.open_visit[w], 2);
    repeat(windows_.open_detail[w], 1);
    if (used_ != end) throw std::invalid_argument("n_lead does not match its parts");
  }

  void add_body(const TimelinePlace& place, std::size_t begin, std::size_t length) {
    const ShardSpans& shard = *place.shard;
    const auto copy = [&](auto source, auto target) {
      std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(begin), length,
                  target.begin() + offset());
    };
    copy(shard.token_id, token_id_);
    copy(shard.time_min, time_min_);
    copy(shard.n_prior, n_prior_);
    const auto tokens = shard.token_id.subspan(begin, length);
    std::uint32_t largest = 0;  // a negative id is a large one here
    for (const std::int32_t t : tokens) largest = std::max(largest, static_cast<std::uint32_t>(t));
    if (largest >= kinds_.size()) {
      throw DataError("token id outside the vocabulary in timeline " + std::to_string(place.row) +
                      " of its shard");
    }
    const auto mask = loss_mask_.subspan(used_, length);
    std::uint8_t seen = 0;
    for (std::size_t i = 0; i < length; ++i) {
      mask[i] = kinds_[static_cast<std::size_t>(tokens[i])];
      seen |= mask[i];
    }
    if ((seen & kGap) != 0) judge_gaps(place, shard.time_min.subspan(begin, length), mask);
    used_ += length;
  }

  /// A gap is a target where it begins in the window and was observed.
  static void judge_gaps(const TimelinePlace& place, std::span<const std::int32_t> time_min,
                         std::span<std::uint8_t> mask) {
    for (std::size_t i = 0; i < mask.size(); ++i) {
      if (mask[i] != kGap) continue;
      mask[i] = i > 0 && is_observed(place, time_min[i - 1], time_min[i]) ? kTarget : kNoTarget;
    }
  }

  /// Whether one observation period covers the whole interval; without periods all time counts.
  static bool is_observed(const TimelinePlace& place, std::int32_t from, std::int32_t to) {
    const ShardSpans& shard = *place.shard;
    const auto first = static_cast<std::size_t>(shard.obs_offsets[place.row]);
    const auto last = static_cast<std::size_t>(shard.obs_offsets[place.row + 1]);
    for (std::size_t p = first; p < last; ++p) {
      if (shard.obs_start_min[p] <= from && to <= shard.obs_end_min[p]) return true;
    }
    return first == last;
  }

  const SplitSpans& split_;
  const WindowSpans& windows_;
  const SegmentSpans& segments_;
  std::span<const std::uint8_t> kinds_;
  std::size_t row_tokens_;
  std::span<std::int32_t> token_id_;
  std::span<std::int32_t> time_min_;
  std::span<std::uint8_t> n_prior_;
  std::span<std::uint8_t> loss_mask_;
  std::size_t used_ = 0;
  std::size_t prompt_ = 0;  // prompts used so far, in tokens
};

}  // namespace

void fill_rows(const SplitSpans& split, const WindowSpans& windows, const SegmentSpans& segments,
               std::span<const std::uint8_t> token_class, std::int32_t row_tokens,
               std::int32_t max_segments, const RowsOut& out) {
  const auto kinds = target_kinds(token_class);
  RowWriter writer(split, windows, segments, kinds, row_tokens);
  const auto n_places = static_cast<std::size_t>(max_segments);
  std::fill(out.timeline.begin(), out.timeline.end(), std::int64_t{-1});
  std::fill(out.begin.begin(), out.begin.end(), std::int64_t{0});
  std::fill(out.n_lead.begin(), out.n_lead.end(), 0);
  std::fill(out.cu_seqlens.begin(), out.cu_seqlens.end(), row_tokens);
  for (std::size_t row = 0; row + 1 < segments.row_offsets.size(); ++row) {
    const auto first = static_cast<std::size_t>(segments.row_offsets[row]);
    const auto last = static_cast<std::size_t>(segments.row_offsets[row + 1]);
    // The last bound is row_tokens: room for the padding, which is a segment of its own.
    if (last - first > n_places) {
      throw std::invalid_argument("row " + std::to_string(row) + " has more than max_segments");
    }
    const auto bounds = out.cu_seqlens.subspan(row * (n_places + 1), n_places + 1);
    bounds[0] = 0;
    writer.start(out, row);
    for (std::size_t s = first; s < last; ++s) {
      const auto w = static_cast<std::size_t>(segments.window[s]);
      if (w >= windows.timeline.size()) throw std::out_of_range("segment of an unknown window");
      const std::size_t place = row * n_places + s - first;
      bounds[s - first + 1] = static_cast<std::int32_t>(writer.add(w));
      out.timeline[place] = windows.timeline[w];
      out.begin[place] = windows.begin[w];
      out.n_lead[place] = windows.n_lead[w];
    }
    writer.pad();
    if (last - first == n_places && bounds[n_places] != row_tokens) {
      throw std::invalid_argument("row " + std::to_string(row) +
                                  " has max_segments segments and padding: leave one free");
    }
  }
}

}  // namespace chronoward
