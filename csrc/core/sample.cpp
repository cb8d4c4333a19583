#include "core/sample.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/errors.hpp"
#include "core/philox.hpp"
#include "core/sample_loops.hpp"
#include "core/token_class.hpp"

namespace chronoward {
namespace {

constexpr std::uint8_t number(TokenClass c) { return static_cast<std::uint8_t>(c); }

// Classes that the sampler must know by name.
constexpr auto kPad = number(TokenClass::pad), kEnd = number(TokenClass::end),
               kSex = number(TokenClass::sex), kVisitStart = number(TokenClass::visit_start),
               kVisitType = number(TokenClass::visit_type),
               kDetailEnd = number(TokenClass::detail_end),
               kVisitEnd = number(TokenClass::visit_end),
               kDischarge = number(TokenClass::discharge),
               kInpatientGap = number(TokenClass::inpatient_gap), kCode = number(TokenClass::code),
               kDeath = number(TokenClass::death);
constexpr std::int32_t kDay = 1440;

bool has_bit(const std::vector<std::uint32_t>& words, std::int32_t token) {
  const auto index = static_cast<std::size_t>(token);
  return ((words[index / 32] >> (index % 32)) & 1U) != 0;
}

void clear_bit(std::vector<std::uint32_t>& words, std::int32_t token) {
  const auto index = static_cast<std::size_t>(token);
  words[index / 32] &= ~(1U << (index % 32));
}

void set_bit(std::vector<std::uint32_t>& words, std::size_t index) {
  words[index / 32] |= 1U << (index % 32);
}

[[noreturn]] void fail(const char* what, std::size_t step, std::size_t slot) {
  throw NumericError(std::string(what) + " at step " + std::to_string(step) + ", slot " +
                     std::to_string(slot));
}

}  // namespace

void SamplerTables::check() const {
  const auto n_tokens = vocab_size();
  const auto states = static_cast<std::size_t>(n_states);
  const bool fits = n_states > 0 && n_classes > kDeath && start_state >= 0 &&
                    start_state < n_states &&
                    next_state.size() == states * static_cast<std::size_t>(n_classes) &&
                    state_mask.size() == states * n_words() && sex_mask.size() == 3 * n_words() &&
                    token_sex.size() == n_tokens && duration_rule.size() == n_tokens &&
                    duration_q.size() == n_tokens * kQuantilePoints &&
                    is_moving.size() == n_tokens && max_clock_min > 0;
  if (!fits) throw std::invalid_argument("grammar tables do not fit each other");
  for (const auto next : next_state) {
    if (next >= n_states) throw std::invalid_argument("next_state names a state that is not there");
  }
  for (std::size_t v = 0; v < n_tokens; ++v) {
    if (token_class[v] >= n_classes || token_sex[v] > 2 || duration_rule[v] > 3) {
      throw std::invalid_argument("grammar tables: token " + std::to_string(v) +
                                  " has an unknown class, sex or duration rule");
    }
  }
}

Sampler::Sampler(SamplerTables tables, SamplingRule rule, std::size_t n_slots)
    : tables_(std::move(tables)), rule_(std::move(rule)), slots_(n_slots) {
  tables_.check();
  const auto n_words = tables_.n_words();
  drawable_.assign(n_words, 0);
  structural_.assign(n_words, 0);
  codes_.assign(n_words, 0);
  for (std::size_t v = 0; v < tables_.vocab_size(); ++v) {
    const auto cls = tables_.token_class[v];
    if (cls != kPad && !(cls == kEnd && rule_.forbid_end)) set_bit(drawable_, v);
    if (cls == kCode) set_bit(codes_, v);
    if (tables_.is_moving[v] != 0) moving_.push_back(static_cast<std::int32_t>(v));
    if (cls == kVisitStart || cls == kVisitType || cls == kDetailEnd || cls == kVisitEnd ||
        cls == kDischarge) {
      set_bit(structural_, v);
    }
  }
  for (const auto& set : rule_.outcome_sets) {
    for (const auto token : set) {
      if (token < 0 || static_cast<std::size_t>(token) >= tables_.vocab_size()) {
        throw std::invalid_argument("an outcome set names a token outside the vocabulary");
      }
    }
  }
  words_.assign(n_words, 0);
  mass_.assign(32 * n_words, 0.0F);
  word_sums_.assign(n_words, 0.0);
  padded_.assign(32 * n_words, 0.0F);
  share_.assign(moving_.size(), 1.0);
}

std::int64_t Sampler::walk(std::span<const std::int32_t> tokens, GrammarPlace& place) const {
  place = GrammarPlace{tables_.start_state, 0, 0, -1};
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<std::size_t>(tokens[i]) >= tables_.vocab_size()) {
      return static_cast<std::int64_t>(i);
    }
    const auto v = static_cast<std::size_t>(tokens[i]);
    const auto cls = tables_.token_class[v];
    const auto next =
        tables_.next_state[static_cast<std::size_t>(place.state * tables_.n_classes + cls)];
    if (next < 0) return static_cast<std::int64_t>(i);
    place.state = next;
    place.previous_class = cls;
    place.previous_token = tokens[i];
    if (cls == kSex) place.sex = tables_.token_sex[v];
  }
  return -1;
}

