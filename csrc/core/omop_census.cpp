#include "core/omop_census.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace chronoward {
namespace {

constexpr std::int64_t kInfiniteUs = std::numeric_limits<std::int64_t>::max() - 1;  // and beyond

}  // namespace

std::vector<std::int32_t> Marks::numbers() const {
  std::vector<std::int32_t> out;
  for (std::size_t i = 0; i < seen_.size(); ++i) {
    if (seen_[i] != 0) out.push_back(static_cast<std::int32_t>(i));
  }
  return out;
}

Owners RecordCensus::owners(std::span<const std::int64_t> subject_id) {
  Owners out;
  out.subject.reserve(subject_id.size());
  out.gone.reserve(subject_id.size());
  std::int64_t last_id = kNullUs;  // they come in runs
  std::int32_t place = kNone;
  auto gone = RecordRemoval::kMissingSubject;
  for (const std::int64_t id : subject_id) {
    if (id != last_id) {
      last_id = id;
      place = kNone;
      gone = RecordRemoval::kMissingSubject;
      if (id != kNullUs) {
        const auto& known = rules_.subjects;
        const auto found = std::lower_bound(known.begin(), known.end(), id);
        const auto& excluded = rules_.excluded;
        if (found != known.end() && *found == id) {
          place = static_cast<std::int32_t>(found - known.begin());
          gone = RecordRemoval::kKept;
        } else if (std::binary_search(excluded.begin(), excluded.end(), id)) {
          gone = RecordRemoval::kExcludedSubject;
        } else {
          gone = RecordRemoval::kUnknownPerson;
        }
      }
    }
    out.n_known += gone == RecordRemoval::kKept;
    out.subject.push_back(place);
    out.gone.push_back(static_cast<std::uint8_t>(gone));
  }
  return out;
}

void RecordCensus::count_times(const OmopRows& rows, std::size_t n, std::uint16_t table) {
  std::int32_t last_type = kNone - 1;
  std::array<std::int64_t, 2>* sums = nullptr;
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t moment = OmopRows::us_at(rows.moment, i), start = rows.start_of(i);
    if (start != kNullUs && start > -kInfiniteUs && start < kInfiniteUs &&
        std::none_of(
            rules_.sentinel_us.begin(), rules_.sentinel_us.end(),
            [&](const auto& year) { return start >= year.first && start < year.second; })) {
      ++n_dated_;
      n_late_ += start > rules_.border_us;
    }
    if (moment == kNullUs) continue;
    const std::int32_t type = OmopRows::number_at(rows.type, i);
    if (type != last_type) {
      sums = &midnights_[{table, type}];
      last_type = type;
    }
    ++(*sums)[0];
    (*sums)[1] += is_midnight(moment);
  }
}

void RecordCensus::count_names(const OmopRows& rows, std::size_t n, bool is_drug) {
  for (std::size_t i = 0; i < n; ++i) {
    const std::int32_t standard = OmopRows::number_at(rows.concept_id, i);
    const std::int32_t source = OmopRows::number_at(rows.source_concept, i);
    names.add(standard);
    names.add(source);
    if (is_drug) drugs.add(standard);
    values.add(OmopRows::number_at(rows.value_concept, i));
    const bool no_source = source == kNone || source == rules_.zero;
    const bool no_standard = standard == kNone || standard == rules_.zero;
    if (no_source && (no_standard || rules_.uses_source_concept)) {
      source_codes.add(OmopRows::number_at(rows.source_value, i));
    }
  }
}

Owners RecordCensus::take(std::span<const std::int64_t> subject_id, const OmopRows& rows,
                          std::uint16_t table, bool is_drug) {
  const std::size_t n = subject_id.size();
  for (const std::size_t size :
       {rows.moment.size(), rows.day.size(), rows.concept_id.size(), rows.source_concept.size(),
        rows.type.size(), rows.value_concept.size(), rows.source_value.size()}) {
    if (size != 0 && size != n) throw std::invalid_argument("columns must have one length");
  }
  count_times(rows, n, table);
  count_names(rows, n, is_drug);
  return owners(subject_id);
}

}  // namespace chronoward
