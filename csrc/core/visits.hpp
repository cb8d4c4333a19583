#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/days.hpp"

namespace chronoward {

/// Classes of visits, in the order in which one that starts at the same time goes first.
enum class VisitClass : std::uint8_t { kInpatient = 1, kEmergency = 2, kOther = 3 };

/// What can become of a source visit; names of chronoward/data/rules.py, index 0 is "kept".
enum class VisitFate : std::uint8_t { kKept, kMerged, kEdLinked, kInStay, kGoneBefore, kCount };

/// What can change a kept one: bits, named as in chronoward/data/rules.py.
enum class VisitChange : std::uint8_t { kExtended, kByLength, kClamped, kCount };

inline constexpr std::array<const char*, static_cast<std::size_t>(VisitChange::kCount)>
    kVisitChanges = {"visit_extended", "visit_inpatient_by_length", "visit_overlap_clamped"};

inline constexpr std::int32_t kNoVisit = -1;

/// A visit as its source has it, faulty times removed. Times are microseconds since 1970.
struct SourceVisit {
  std::int64_t start = 0;
  std::int64_t finish = kNullUs;                 // kNullUs: not said
  std::int32_t order = 0;                        // place among the subject's visits by (ref, key)
  VisitClass source_class = VisitClass::kOther;  // by concept or code
  bool is_start_date = false;                    // the start is a date without a time
  bool is_end_date = false;
  bool is_gone = false;  // removed by an earlier rule
  bool has_discharge = false;
};

/// A record that its source links to a visit.
struct LinkedRecord {
  std::int32_t visit = kNoVisit;  // place in the subject's visits
  std::int64_t time = 0;
  bool is_date = false;
};

/// A visit made of one or several: disjoint from the subject's others.
struct MendedVisit {
  std::int64_t start = 0, finish = 0;
  std::int32_t head = kNoVisit;       // source visit that gives it its concept
  std::int32_t discharge = kNoVisit;  // source visit that says where the subject went, if any
  VisitClass visit_class = VisitClass::kOther;
  bool is_timed = false, is_by_length = false, is_clamped = false;
};

/// An emergency visit that became part of a stay.
struct EmergencyDetail {
  std::int64_t start = 0, finish = 0;
  std::int32_t head = kNoVisit;   // source visit
  std::int32_t visit = kNoVisit;  // mended visit
};

/// One subject's visits, mended.
struct MendedVisits {
  std::vector<MendedVisit> visits;       // in order of start
  std::vector<EmergencyDetail> details;  // in order of start
  std::vector<std::int32_t> visit_of;    // of each source visit, kNoVisit where it is gone
  std::vector<VisitFate> fate;           // of each source visit
  std::vector<std::uint8_t> changes;     // bits of VisitChange, 0 unless kept
};

struct VisitRules {
  std::int64_t inpatient_us = 0;  // from this length on a visit is a stay, whatever its concept
  std::int64_t ed_link_us = 0;    // an emergency visit ends at most so long before its stay
  bool merges = true;  // false: every visit stays one of its own, clamped; stays after others
};

/// Makes a subject's visits disjoint: ends mended by linked records, overlaps of a class merged,
/// emergency visits linked to stays, visits inside stays absorbed, the rest clamped
/// (CLINICAL, "Visit class"; the rules' names and words are in chronoward/data/rules.py).
///
/// Keeps its scratch space from subject to subject.
class VisitMender {
 public:
  explicit VisitMender(const VisitRules& rules) : rules_(rules) {}

  /// @param visits of one subject, in any order, `order` unique.
  /// @param records that are kept and linked to one of them.
  /// @param death kNullUs where the subject did not die.
  void mend(const std::vector<SourceVisit>& visits, const std::vector<LinkedRecord>& records,
            std::int64_t death, MendedVisits& out);

 private:
  struct Ended {
    std::int64_t start, finish;
    std::int32_t place, order;
    VisitClass visit_class;
    bool is_timed, is_by_length;
  };
  struct Group {
    std::int64_t start = 0, finish = 0;
    std::int64_t own_start = 0;  // before an emergency visit moved it
    std::int32_t head = kNoVisit, order = 0;
    VisitClass visit_class = VisitClass::kOther;
    bool is_timed = false, is_by_length = false;
    std::int32_t discharge = kNoVisit;
    std::pair<std::int64_t, std::int32_t> discharge_key{};
    std::int32_t home = kNoVisit;  // group that absorbs it
    std::int32_t visit = kNoVisit;
  };

  void extend(const std::vector<SourceVisit>& visits, const std::vector<LinkedRecord>& records,
              std::int64_t death, MendedVisits& out);
  void merge(const std::vector<SourceVisit>& visits, MendedVisits& out);
  void link_emergencies();
  void absorb_visits();
  void finish(MendedVisits& out);

  VisitRules rules_;
  std::vector<std::int64_t> last_any_, last_same_day_;
  std::vector<Ended> ended_;
  std::vector<Group> groups_;
  std::vector<std::int32_t> group_of_;  // of each source visit
  std::vector<std::int32_t> stays_;     // groups of class inpatient, disjoint, in order
  std::vector<std::int32_t> sorted_;
};

/// Visits of many subjects; subject i has visits visit_offsets[i] .. visit_offsets[i + 1].
struct VisitColumns {
  std::span<const std::int64_t> visit_offsets, start, finish;
  std::span<const std::int32_t> order;
  std::span<const std::uint8_t> source_class;
  std::span<const std::uint8_t> is_start_date, is_end_date, is_gone, has_discharge;
  std::span<const std::int64_t> death;  // of each subject
  /// Records linked to visits; record i is linked to visit record_visit[i] (a row of all visits).
  std::span<const std::int64_t> record_offsets, record_visit, record_time;
  std::span<const std::uint8_t> record_is_date;
};

/// Mended visits of many subjects; rows are rows of `VisitColumns` or of `start`.
struct MendedColumns {
  std::vector<std::int64_t> offsets, start, finish, head, discharge;
  std::vector<std::uint8_t> visit_class, is_timed, is_by_length, is_clamped;
  std::vector<std::int64_t> visit_of;
  std::vector<std::uint8_t> fate, changes;
  std::vector<std::int64_t> detail_start, detail_finish, detail_head, detail_visit;
};

/// Mends the visits of all subjects.
///
/// @throws std::invalid_argument columns that do not fit each other.
MendedColumns mend_visits(const VisitColumns& columns, const VisitRules& rules);

}  // namespace chronoward
