#include "core/links.hpp"

#include <algorithm>
#include <numeric>

#include "core/days.hpp"

namespace chronoward {
namespace {

constexpr std::int64_t kEarlyUs = kUsPerDay;  // a record so long before its visit belongs to it

bool covers(const MendedVisit& visit, const RecordToLink& record) {
  if (record.is_date) {
    return record.time >= day_of(visit.start) && record.time <= day_of(visit.finish);
  }
  return record.time >= visit.start && record.time <= visit.finish;
}

bool is_shortly_before(const MendedVisit& visit, const RecordToLink& record) {
  if (record.is_date) return record.time == day_of(visit.start) - kUsPerDay;
  return record.time < visit.start && record.time >= visit.start - kEarlyUs;
}

std::int64_t latest_of(const RecordToLink& record) {
  return record.is_date ? record.time + kDayEndUs : record.time;
}

}  // namespace

void RecordLinker::link(std::span<const MendedVisit> visits, std::span<const RecordToLink> records,
                        std::int64_t death, std::vector<Link>& links,
                        std::vector<ArtificialVisit>& artificial) {
  links.assign(records.size(), {});
  artificial.clear();
  alone_.clear();
  for (std::size_t i = 0; i < records.size(); ++i) {
    const RecordToLink& record = records[i];
    if (record.own != kNoVisit) {
      const MendedVisit& own = visits[static_cast<std::size_t>(record.own)];
      if (covers(own, record)) {
        links[i] = {record.own, LinkHow::kAsSaid};
        continue;
      }
      if (is_shortly_before(own, record)) {
        links[i] = {record.own, LinkHow::kClamped};
        continue;
      }
    }
    const auto after =
        std::upper_bound(visits.begin(), visits.end(), latest_of(record),
                         [](std::int64_t t, const MendedVisit& v) { return t < v.start; });
    const auto nearest = static_cast<std::int32_t>(after - visits.begin()) - 1;
    if (nearest >= 0 && covers(visits[static_cast<std::size_t>(nearest)], record)) {
      links[i] = {nearest, LinkHow::kRelinked};
    } else {
      alone_.emplace_back(day_of(record.time), nearest, i);
    }
  }
  std::sort(alone_.begin(), alone_.end());
  for (std::size_t k = 0; k < alone_.size(); ++k) {
    const auto& [day, nearest, i] = alone_[k];
    std::int64_t known = latest_of(records[i]);
    if (death != kNullUs) known = std::min(known, death);
    const bool is_new =
        k == 0 || day != std::get<0>(alone_[k - 1]) || nearest != std::get<1>(alone_[k - 1]);
    if (is_new) artificial.push_back({known, known});
    ArtificialVisit& visit = artificial.back();
    visit.start = std::min(visit.start, known);
    visit.finish = std::max(visit.finish, known);
    links[i] = {static_cast<std::int32_t>(visits.size() + artificial.size()) - 1,
                LinkHow::kArtificial};
  }
}

std::vector<std::int32_t> number_visits(std::span<const MendedVisit> visits,
                                        std::span<const ArtificialVisit> artificial) {
  const std::size_t n = visits.size() + artificial.size();
  const auto key = [&](std::size_t i) {
    const bool is_artificial = i >= visits.size();
    const std::int64_t start =
        is_artificial ? artificial[i - visits.size()].start : visits[i].start;
    const std::int64_t finish =
        is_artificial ? artificial[i - visits.size()].finish : visits[i].finish;
    return std::tuple(start, finish, is_artificial, i);
  };
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return key(a) < key(b); });
  std::vector<std::int32_t> number(n);
  for (std::size_t place = 0; place < n; ++place) {
    number[order[place]] = static_cast<std::int32_t>(place);
  }
  return number;
}

}  // namespace chronoward
