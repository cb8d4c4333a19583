#include "core/rows.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/errors.hpp"
#include "core/token_class.hpp"

namespace chronoward {

namespace {

/// Writes the segments of one row, left to right.
class RowWriter {
 public:
  RowWriter(std::span<const ShardSpans> shards, const SegmentSpans& segments,
            std::span<const std::uint8_t> token_class, std::int32_t row_tokens)
      : shards_(shards),
        segments_(segments),
        token_class_(token_class),
        row_tokens_(static_cast<std::size_t>(row_tokens)),
        n_prompt_(segments.begin.empty() ? 0 : segments.prompt.size() / segments.begin.size()) {}

  void start(const RowsOut& out, std::size_t row) {
    const std::size_t first = row * row_tokens_;
    token_id_ = out.token_id.subspan(first, row_tokens_);
    time_min_ = out.time_min.subspan(first, row_tokens_);
    n_prior_ = out.n_prior.subspan(first, row_tokens_);
    loss_mask_ = out.loss_mask.subspan(first, row_tokens_);
    used_ = 0;
  }

  std::size_t add(std::size_t s) {
    const auto shard_index = static_cast<std::size_t>(segments_.shard[s]);
    if (shard_index >= shards_.size()) throw std::out_of_range("segment of an unknown shard");
    const ShardSpans& shard = shards_[shard_index];
    const auto begin = static_cast<std::size_t>(segments_.begin[s]);
    const auto length = static_cast<std::size_t>(segments_.length[s]);
    const auto lead = static_cast<std::size_t>(segments_.n_lead[s]);
    if (length == 0 || begin > shard.token_id.size() || length > shard.token_id.size() - begin) {
      throw std::out_of_range("segment " + std::to_string(s) + " lies outside its shard");
    }
    if (used_ + lead + length > row_tokens_) {
      throw std::invalid_argument("segment " + std::to_string(s) + " overflows its row");
    }
    if (lead > 0) add_lead(s, shard, shard.time_min[begin], lead);
    add_body(s, shard, begin, length);
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

  void add_lead(std::size_t s, const ShardSpans& shard, std::int32_t clock, std::size_t lead) {
    const std::size_t end = used_ + lead;
    for (std::size_t p = 0; p < n_prompt_; ++p) {
      put_unscored(segments_.prompt[s * n_prompt_ + p], clock, 0);
    }
    const auto repeat = [&](std::int64_t position, std::size_t count) {
      if (position < 0) return;
      const auto at = static_cast<std::size_t>(position);
      if (at + count > shard.token_id.size()) throw std::out_of_range("open visit outside shard");
      for (std::size_t p = at; p < at + count; ++p) {
        put_unscored(shard.token_id[p], clock, shard.n_prior[p]);
      }
    };
    repeat(segments_.open_visit[s], 2);
    repeat(segments_.open_detail[s], 1);
    if (used_ != end) throw std::invalid_argument("n_lead does not match the lead's parts");
  }

  void add_body(std::size_t s, const ShardSpans& shard, std::size_t begin, std::size_t length) {
    const auto copy = [&](auto source, auto target) {
      std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(begin), length,
                  target.begin() + offset());
    };
    copy(shard.token_id, token_id_);
    copy(shard.time_min, time_min_);
    copy(shard.n_prior, n_prior_);
    for (std::size_t i = 0; i < length; ++i) {
      const auto token = static_cast<std::uint32_t>(shard.token_id[begin + i]);
      if (token >= token_class_.size()) {
        throw DataError("token id outside the vocabulary in segment " + std::to_string(s));
      }
      const auto c = static_cast<TokenClass>(token_class_[token]);
      const bool target = is_gap(c) ? i > 0 && is_observed(s, shard, shard.time_min[begin + i - 1],
                                                           shard.time_min[begin + i])
                                    : c >= TokenClass::visit_start;
      loss_mask_[used_ + i] = target ? 1 : 0;
    }
    used_ += length;
  }

  /// Whether one observation period covers the whole interval; without periods all time counts.
  bool is_observed(std::size_t s, const ShardSpans& shard, std::int32_t from,
                   std::int32_t to) const {
    const auto first = static_cast<std::size_t>(segments_.period_begin[s]);
    const auto last = static_cast<std::size_t>(segments_.period_end[s]);
    if (last > shard.obs_start_min.size()) throw std::out_of_range("period outside shard");
    for (std::size_t p = first; p < last; ++p) {
      if (shard.obs_start_min[p] <= from && to <= shard.obs_end_min[p]) return true;
    }
    return first == last;
  }

  std::span<const ShardSpans> shards_;
  const SegmentSpans& segments_;
  std::span<const std::uint8_t> token_class_;
  std::size_t row_tokens_;
  std::size_t n_prompt_;
  std::span<std::int32_t> token_id_;
  std::span<std::int32_t> time_min_;
  std::span<std::uint8_t> n_prior_;
  std::span<std::uint8_t> loss_mask_;
  std::size_t used_ = 0;
};

}  // namespace

void fill_rows(std::span<const ShardSpans> shards, const SegmentSpans& segments,
               std::span<const std::int64_t> row_offsets, std::span<const std::uint8_t> token_class,
               std::int32_t row_tokens, std::int32_t max_segments, const RowsOut& out) {
  RowWriter writer(shards, segments, token_class, row_tokens);
  const auto width = static_cast<std::size_t>(max_segments) + 1;
  for (std::size_t row = 0; row + 1 < row_offsets.size(); ++row) {
    const auto first = static_cast<std::size_t>(row_offsets[row]);
    const auto last = static_cast<std::size_t>(row_offsets[row + 1]);
    // The last bound is row_tokens: room for the padding, which is a segment of its own.
    if (last < first || last > segments.begin.size() || last - first + 1 > width) {
      throw std::invalid_argument("row " + std::to_string(row) + " has more than max_segments");
    }
    const auto bounds = out.cu_seqlens.subspan(row * width, width);
    std::fill(bounds.begin(), bounds.end(), row_tokens);
    bounds[0] = 0;
    writer.start(out, row);
    for (std::size_t s = first; s < last; ++s) {
      bounds[s - first + 1] = static_cast<std::int32_t>(writer.add(s));
    }
    writer.pad();
    if (last - first == static_cast<std::size_t>(max_segments) && bounds[width - 1] != row_tokens) {
      throw std::invalid_argument("row " + std::to_string(row) +
                                  " has max_segments segments and padding: leave one free");
    }
  }
}

}  // namespace chronoward
