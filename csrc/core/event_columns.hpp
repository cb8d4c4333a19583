#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/event_piece.hpp"
#include "core/mend_meds.hpp"

namespace chronoward {

/// Puts a subject's events into the order of chronoward/schema.py; texts are places in byte order.
void sort_events(std::vector<MendedEvent>& events);

/// Appends a subject's events to the columns that a source has.
///
/// @param with_units, with_texts, with_visits whether any event of the source may have one.
void append_events(std::int64_t subject_id, const std::vector<MendedEvent>& events, bool with_units,
                   bool with_texts, bool with_visits, EventPiece& out);

/// Room for events in the columns that `append_events` will fill.
void reserve_events(std::size_t n_events, bool with_units, bool with_texts, bool with_visits,
                    EventPiece& out);

}  // namespace chronoward
