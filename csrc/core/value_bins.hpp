#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace chronoward {

/// Bins of G groups of values: group g has the edges [edge_offset[g], edge_offset[g + 1]) and the
/// bins [bin_offset[g], bin_offset[g + 1]); bin b has the knots [knot_offset[b], knot_offset[b+1]).
struct ValueBins {
  std::vector<std::int64_t> edge_offset{0}, bin_offset{0}, knot_offset{0};
  std::vector<float> edge, knot;
};

/// Quantile bins of sampled values that publish no single subject's value; the rules are those of
/// `chronoward.tokenizer.values`.
///
/// @param value the samples of all groups, group after group; finite.
/// @param subject whose they are.
/// @param offsets G + 1 bounds of the groups.
/// @param n_bins bins a group at most.
/// @param min_subjects subjects that each bin and each tail must have.
/// @throws std::invalid_argument columns or bounds that do not fit.
ValueBins fit_value_bins(std::span<const float> value, std::span<const std::uint64_t> subject,
                         std::span<const std::int64_t> offsets, int n_bins, int min_subjects);

}  // namespace chronoward
