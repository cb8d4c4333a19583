#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

// One call a step for all slots: grammar and sex masks, silence, clock cap, temperature and
// truncation, the draw, the summed probability of each outcome set, the clock. Numbers come from
// Philox counters, so a row's draw depends on nothing but its own logits and its own history.
namespace chronoward {

constexpr int kQuantilePoints = 33;  // of a duration's quantile function: u = 0, 1/32 .. 1

/// Why a rollout ended; the order is that of chronoward.engine.rollout.STATUSES.
enum class Status : std::uint8_t { running, deadline, death, end, outcome, token_cap, clock_cap };

/// The tokenizer's GrammarTables as plain arrays (chronoward/tokenizer/grammar.py states them).
struct SamplerTables {
  int n_states = 0;
  int n_classes = 0;
  int start_state = 0;
  int max_clock_min = 0;
  bool codes_ascend = false;                // a code that follows a code has a larger id
  std::vector<std::uint8_t> token_class;    // (V,)
  std::vector<std::int8_t> next_state;      // (n_states, n_classes); -1 refused
  std::vector<std::uint32_t> state_mask;    // (n_states, W)
  std::vector<std::uint32_t> sex_mask;      // (3, W)
  std::vector<std::uint8_t> token_sex;      // (V,)
  std::vector<std::uint8_t> duration_rule;  // (V,)
  std::vector<std::int32_t> duration_q;     // (V, 33) minutes (rule 2: days, rule 3: hours)
  std::vector<std::uint8_t> is_moving;      // (V,)

  std::size_t vocab_size() const { return token_class.size(); }
  std::size_t n_words() const { return (vocab_size() + 31) / 32; }
  /// Throws std::invalid_argument when a table's shape or content does not fit.
  void check() const;
};

struct SamplingRule {
  double temperature = 1.0;
  std::int32_t top_k = 0;  // 0: off
  double top_p = 1.0;
  double min_p = 0.0;
  bool forbid_end = true;
  std::int32_t max_new_tokens = 0;
  std::vector<std::vector<std::int32_t>> outcome_sets;  // token ids, ascending
};

/// What a rollout starts from. Minutes are since the subject's origin; -1 means none.
struct SlotStart {
  std::uint64_t key = 0;
  std::uint64_t subject_hash = 0;
  std::uint32_t rollout = 0;
  std::int32_t clock_min = 0;
  std::int32_t prediction_min = -1;
  std::int32_t deadline_min = -1;
  std::int32_t masked_set = -1;
};

/// A row's place in the grammar: what a run of tokens leaves behind.
struct GrammarPlace {
  std::int32_t state = 0;
  std::uint8_t sex = 0;
  std::uint8_t previous_class = 0;
  std::int32_t previous_token = -1;
};

struct Slot {
  SlotStart start;
  GrammarPlace place;
  std::int32_t clock_min = 0;
  Status status = Status::running;
  std::vector<std::int32_t> token_id;
  std::vector<std::int32_t> time_min;  // after the token
  std::vector<float> log_p;            // of the token under the distribution drawn from
  std::vector<double> value_u;         // for the value inside the token's bin
  std::vector<std::int32_t> step_min;  // the clock before the draw: when an outcome would count
  std::vector<float> outcome_p;        // (n_steps, K)
};

class Sampler {
 public:
  Sampler(SamplerTables tables, SamplingRule rule, std::size_t n_slots);

  /// Starts a rollout in `slot` after `prompt`. DataError names the position the grammar refuses.
  void load(std::size_t slot, std::span<const std::int32_t> prompt, const SlotStart& start);

  /// Draws one token for each row. `logits` is (rows, V); row r belongs to slot slots[r].
  /// NumericError names step and slot for NaN or for nothing to choose from.
  void step(std::span<const float> logits, std::span<const std::int32_t> slots,
            std::span<std::int32_t> token_id, std::span<std::int32_t> time_min,
            std::span<std::uint8_t> status);

  const Slot& slot(std::size_t index) const { return slots_.at(index); }
  std::size_t n_slots() const { return slots_.size(); }
  std::size_t n_sets() const { return rule_.outcome_sets.size(); }
  std::size_t vocab_size() const { return tables_.vocab_size(); }

  /// Runs the automaton from the start state. Returns -1, or the position it refuses.
  std::int64_t walk(std::span<const std::int32_t> tokens, GrammarPlace& place) const;

 private:
  void draw_row(const float* logits, Slot& slot, std::size_t index);
  void legal_words(const Slot& slot, std::size_t index);
  void drop_earlier_codes(std::int32_t token);
  bool drop_past_cap(const Slot& slot);
  void weigh_silence(const Slot& slot);
  void weigh(const float* logits, double temperature, std::size_t step, std::size_t index);
  bool truncates() const;
  void truncate();
  double sum_of(const std::vector<std::int32_t>& ids) const;
  double total();
  std::int32_t pick(double target) const;
  void accept(Slot& slot, std::int32_t token, const std::array<std::uint32_t, 4>& words);
  std::int32_t clock_after(const Slot& slot, std::int32_t token, double u) const;
  double silent_share(const Slot& slot, std::int32_t token) const;
  bool is_silent(const Slot& slot) const {
    return slot.start.prediction_min >= 0 && slot.clock_min <= slot.start.prediction_min;
  }

  SamplerTables tables_;
  SamplingRule rule_;
  std::vector<Slot> slots_;
  std::vector<std::int32_t> moving_;       // ids of moving tokens, ascending
  std::vector<std::uint32_t> drawable_;    // (W,) without pad, and end where it is forbidden
  std::vector<std::uint32_t> codes_;       // (W,) tokens of class code
  std::vector<std::uint32_t> structural_;  // (W,) tokens that say nothing but where a visit ends
  std::vector<std::uint32_t> words_;       // scratch: legal tokens of the row
  std::vector<float> mass_;                // scratch: unnormalized probabilities, 0 where illegal
  std::vector<double> word_sums_;          // scratch of total() and pick(): mass of each word
  std::vector<float> padded_;              // scratch: a row in whole words (tail bits are 0)
  std::vector<double> share_;              // scratch: survival share of each moving token
  std::vector<std::int32_t> order_;        // scratch of truncate()
};

}  // namespace chronoward
