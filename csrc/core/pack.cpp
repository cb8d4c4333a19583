#include "core/pack.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "core/errors.hpp"
#include "core/token_class.hpp"

namespace chronoward {

namespace {

constexpr std::int64_t kNone = -1;

bool moves_clock_inside(TokenClass c) {
  return c == TokenClass::inpatient_gap || c == TokenClass::inpatient_hour;
}

bool needs_its_predecessor(TokenClass c) {
  return c == TokenClass::value || c == TokenClass::visit_type ||
         c == TokenClass::flat_visit_type || c == TokenClass::gap_repeat || moves_clock_inside(c);
}

/// Where a timeline may be cut, and what is open there.
class Cutter {
 public:
  Cutter(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> token_class,
         std::int32_t row_tokens, std::int32_t n_prompt, std::int64_t timeline)
      : tokens_(tokens),
        token_class_(token_class),
        row_tokens_(row_tokens),
        n_prompt_(n_prompt),
        timeline_(timeline) {}

  void cut(Windows& windows) {
    const auto n = static_cast<std::int64_t>(tokens_.size());
    std::int64_t begin = 0;
    while (begin < n) {
      const std::int32_t lead =
          begin == 0 ? 0 : n_prompt_ + (visit_ == kNone ? 0 : 2) + (detail_ == kNone ? 0 : 1);
      const std::int64_t open_visit = visit_;
      const std::int64_t open_detail = detail_;
      const std::int64_t end =
          n - begin <= row_tokens_ - lead ? n : last_cut(begin, begin + row_tokens_ - lead);
      follow(begin, end);
      windows.timeline.push_back(timeline_);
      windows.begin.push_back(begin);
      windows.length.push_back(static_cast<std::int32_t>(end - begin));
      windows.n_lead.push_back(lead);
      windows.open_visit.push_back(open_visit);
      windows.open_detail.push_back(open_detail);
      begin = end;
    }
  }

 private:
  TokenClass at(std::int64_t position) const {
    const std::int32_t token = tokens_[static_cast<std::size_t>(position)];
    if (token < 0 || static_cast<std::size_t>(token) >= token_class_.size()) {
      throw DataError("token id outside the vocabulary at position " + std::to_string(position) +
                      " of timeline " + std::to_string(timeline_));
    }
    return static_cast<TokenClass>(token_class_[static_cast<std::size_t>(token)]);
  }

  /// The last place in (begin, limit] where a window may end.
  std::int64_t last_cut(std::int64_t begin, std::int64_t limit) const {
    std::int64_t moment = kNone;
    for (std::int64_t p = limit; p > begin; --p) {
      const TokenClass before = at(p - 1);
      const TokenClass after = at(p);
      if (is_gap(before) && !is_gap(after) && after != TokenClass::death) return p;
      if (moment == kNone && moves_clock_inside(before) && !moves_clock_inside(after)) moment = p;
    }
    if (moment != kNone) return moment;
    // One moment fills the row. A value stays with its code, a visit with its type, and an hour
    // with what it counts from.
    std::int64_t p = limit;
    while (p > begin + 1 && needs_its_predecessor(at(p))) --p;
    return p;
  }

  void follow(std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      switch (at(p)) {
        case TokenClass::visit_start:
          visit_ = p;
          break;
        case TokenClass::visit_end:
          visit_ = detail_ = kNone;
          break;
        case TokenClass::detail_start:
          detail_ = p;
          break;
        case TokenClass::detail_end:
          detail_ = kNone;
          break;
        default:
          break;
      }
    }
  }

  std::span<const std::int32_t> tokens_;
  std::span<const std::uint8_t> token_class_;
  std::int32_t row_tokens_;
  std::int32_t n_prompt_;
  std::int64_t timeline_;
  std::int64_t visit_ = kNone;
  std::int64_t detail_ = kNone;
};

/// Rows by the space they have left: stacks, and a two-level bit set to find the tightest fit.
class Spaces {
 public:
  explicit Spaces(std::int32_t row_tokens)
      : head_(static_cast<std::size_t>(row_tokens) + 1, kNone),
        words_(static_cast<std::size_t>(row_tokens) / 64 + 1),
        summary_(words_.size() / 64 + 1) {}

  void push(std::int64_t row, std::size_t space) {
    if (static_cast<std::size_t>(row) >= next_.size()) {
      next_.resize(static_cast<std::size_t>(row) + 1, kNone);
    }
    next_[static_cast<std::size_t>(row)] = head_[space];
    head_[space] = row;
    words_[space / 64] |= std::uint64_t{1} << (space % 64);
    summary_[space / 4096] |= std::uint64_t{1} << (space / 64 % 64);
  }

  std::int64_t pop(std::size_t space) {
    const std::int64_t row = head_[space];
    head_[space] = next_[static_cast<std::size_t>(row)];
    if (head_[space] == kNone) {
      words_[space / 64] &= ~(std::uint64_t{1} << (space % 64));
      if (words_[space / 64] == 0) {
        summary_[space / 4096] &= ~(std::uint64_t{1} << (space / 64 % 64));
      }
    }
    return row;
  }

