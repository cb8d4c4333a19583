#pragma once

#include "bindings/arrays.hpp"
#include "core/row_place.hpp"

namespace chronoward::bindings {

using Places = Array<std::int32_t>;  // (rows, 4): prefix buffer, its length, own buffer, its length

inline std::span<const RowPlace> places_of(const Places& places) {
  if (places.ndim() != 2 || places.shape(1) != 4) {
    throw std::invalid_argument("places must have shape (rows, 4)");
  }
  static_assert(sizeof(RowPlace) == 4 * sizeof(std::int32_t));
  return {reinterpret_cast<const RowPlace*>(places.data()),
          static_cast<std::size_t>(places.shape(0))};
}

/// The same, to write.
inline std::span<RowPlace> places_to_move(Places& places) {
  const auto rows = places_of(places);
  return {reinterpret_cast<RowPlace*>(places.mutable_data()), rows.size()};
}

}  // namespace chronoward::bindings
