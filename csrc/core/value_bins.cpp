#include "core/value_bins.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <utility>

#include "core/philox.hpp"

namespace chronoward {
namespace {

constexpr std::size_t kMaxKnots = 9;
constexpr std::uint32_t kSign = 1U << 31;

/// Numbers subjects from 0 in the order in which they come.
class SubjectNumbers {
 public:
  void reset(std::size_t n_at_most) {
    const std::size_t n_slots = std::bit_ceil(2 * std::max<std::size_t>(n_at_most, 1));
    if (slots_.size() < n_slots) slots_.assign(n_slots, {});
    mask_ = slots_.size() - 1;
    ++stamp_;
    n_ = 0;
  }
  std::uint32_t of(std::uint64_t subject) {
    std::size_t place = splitmix64(subject) & mask_;
    while (slots_[place].stamp == stamp_) {
      if (slots_[place].subject == subject) return slots_[place].number;
      place = (place + 1) & mask_;
    }
    slots_[place] = {subject, stamp_, n_};
    return n_++;
  }
  std::size_t n() const { return n_; }

 private:
  struct Slot {
    std::uint64_t subject = 0;
    std::uint32_t stamp = 0, number = 0;  // of another stamp: empty
  };
  std::vector<Slot> slots_;
  std::size_t mask_ = 0;
  std::uint32_t stamp_ = 0, n_ = 0;
};

/// Numbers that rise as finite values do.
std::uint32_t rising(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

float value_of(std::uint32_t rising) {
  return std::bit_cast<float>((rising & kSign) != 0 ? rising ^ kSign : ~rising);
}

/// Counts distinct subjects (by dense number) of one stretch of values after another.
class DistinctSubjects {
 public:
  void reset(std::size_t n_subjects) {
    if (seen_.size() < n_subjects) seen_.resize(n_subjects, 0);
    clear();
  }
  void clear() {
    ++stamp_;
    n_ = 0;
  }
  void add(std::uint32_t subject) {
    if (seen_[subject] == stamp_) return;
    seen_[subject] = stamp_;
    ++n_;
  }
  std::size_t n() const { return n_; }

 private:
  std::vector<std::uint64_t> seen_;
  std::uint64_t stamp_ = 0;
  std::size_t n_ = 0;
};

double mean(std::span<const float> values) {
  double sum = 0;
  for (const float v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

/// Three significant digits: a mean over few subjects says no more.
double rounded_mean(std::span<const float> values) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3g", mean(values));
  return std::strtod(text.data(), nullptr);
}

/// The values of one group in ascending order, their subjects by dense number.
class Group {
 public:
  void load(std::span<const float> value, std::span<const std::uint64_t> subject) {
    numbers_.reset(value.size());
    rows_.clear();
    for (std::size_t i = 0; i < value.size(); ++i) {
      rows_.push_back(std::uint64_t{rising(value[i] + 0.0F)} << 32 | numbers_.of(subject[i]));
    }
    std::sort(rows_.begin(), rows_.end());
    value_.clear();
    for (const std::uint64_t row : rows_) {
      value_.push_back(value_of(static_cast<std::uint32_t>(row >> 32)));
    }
    distinct_.reset(n_subjects());
    // subjects at or after each place, for what lies above an edge
    n_from_.assign(rows_.size() + 1, 0);
    for (std::size_t i = rows_.size(); i-- > 0;) {
      distinct_.add(subject_at(i));
      n_from_[i] = distinct_.n();
    }
  }

  std::size_t size() const { return rows_.size(); }
  std::size_t n_subjects() const { return numbers_.n(); }
  std::span<const float> values() const { return value_; }

  /// The first place whose value is not below `edge`.
  std::size_t place(float edge) const {
    return static_cast<std::size_t>(std::lower_bound(value_.begin(), value_.end(), edge) -
                                    value_.begin());
  }

  std::size_t n_subjects_from(std::size_t first) const { return n_from_[first]; }

  std::size_t n_subjects_between(std::size_t first, std::size_t last) {
    distinct_.clear();
    for (std::size_t i = first; i < last; ++i) distinct_.add(subject_at(i));
    return distinct_.n();
  }

  /// The values that `least` distinct subjects do not go below, and above.
  std::pair<float, float> tails(std::size_t least) {
    distinct_.clear();
    std::size_t low = 0, high = rows_.size();
    while (distinct_.n() < least) distinct_.add(subject_at(low++));
    distinct_.clear();
    while (distinct_.n() < least) distinct_.add(subject_at(--high));
    return {value_[low - 1], value_[high]};
  }

 private:
  std::uint32_t subject_at(std::size_t i) const { return static_cast<std::uint32_t>(rows_[i]); }

  SubjectNumbers numbers_;
  std::vector<std::uint64_t> rows_;  // rising(value) << 32 | subject's number
  std::vector<float> value_;
  std::vector<std::size_t> n_from_;
  DistinctSubjects distinct_;
};

/// Sample quantiles at even shares; of those that would make a bin too small the lower ones stay.
std::vector<float> make_edges(Group& group, int n_bins, std::size_t least) {
  std::vector<float> edges;
  std::size_t below = 0;  // where the bin begins that the next edge would close
  const double last = static_cast<double>(group.size() - 1);
  for (int i = 1; i < n_bins; ++i) {
    const double share = static_cast<double>(i) / n_bins;
    const float edge = group.values()[static_cast<std::size_t>(std::ceil(last * share))];
    const std::size_t place = group.place(edge);
    if (place <= below) continue;
    if (group.n_subjects_from(place) >= least && group.n_subjects_between(below, place) >= least) {
      edges.push_back(edge);
      below = place;
    }
  }
  return edges;
}

/// Knots of one bin on an even grid: means of equal slices, so that none is one subject's value.
std::vector<double> make_knots(std::span<const float> values, std::size_t n_subjects,
                               std::size_t least) {
  const std::size_t n = std::min(kMaxKnots - 1, n_subjects / least);
  if (n < 2) return std::vector<double>(2, rounded_mean(values));
  std::vector<double> knots;
  const std::size_t length = values.size() / n, n_longer = values.size() % n;
  for (std::size_t s = 0, first = 0; s < n; ++s) {
    const std::size_t size = length + (s < n_longer ? 1 : 0);
    knots.push_back(mean(values.subspan(first, size)));
    first += size;
  }
  return knots;
}

void add_bin(ValueBins& out, const std::vector<double>& knots, double lower, double upper) {
  for (const double knot : knots) {
    out.knot.push_back(static_cast<float>(std::clamp(knot, lower, std::max(upper, lower))));
  }
  out.knot_offset.push_back(static_cast<std::int64_t>(out.knot.size()));
}

void add_group(ValueBins& out, Group& group, int n_bins, std::size_t least) {
  if (group.n_subjects() < least) return;
  const auto [low, high] = group.tails(least);
  if (!(low < high)) {  // all but one value: a mean over all subjects says enough
    const double center = rounded_mean(group.values());
    add_bin(out, {center, center}, center, center);
    return;
  }
  const std::vector<float> edges = make_edges(group, n_bins, least);
  for (std::size_t b = 0, first = 0; b <= edges.size(); ++b) {
    const bool is_last = b == edges.size();
    const std::size_t end = is_last ? group.size() : group.place(edges[b]);
    const double upper =
        is_last ? high : std::nextafter(edges[b], -std::numeric_limits<float>::infinity());
    const auto knots = make_knots(group.values().subspan(first, end - first),
                                  group.n_subjects_between(first, end), least);
    add_bin(out, knots, b == 0 ? low : edges[b - 1], upper);
    first = end;
  }
  out.edge.insert(out.edge.end(), edges.begin(), edges.end());
}

}  // namespace

ValueBins fit_value_bins(std::span<const float> value, std::span<const std::uint64_t> subject,
                         std::span<const std::int64_t> offsets, int n_bins, int min_subjects) {
  if (value.size() != subject.size() || offsets.empty() || offsets.front() != 0 ||
      offsets.back() != static_cast<std::int64_t>(value.size()) ||
      !std::is_sorted(offsets.begin(), offsets.end())) {
    throw std::invalid_argument("values, subjects and bounds of groups do not fit each other");
  }
  if (n_bins < 1 || min_subjects < 1) {
    throw std::invalid_argument("n_bins and min_subjects must be at least 1");
  }
  if (!std::all_of(value.begin(), value.end(), [](float v) { return std::isfinite(v); })) {
    throw std::invalid_argument("values must be finite");
  }
  ValueBins out;
  Group group;
  for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
    const auto first = static_cast<std::size_t>(offsets[g]);
    const auto size = static_cast<std::size_t>(offsets[g + 1]) - first;
    group.load(value.subspan(first, size), subject.subspan(first, size));
    add_group(out, group, n_bins, static_cast<std::size_t>(min_subjects));
    out.edge_offset.push_back(static_cast<std::int64_t>(out.edge.size()));
    out.bin_offset.push_back(static_cast<std::int64_t>(out.knot_offset.size()) - 1);
  }
  return out;
}

}  // namespace chronoward