void Sampler::load(std::size_t index, std::span<const std::int32_t> prompt,
                   const SlotStart& start) {
  Slot& slot = slots_.at(index);
  GrammarPlace place;
  const auto refused = walk(prompt, place);
  if (refused >= 0) {
    throw DataError("the grammar refuses the prompt at position " + std::to_string(refused));
  }
  for (const auto token : prompt) {
    const auto cls = tables_.token_class[static_cast<std::size_t>(token)];
    if (cls == kDeath || cls == kEnd)
      throw DataError("the prompt has ended already: it holds death or end");
  }
  if (start.masked_set >= static_cast<std::int32_t>(n_sets())) {
    throw std::invalid_argument("masked_set names an outcome set that is not there");
  }
  slot.start = start;
  slot.place = place;
  slot.clock_min = start.clock_min;
  slot.status = Status::running;
  slot.token_id.clear();
  slot.time_min.clear();
  slot.log_p.clear();
  slot.value_u.clear();
  slot.step_min.clear();
  slot.outcome_p.clear();
}

void Sampler::step(std::span<const float> logits, std::span<const std::int32_t> slots,
                   std::span<std::int32_t> token_id, std::span<std::int32_t> time_min,
                   std::span<std::uint8_t> status) {
  const auto vocab = tables_.vocab_size();
  if (logits.size() != slots.size() * vocab || token_id.size() != slots.size() ||
      time_min.size() != slots.size() || status.size() != slots.size()) {
    throw std::invalid_argument("step: arrays do not fit each other");
  }
  for (std::size_t r = 0; r < slots.size(); ++r) {
    Slot& slot = slots_.at(static_cast<std::size_t>(slots[r]));
    if (slot.status != Status::running) throw std::invalid_argument("step: the slot has finished");
    const auto index = static_cast<std::size_t>(slots[r]);
    const float* row = logits.data() + r * vocab;
    if (!copy_numbers(row, vocab, padded_.data())) {
      fail("NaN logits", slot.token_id.size(), index);
    }
    draw_row(padded_.data(), slot, index);
    token_id[r] = slot.token_id.empty() ? -1 : slot.token_id.back();
    time_min[r] = slot.clock_min;
    status[r] = static_cast<std::uint8_t>(slot.status);
  }
}

