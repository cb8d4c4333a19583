#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/mend_meds.hpp"

namespace chronoward {

/// Kinds of events that occur, and what was counted about each.
struct EventKinds {
  std::vector<std::uint8_t> role;
  std::vector<std::int32_t> table, code;
  std::vector<std::int64_t> n_female, n_male;  // subjects of that sex who have it, of codes
};

/// What the code table, the observation periods and the report ask of all events.
struct EventFactColumns {
  EventKinds kinds;                                         // ascending by table, code, role
  std::vector<std::int64_t> n_events, n_subjects;           // by code, of role kCode
  std::vector<std::int64_t> subject_id, first_us, last_us;  // of subjects with a time, ascending
  std::vector<std::int64_t> died, death_us;                 // ascending by subject
  std::int64_t n_visits = 0, n_made = 0, n_code = 0, n_artificial = 0;
};

/// Codes that facts are told by; kNone where no event has one.
struct KnownCodes {
  std::int32_t female = kNone, male = kNone, artificial = kNone;
};

/// Sums facts over subjects; tables and codes are places in byte order.
class EventFacts {
 public:
  EventFacts(std::size_t n_tables, std::size_t n_codes, const KnownCodes& known)
      : n_tables_(n_tables), n_codes_(n_codes), known_(known), codes_(n_codes) {}

  /// Takes one subject into account, its events in canonical order.
  void add(std::int64_t subject_id, std::span<const MendedEvent> events);

  /// Everything that several have seen, of subjects that none shares with another.
  static EventFactColumns join(const std::deque<EventFacts>& parts);

 private:
  struct OfCode {
    std::int64_t n_events = 0, n_subjects = 0;
    std::int64_t last_subject = 0;  // ordinal of the subject that had it last
    std::uint64_t kind = kNever;    // looked up last
    std::size_t place = 0;          // of that kind
  };
  struct OfKind {
    std::uint64_t key = 0;
    std::array<std::int64_t, 2> last_subject{}, n_subjects{};  // female, male
  };
  struct Life {
    std::int64_t subject_id, first_us, last_us;
    auto operator<=>(const Life&) const = default;
  };
  static constexpr std::uint64_t kNever = ~std::uint64_t{0};

  std::size_t place_of_kind(const MendedEvent& event);
  void add_times(std::int64_t subject_id, std::span<const MendedEvent> events);
  void add_visits(std::span<const MendedEvent> events);

  std::size_t n_tables_, n_codes_;
  KnownCodes known_;
  std::int64_t ordinal_ = 0;  // of the subject that is looked at, from 1
  std::vector<OfCode> codes_;
  std::vector<OfKind> kinds_;
  std::unordered_map<std::uint64_t, std::size_t> kind_place_;
  std::vector<Life> lives_;
  std::vector<std::array<std::int64_t, 2>> deaths_;  // subject and time
  std::vector<std::int64_t> made_;                   // artificial visits of a subject
  std::int64_t n_visits_ = 0, n_made_ = 0, n_code_ = 0, n_artificial_ = 0;
};

}  // namespace chronoward
