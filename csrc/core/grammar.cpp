#include "core/grammar.hpp"

#include <algorithm>

#include "core/parallel.hpp"
#include "core/token_class.hpp"

namespace chronoward {
namespace {

constexpr std::int32_t kDayMin = 1440, kHourMin = 60;
constexpr std::uint8_t kNoDuration = 0, kCalendarDay = 2, kHour = 3;

class Checker {
 public:
  Checker(const Grammar& grammar, const TimelineView& timelines)
      : g_(grammar), v_(timelines), n_words_((grammar.token_class.size() + 31) / 32) {}

  std::int32_t state() const { return state_; }

  /// Position of the first fault, or `end` when there is none.
  std::int64_t check(std::int64_t begin, std::int64_t end, bool complete, GrammarRule& rule) {
    state_ = g_.start_state;
    sex_ = 0;
    for (std::int64_t p = begin; p < end; ++p) {
      if (!is_legal(static_cast<std::size_t>(p), p - begin, rule)) return p;
    }
    if (complete && (begin == end || v_.token_id[static_cast<std::size_t>(end - 1)] < 0 ||
                     token_class(end - 1) != TokenClass::end)) {
      rule = GrammarRule::kIncomplete;
      return end > begin ? end - 1 : begin;
    }
    return kFine;
  }

  static constexpr std::int64_t kFine = -1;

 private:
  TokenClass token_class(std::int64_t p) const {
    const auto id = static_cast<std::size_t>(v_.token_id[static_cast<std::size_t>(p)]);
    return static_cast<TokenClass>(g_.token_class[id]);
  }

  bool bit(const std::vector<std::uint32_t>& mask, std::size_t row, std::size_t token) const {
    return ((mask[row * n_words_ + token / 32] >> (token % 32)) & 1U) != 0;
  }

  bool is_legal(std::size_t p, std::int64_t within, GrammarRule& rule) {
    const std::int32_t id = v_.token_id[p];
    const auto fails = [&rule](GrammarRule broken) {
      rule = broken;
      return false;
    };
    if (id < 0 || static_cast<std::size_t>(id) >= g_.token_class.size()) {
      return fails(GrammarRule::kTokenRange);
    }
    const auto token = static_cast<std::size_t>(id);
    const auto state = static_cast<std::size_t>(state_);
    const std::int32_t next = g_.next_state[state * g_.n_classes + g_.token_class[token]];
    if (next < 0) return fails(GrammarRule::kOrder);
    const bool is_drawn = g_.token_class[token] != static_cast<std::uint8_t>(TokenClass::continued);
    if (is_drawn && !bit(g_.state_mask, state, token)) return fails(GrammarRule::kMask);
    if (static_cast<std::size_t>(within) < g_.n_prompt) sex_ = std::max(sex_, g_.token_sex[token]);
    if (!bit(g_.sex_mask, sex_, token)) return fails(GrammarRule::kSex);
    const std::int32_t clock = v_.time_min[p];
    const std::int32_t before = within == 0 ? clock : v_.time_min[p - 1];
    if (clock < 0 || clock < before) return fails(GrammarRule::kClockBack);
    if (clock > g_.max_clock_min) return fails(GrammarRule::kClockCap);
    if (v_.event_min[p] > clock) return fails(GrammarRule::kEventTime);
    if (within > 0 && !moves_rightly(p, token, before, clock)) {
      const bool is_still = g_.duration_rule[token] == kNoDuration;
      return fails(is_still ? GrammarRule::kClockMoved : GrammarRule::kDuration);
    }
    state_ = next;
    return true;
  }

  bool moves_rightly(std::size_t p, std::size_t token, std::int32_t before,
                     std::int32_t clock) const {
    const std::uint8_t rule = g_.duration_rule[token];
    if (rule == kNoDuration) return clock == before;
    if (rule == kHour) {
      const std::int32_t hours = g_.duration_q[token * g_.n_knots];
      const TokenClass previous = token_class(static_cast<std::int64_t>(p) - 1);
      if (previous == TokenClass::visit_type || previous == TokenClass::inpatient_gap) {
        return clock / kDayMin == before / kDayMin && clock % kDayMin / kHourMin >= hours;
      }
      return std::abs(clock - before - hours * kHourMin) < kHourMin;
    }
    const std::int32_t from = rule == kCalendarDay ? before - before % kDayMin : before;
    return clock - from >= g_.duration_lo[token] && clock - from < g_.duration_hi[token];
  }

  const Grammar& g_;
  const TimelineView& v_;
  std::size_t n_words_;
  std::int32_t state_ = 0;
  std::uint8_t sex_ = 0;
};

}  // namespace

Violations validate(const Grammar& grammar, const TimelineView& timelines, bool complete,
                    int n_threads) {
  std::vector<Violations> parts(static_cast<std::size_t>(std::max(1, n_threads)));
  parallel_for(timelines.offsets.size() - 1, n_threads,
               [&](std::size_t begin, std::size_t end, std::size_t range) {
                 Checker checker(grammar, timelines);
                 Violations& out = parts[range];
                 for (std::size_t i = begin; i < end; ++i) {
                   GrammarRule rule{};
                   const std::int64_t p = checker.check(timelines.offsets[i],
                                                        timelines.offsets[i + 1], complete, rule);
                   if (p == Checker::kFine) continue;
                   out.subject.push_back(static_cast<std::int64_t>(i));
                   out.position.push_back(p);
                   out.rule.push_back(static_cast<std::uint8_t>(rule));
                   out.state.push_back(checker.state());
                 }
               });
  Violations joined;
  for (const Violations& part : parts) {
    joined.subject.insert(joined.subject.end(), part.subject.begin(), part.subject.end());
    joined.position.insert(joined.position.end(), part.position.begin(), part.position.end());
    joined.rule.insert(joined.rule.end(), part.rule.begin(), part.rule.end());
    joined.state.insert(joined.state.end(), part.state.begin(), part.state.end());
  }
  return joined;
}

}  // namespace chronoward
