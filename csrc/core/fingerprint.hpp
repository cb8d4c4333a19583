#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/encode.hpp"

namespace chronoward {

/// A number for all that encode reads of each subject: equal inputs give equal numbers, whatever
/// the order of their events, and changed ones another (but for one in 2^64).
///
/// `key_hash` and `text_hash` stand for what keys and texts say; their numbers differ from batch to
/// batch.
std::vector<std::uint64_t> fingerprints(const EventView& events,
                                        std::span<const std::uint64_t> key_hash,
                                        std::span<const std::uint64_t> text_hash);

}  // namespace chronoward
