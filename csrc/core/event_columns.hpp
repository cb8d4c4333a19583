#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/event_piece.hpp"
#include "core/mend_meds.hpp"

namespace chronoward {

/// Appends one column to another, which it becomes where that is empty.
template <typename T>
void append(std::vector<T>& to, std::vector<T>&& from) {
  if (to.empty()) {
    to = std::move(from);
  } else {
    to.insert(to.end(), from.begin(), from.end());
  }
}

/// Puts a subject's events into the order of chronoward/schema.py; texts are places in byte order.
void sort_events(std::vector<MendedEvent>& events);

/// Appends a subject's events to the columns that a source has.
///
/// @param with_units, with_texts, with_visits whether any event of the source may have one.
void append_events(std::int64_t subject_id, const std::vector<MendedEvent>& events, bool with_units,
                   bool with_texts, bool with_visits, EventPiece& out);

/// Joins the columns of consecutive subjects.
EventPiece join_pieces(std::vector<EventPiece>&& parts);

}  // namespace chronoward