  /// The smallest space of at least `length` that a row has, or -1.
  std::int64_t tightest(std::size_t length) const {
    std::size_t word = length / 64;
    const std::uint64_t here = words_[word] & (~std::uint64_t{0} << (length % 64));
    if (here != 0) return found(word, here);
    ++word;
    std::size_t group = word / 64;
    if (group >= summary_.size()) return kNone;
    std::uint64_t groups = summary_[group] & (~std::uint64_t{0} << (word % 64));
    while (groups == 0) {
      if (++group == summary_.size()) return kNone;
      groups = summary_[group];
    }
    word = group * 64 + static_cast<std::size_t>(std::countr_zero(groups));
    return found(word, words_[word]);
  }

 private:
  static std::int64_t found(std::size_t word, std::uint64_t bits) {
    return static_cast<std::int64_t>(word * 64 + static_cast<std::size_t>(std::countr_zero(bits)));
  }

  std::vector<std::int64_t> head_;
  std::vector<std::int64_t> next_;
  std::vector<std::uint64_t> words_;
  std::vector<std::uint64_t> summary_;
};

void pack_block(std::span<const std::int64_t> block, std::span<const std::int32_t> lengths,
                std::int32_t row_tokens, std::int32_t max_segments, Rows& rows) {
  Spaces spaces(row_tokens);
  std::vector<std::int32_t> n_segments;
  std::vector<std::int64_t> row_of(block.size());
  for (std::size_t i = 0; i < block.size(); ++i) {
    const auto length = static_cast<std::size_t>(lengths[static_cast<std::size_t>(block[i])]);
    const std::int64_t space = spaces.tightest(length);
    std::int64_t row = static_cast<std::int64_t>(n_segments.size());
    std::size_t left = static_cast<std::size_t>(row_tokens) - length;
    if (space == kNone) {
      n_segments.push_back(0);
    } else {
      row = spaces.pop(static_cast<std::size_t>(space));
      left = static_cast<std::size_t>(space) - length;
    }
    row_of[i] = row;
    if (++n_segments[static_cast<std::size_t>(row)] < max_segments && left > 0) {
      spaces.push(row, left);
    }
  }
  std::vector<std::int64_t> place(n_segments.size());
  auto total = static_cast<std::int64_t>(rows.window.size());
  for (std::size_t r = 0; r < n_segments.size(); ++r) {
    place[r] = total;
    total += n_segments[r];
    rows.offsets.push_back(total);
  }
  rows.window.resize(static_cast<std::size_t>(total));
  for (std::size_t i = 0; i < block.size(); ++i) {
    const auto target = place[static_cast<std::size_t>(row_of[i])]++;
    rows.window[static_cast<std::size_t>(target)] = block[i];
  }
}

}  // namespace

Windows cut_windows(const TimelineSpans& timelines, std::span<const std::uint8_t> token_class,
                    std::int32_t row_tokens, std::int32_t n_prompt) {
  // A lead of a prompt, visit_start, visit_type and detail_start must leave room to move on.
  if (row_tokens < 2 * (n_prompt + 3)) {
    throw std::invalid_argument("row_tokens must be at least " +
                                std::to_string(2 * (n_prompt + 3)) + " with this tokenizer, got " +
                                std::to_string(row_tokens));
  }
  Windows windows;
  for (std::size_t i = 0; i + 1 < timelines.offsets.size(); ++i) {
    const auto begin = static_cast<std::size_t>(timelines.offsets[i]);
    const auto end = static_cast<std::size_t>(timelines.offsets[i + 1]);
    const auto tokens = timelines.token_id.subspan(begin, end - begin);
    if (tokens.size() > static_cast<std::size_t>(row_tokens)) {
      Cutter(tokens, token_class, row_tokens, n_prompt, static_cast<std::int64_t>(i)).cut(windows);
    } else if (!tokens.empty()) {
      windows.timeline.push_back(static_cast<std::int64_t>(i));
      windows.begin.push_back(0);
      windows.length.push_back(static_cast<std::int32_t>(tokens.size()));
      windows.n_lead.push_back(0);
      windows.open_visit.push_back(kNone);
      windows.open_detail.push_back(kNone);
    }
  }
  return windows;
}

Rows pack_rows(std::span<const std::int32_t> lengths, std::span<const std::int64_t> order,
               std::int32_t row_tokens, std::int32_t max_segments, std::size_t block) {
  if (row_tokens < 1 || max_segments < 1 || block < 1) {
    throw std::invalid_argument("row_tokens, max_segments and block must be positive");
  }
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 1 || lengths[i] > row_tokens) {
      throw std::invalid_argument("length " + std::to_string(lengths[i]) + " of window " +
                                  std::to_string(i) + " is outside 1.." +
                                  std::to_string(row_tokens));
    }
  }
  for (const std::int64_t w : order) {
    if (w < 0 || static_cast<std::size_t>(w) >= lengths.size()) {
      throw std::invalid_argument("order names a window that does not exist");
    }
  }
  Rows rows;
  rows.offsets.push_back(0);
  rows.window.reserve(order.size());
  for (std::size_t first = 0; first < order.size(); first += block) {
    const std::size_t n = std::min(block, order.size() - first);
    pack_block(order.subspan(first, n), lengths, row_tokens, max_segments, rows);
  }
  return rows;
}

}  // namespace chronoward
