#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/encode.hpp"

namespace chronoward {

/// The facts of one call of `encode`.
struct EncodeFacts {
  EncodeFacts(const EncodeTables& tables, const EventView& events);

  std::vector<KeyFacts> key;
  std::vector<std::int32_t> counted;  // of each token: the entry whose visits it counts, or -1
  /// Whether canonical order is the order of ids inside each class: no rank is then looked up.
  bool ids_are_ranks = true;
};

/// Encodes one subject after another into the same output; keeps its scratch space.
/// The Python twin (chronoward/tokenizer/twin.py) is the specification, function by function.
class SubjectEncoder {
 public:
  /// @param facts of tokens and of the events' keys, made of both.
  SubjectEncoder(const EncodeTables& tables, const EventView& events, const EncodeFacts& facts,
                 TokenTimelines& out);

  void encode(std::size_t subject);

 private:
  struct Visit {
    std::int64_t id;
    std::int32_t start, end, event, entry;
    bool is_exact, is_flat;
  };
  /// A code of a visit or moment; sorts by (visit, moment, order, rank, value_rank, event).
  struct Item {
    std::int32_t visit, moment, order, rank, value_rank, event, clock, token, value_token, entry;
  };
  struct Detail {
    std::int32_t visit, start, end, rank, token;
    auto operator<=>(const Detail&) const = default;
  };
  struct Mark {
    std::int32_t clock, token;
  };
  /// Finds the bucket of a duration: a table by its highest four bits, then a step or two.
  class Buckets {
   public:
    explicit Buckets(const std::vector<std::int32_t>& edges);

    /// Index of the last edge that is not above x; x >= edges[0] and x >= 0 are preconditions.
    std::size_t of(std::int32_t x) const;

   private:
    const std::vector<std::int32_t>& edges_;
    std::array<std::int32_t, 232> last_{};  // last edge not above the least duration of a cell
  };
  /// Visits (days in preset events) in which a code entry was seen so far, of a subject whose
  /// visits are numbered from `first_visit_` on.
  struct Seen {
    std::int32_t last = -1, n = 0;
  };
  /// What an event becomes.
  struct CodeTokens {
    std::int32_t token, value_token, entry;
  };

  void scan(std::int64_t begin, std::int64_t end);
  void find_visits();
  std::int32_t last_event_of(std::int64_t visit_id);
  /// Visits that a code will be put into, where visits without one are not told (preset cehr).
  void find_told_visits();
  void fill_visits();
  std::int32_t visit_of(std::int64_t visit_id);
  void collect_moments();
  void push_item(const Item& item);
  void sort_items();
  bool is_told(std::int64_t row) const;
  bool code_tokens(std::int64_t row, CodeTokens& found);
  void put_discharge(std::size_t visit, std::int32_t clock);
  void put_visit(std::size_t visit, std::size_t& item, std::size_t& detail);
  void put_items(std::size_t begin, std::size_t end, std::int32_t clock);
  void put_moments();
  void put_death();
  void put_gap(std::int32_t before, std::int32_t after);
  /// The gap before what comes next; the first one is from the start of observation, if its token
  /// says a day or more (observation has dates, no times).
  void put_wait(std::int32_t clock);
  void put_inner(std::int32_t before, std::int32_t after);
  void make_marks(std::size_t visit, std::size_t& detail);
  void put(std::int32_t token, std::int32_t clock, std::int32_t event);
  /// The same of a token whose entry is known.
  void put_code(std::int32_t entry, std::int32_t token, std::int32_t clock, std::int32_t event);
  /// Begins to count the visits of another subject.
  void forget_seen();
  void put_prompt();

  std::int32_t minute_uncounted(std::int64_t us) const;
  std::int32_t minute(std::int64_t us);
  /// The event's own minute, not after `clock`; `available` is the minute of its available time.
  std::int32_t event_minute(std::int64_t row, std::int32_t clock, std::int32_t available) const;
  std::int32_t moment_of(std::int32_t clock, bool is_flat) const;
  const KeyFacts& key_of(std::int64_t row) const;
  std::int32_t rank_of(std::int32_t token) const;
  std::int32_t value_rank_of(const CodeTokens& found) const {
    return found.value_token < 0 ? -1 : rank_of(found.value_token);
  }
  /// Appends the subject's tokens to the output's columns.
  void keep_tokens();
  void count(EncodeRule rule) { ++out_.counts[static_cast<std::size_t>(rule)]; }

  const EncodeTables& t_;
  const EventView& e_;
  const EncodeFacts& facts_;
  TokenTimelines& out_;
  std::vector<PlacedToken> tokens_;  // of the subject

  std::vector<std::int64_t> visit_rows_, item_rows_, death_rows_;
  std::vector<Visit> visits_;
  std::vector<std::pair<std::int64_t, std::int32_t>> visit_index_;  // (id, position), sorted by id
  std::vector<std::int64_t> told_visits_;                           // ids, ascending
  std::vector<Item> items_;
  std::vector<Detail> details_;
  std::vector<std::pair<std::int32_t, std::int32_t>> discharges_;  // (visit, token)
  std::vector<Mark> marks_;
  std::vector<Seen> seen_;
  Buckets gaps_, inner_, ages_;

  std::int64_t origin_us_ = 0, birth_us_ = 0, first_us_ = 0;
  std::int32_t sex_token_ = -1, race_token_ = -1, death_min_ = -1, sex_ = 0;
  std::int32_t first_visit_ = 0;    // number of the subject's first visit or day
  std::int32_t last_visit_ = -1;    // largest number given to a visit or day
  std::int32_t visit_ = 0;          // number of the visit that is open, for n_prior
  std::int32_t before_ = -1;        // clock of the last visit's end or last moment, -1 at the start
  std::int32_t watched_from_ = -1;  // start of observation where a gap may come first, else -1
  std::int32_t prompt_min_ = -1;    // the same, once such a gap was put
  std::int64_t cached_id_ = 0;      // the visit that the last event belonged to
  std::int32_t cached_visit_ = -1;
  std::size_t next_discharge_ = 0;
  std::size_t first_observation_ = 0;  // position of the subject's first period in the output
  bool has_birth_ = false, has_observation_ = false;
  bool is_in_time_ = true, is_sorted_ = true;  // items: by moment, and within each moment
};

}  // namespace chronoward