void Sampler::draw_row(const float* logits, Slot& slot, std::size_t index) {
  const auto step = slot.token_id.size();
  legal_words(slot, index);
  if (drop_past_cap(slot)) {
    slot.status = Status::clock_cap;
    return;
  }
  const bool silent = is_silent(slot);
  if (silent) weigh_silence(slot);
  weigh(logits, 1.0, step, index);
  const double legal = total();
  if (!(legal > 0.0) || !std::isfinite(legal)) fail("nothing to choose from", step, index);
  slot.step_min.push_back(slot.clock_min);
  for (const auto& set : rule_.outcome_sets) {
    slot.outcome_p.push_back(static_cast<float>(std::min(1.0, sum_of(set) / legal)));
  }
  if (rule_.temperature != 1.0) weigh(logits, rule_.temperature, step, index);
  truncate();
  if (slot.start.masked_set >= 0 && !silent) {
    for (const auto token : rule_.outcome_sets[static_cast<std::size_t>(slot.start.masked_set)]) {
      mass_[static_cast<std::size_t>(token)] = 0.0F;
    }
  }
  // Nothing was changed since `legal` was summed: neither temperature, nor a cut, nor a mask.
  const bool is_whole =
      rule_.temperature == 1.0 && !truncates() && (slot.start.masked_set < 0 || silent);
  const double sum = is_whole ? legal : total();
  if (!(sum > 0.0)) {  // only the masked outcome was possible: p_t = 1 and the path ends here
    slot.status = Status::outcome;
    return;
  }
  const std::array<std::uint32_t, 4> counter{
      static_cast<std::uint32_t>(step), slot.start.rollout,
      static_cast<std::uint32_t>(slot.start.subject_hash),
      static_cast<std::uint32_t>(slot.start.subject_hash >> 32)};
  const auto words = philox4x32(slot.start.key, counter);
  const auto token = pick(philox_uniform(words[0]) * sum);
  slot.log_p.push_back(static_cast<float>(
      std::log(static_cast<double>(mass_[static_cast<std::size_t>(token)]) / sum)));
  accept(slot, token, words);
}

void Sampler::legal_words(const Slot& slot, std::size_t index) {
  const auto n_words = tables_.n_words();
  const auto* state =
      tables_.state_mask.data() + static_cast<std::size_t>(slot.place.state) * n_words;
  const auto* sex = tables_.sex_mask.data() + static_cast<std::size_t>(slot.place.sex) * n_words;
  std::uint32_t any = 0;
  for (std::size_t w = 0; w < n_words; ++w) {
    words_[w] = state[w] & sex[w] & drawable_[w];
    any |= words_[w];
  }
  if (any == 0) fail("the grammar allows no token", slot.token_id.size(), index);
  if (tables_.codes_ascend && slot.place.previous_class == kCode) {
    drop_earlier_codes(slot.place.previous_token);
  }
  std::fill(share_.begin(), share_.end(), 1.0);
}

/// Takes away the moving tokens that start beyond the clock's cap. True when nothing is left.
bool Sampler::drop_past_cap(const Slot& slot) {
  bool dropped = false;
  for (const auto token : moving_) {
    if (has_bit(words_, token) && clock_after(slot, token, 0.0) > tables_.max_clock_min) {
      clear_bit(words_, token);
      dropped = true;
    }
  }
  return dropped && std::all_of(words_.begin(), words_.end(), [](auto word) { return word == 0; });
}

/// Codes of one moment lie in the order of their ids, each once: what lies at or before `token` may
/// not follow it. Something else always may (the grammar lets every moment end).
void Sampler::drop_earlier_codes(std::int32_t token) {
  const auto last = static_cast<std::size_t>(token);
  for (std::size_t w = 0; w < last / 32; ++w) words_[w] &= ~codes_[w];
  const std::uint32_t up_to = ~0U >> (31 - last % 32);
  words_[last / 32] &= ~(codes_[last / 32] & up_to);
}

/// Before the clock has passed the prediction time only a move beyond it is possible. A state that
/// allows no move first closes what is open; a silence longer than every bucket stretches the
/// longest one.
void Sampler::weigh_silence(const Slot& slot) {
  const auto before = words_;
  std::fill(words_.begin(), words_.end(), 0U);
  std::int64_t longest = -1;
  bool moves = false;
  bool reaches = false;
  for (std::size_t i = 0; i < moving_.size(); ++i) {
    const auto token = moving_[i];
    if (!has_bit(before, token)) continue;
    moves = true;
    share_[i] = silent_share(slot, token);
    longest = std::max<std::int64_t>(longest, clock_after(slot, token, 1.0));
    if (share_[i] > 0.0) {
      reaches = true;
      set_bit(words_, static_cast<std::size_t>(token));
    }
  }
  if (!moves) {
    for (std::size_t w = 0; w < words_.size(); ++w) words_[w] = before[w] & structural_[w];
    const bool none =
        std::all_of(words_.begin(), words_.end(), [](auto word) { return word == 0; });
    if (none) words_ = before;
    return;
  }
  if (reaches) return;
  for (std::size_t i = 0; i < moving_.size(); ++i) {
    const auto token = moving_[i];
    if (!has_bit(before, token) || clock_after(slot, token, 1.0) < longest) continue;
    share_[i] = 1.0;
    set_bit(words_, static_cast<std::size_t>(token));
  }
}

