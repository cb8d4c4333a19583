#pragma once

#include <cstdint>
#include <span>
#include <tuple>
#include <vector>

#include "core/visits.hpp"

namespace chronoward {

/// How a record came to its visit.
enum class LinkHow : std::uint8_t {
  kAsSaid,      // its own link holds
  kClamped,     // its own link holds; it lies up to a day before the visit
  kRelinked,    // no link that holds, but a visit covers it
  kArtificial,  // no visit covers it
  kNoVisits,    // the source has none
};

/// A record that belongs into a visit.
struct RecordToLink {
  std::int64_t time = 0;        // microseconds since 1970; of a date its 00:00:00
  std::int32_t own = kNoVisit;  // mended visit that its source links it to
  bool is_date = false;
};

struct Link {
  std::int32_t visit = kNoVisit;  // beyond the mended visits: an artificial one
  LinkHow how = LinkHow::kNoVisits;
};

struct ArtificialVisit {
  std::int64_t start = 0, finish = 0;
};

/// Links a subject's records to visits and makes artificial visits for those that none covers: one
/// for the records of a day between the same two visits.
class RecordLinker {
 public:
  /// @param visits disjoint, in order of start.
  /// @param death kNullUs where the subject did not die.
  /// @param links one a record.
  /// @param artificial numbered after the visits, in order of day.
  void link(std::span<const MendedVisit> visits, std::span<const RecordToLink> records,
            std::int64_t death, std::vector<Link>& links, std::vector<ArtificialVisit>& artificial);

 private:
  /// A record that no visit covers: its day, the last visit that starts before it, its place.
  using Alone = std::tuple<std::int64_t, std::int32_t, std::size_t>;

  std::vector<Alone> alone_;
};

/// Numbers visits and artificial visits by start, end, the real ones first.
///
/// @returns number of each visit, the artificial ones behind the others.
std::vector<std::int32_t> number_visits(std::span<const MendedVisit> visits,
                                        std::span<const ArtificialVisit> artificial);

}  // namespace chronoward