void Sampler::weigh(const float* logits, double temperature, std::size_t step, std::size_t index) {
  const float top = legal_max(logits, words_.data(), words_.size());
  if (!std::isfinite(top)) fail("no finite logit among the legal tokens", step, index);
  exponentials(logits, words_.data(), words_.size(), top, static_cast<float>(1.0 / temperature),
               mass_.data());
  for (std::size_t i = 0; i < moving_.size(); ++i) {
    if (share_[i] != 1.0 && has_bit(words_, moving_[i])) {
      mass_[static_cast<std::size_t>(moving_[i])] *= static_cast<float>(share_[i]);
    }
  }
}

bool Sampler::truncates() const {
  const auto vocab = static_cast<std::int32_t>(tables_.vocab_size());
  return (rule_.top_k > 0 && rule_.top_k < vocab) || rule_.top_p < 1.0 || rule_.min_p > 0.0;
}

/// Top-k, then top-p of what is left, then min-p; ties go to the smaller id.
void Sampler::truncate() {
  if (!truncates()) return;
  const auto vocab = static_cast<std::int32_t>(tables_.vocab_size());
  const bool cuts_k = rule_.top_k > 0 && rule_.top_k < vocab;
  order_.clear();
  for (std::int32_t v = 0; v < vocab; ++v) {
    if (has_bit(words_, v) && mass_[static_cast<std::size_t>(v)] > 0.0F) order_.push_back(v);
  }
  const auto mass_of = [this](std::int32_t v) {
    return static_cast<double>(mass_[static_cast<std::size_t>(v)]);
  };
  std::sort(order_.begin(), order_.end(), [&](auto a, auto b) {
    return mass_of(a) != mass_of(b) ? mass_of(a) > mass_of(b) : a < b;
  });
  std::size_t kept = order_.size();
  if (cuts_k) kept = std::min(kept, static_cast<std::size_t>(rule_.top_k));
  if (rule_.top_p < 1.0) {
    double sum = 0.0;
    for (std::size_t i = 0; i < kept; ++i) sum += mass_of(order_[i]);
    double reached = 0.0;
    std::size_t n = 0;
    while (n < kept && reached < rule_.top_p * sum) reached += mass_of(order_[n++]);
    kept = std::max<std::size_t>(n, 1);
  }
  while (kept > 1 && mass_of(order_[kept - 1]) < rule_.min_p * mass_of(order_[0])) --kept;
  for (std::size_t i = kept; i < order_.size(); ++i) {
    mass_[static_cast<std::size_t>(order_[i])] = 0.0F;
  }
}

double Sampler::sum_of(const std::vector<std::int32_t>& ids) const {
  double sum = 0.0;
  for (const auto token : ids) {
    if (has_bit(words_, token)) sum += static_cast<double>(mass_[static_cast<std::size_t>(token)]);
  }
  return sum;
}

double Sampler::total() {
  sum_words(mass_.data(), words_.data(), words_.size(), word_sums_.data());
  double sum = 0.0;
  for (const double word : word_sums_) sum += word;
  return sum;
}

/// The smallest id whose running sum passes `target`: first its word by the sums of `total()`, then
/// the id in it. An id without mass is never chosen.
std::int32_t Sampler::pick(double target) const {
  double before = 0.0;
  std::size_t last = 0;
  for (std::size_t w = 0; w < words_.size(); ++w) {
    if (!(word_sums_[w] > 0.0)) continue;
    last = w;
    if (before + word_sums_[w] > target) break;
    before += word_sums_[w];
  }
  std::size_t chosen = 32 * last;
  for (std::size_t b = 0; b < 32; ++b) {
    const double mass = static_cast<double>(mass_[32 * last + b]);
    if (!(mass > 0.0)) continue;
    chosen = 32 * last + b;
    before += mass;
    if (before > target) break;
  }
  return static_cast<std::int32_t>(chosen);
}

void Sampler::accept(Slot& slot, std::int32_t token, const std::array<std::uint32_t, 4>& words) {
  const auto v = static_cast<std::size_t>(token);
  const auto cls = tables_.token_class[v];
  if (tables_.is_moving[v] != 0) {
    const bool silent = is_silent(slot);
    double u = philox_uniform(words[1]);
    if (silent) {
      const double share = silent_share(slot, token);
      u = (1.0 - share) + share * u;
    }
    auto clock = clock_after(slot, token, u);
    if (silent) clock = std::max(clock, slot.start.prediction_min + 1);
    slot.clock_min = std::min(clock, std::max(tables_.max_clock_min, slot.clock_min));
  }
  slot.place.state =
      tables_.next_state[static_cast<std::size_t>(slot.place.state * tables_.n_classes + cls)];
  slot.place.previous_class = cls;
  slot.place.previous_token = token;
  if (cls == kSex) slot.place.sex = tables_.token_sex[v];
  slot.token_id.push_back(token);
  slot.time_min.push_back(slot.clock_min);
  slot.value_u.push_back(philox_uniform(words[2]));
  if (cls == kDeath) {
    slot.status = Status::death;
  } else if (cls == kEnd) {
    slot.status = Status::end;
  } else if (slot.start.deadline_min >= 0 && slot.clock_min > slot.start.deadline_min) {
    slot.status = Status::deadline;
  } else if (is_silent(slot) && slot.clock_min >= tables_.max_clock_min) {
    slot.status = Status::clock_cap;  // the prediction time lies beyond the grammar's last minute
  } else if (static_cast<std::int64_t>(slot.token_id.size()) >= rule_.max_new_tokens) {
    slot.status = Status::token_cap;
  }
}

/// The clock after `token` when its duration's quantile is `u` (GrammarTables states the rules).
std::int32_t Sampler::clock_after(const Slot& slot, std::int32_t token, double u) const {
  const auto v = static_cast<std::size_t>(token);
  const std::int32_t* q = tables_.duration_q.data() + v * kQuantilePoints;
  const std::int64_t clock = slot.clock_min;
  const std::int64_t midnight = clock - clock % kDay;
  std::int64_t after = clock;
  switch (tables_.duration_rule[v]) {
    case 1: {
      const double place = u * (kQuantilePoints - 1);
      const auto j = std::min<std::size_t>(static_cast<std::size_t>(place), kQuantilePoints - 2);
      const double x =
          q[j] + (place - static_cast<double>(j)) * (static_cast<double>(q[j + 1]) - q[j]);
      after = clock + static_cast<std::int64_t>(std::floor(x + 0.5));
      break;
    }
    case 2:
      if (q[0] > 0) after = midnight + std::int64_t{q[0]} * kDay;
      break;
    case 3: {
      const std::int64_t hours = std::int64_t{q[0]} * 60;
      const auto previous = slot.place.previous_class;
      const bool of_day = previous == kVisitType || previous == kInpatientGap;
      after = of_day ? std::max(clock, midnight + hours) : clock + hours;
      break;
    }
    default:
      break;
  }
  return static_cast<std::int32_t>(
      std::min<std::int64_t>(after, std::numeric_limits<std::int32_t>::max()));
}

/// P(the clock after `token` lies beyond the prediction time).
double Sampler::silent_share(const Slot& slot, std::int32_t token) const {
  const auto v = static_cast<std::size_t>(token);
  if (tables_.duration_rule[v] != 1) {
    return clock_after(slot, token, 0.5) > slot.start.prediction_min ? 1.0 : 0.0;
  }
  const std::int32_t* q = tables_.duration_q.data() + v * kQuantilePoints;
  // Durations are rounded half up: one beyond d minutes needs a quantile of at least d + 1/2.
  const double needed = static_cast<double>(slot.start.prediction_min) - slot.clock_min + 0.5;
  if (q[0] >= needed) return 1.0;
  for (int j = 0; j + 1 < kQuantilePoints; ++j) {
    if (q[j + 1] < needed) continue;
    const double part = (needed - q[j]) / (static_cast<double>(q[j + 1]) - q[j]);
    return 1.0 - (j + part) / (kQuantilePoints - 1);
  }
  return 0.0;
}

}  // namespace chronoward
