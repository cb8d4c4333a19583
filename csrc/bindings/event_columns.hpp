#pragma once

#include <pybind11/typing.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "bindings/arrays.hpp"
#include "core/event_facts.hpp"
#include "core/event_piece.hpp"

// What mending gives, of MEDS and of OMOP alike, as columns by name.
namespace chronoward::bindings {

using Columns = py::typing::Dict<py::str, py::array>;

/// @param fates what became of the rows, with members `gone` and `changes`.
template <typename Fates>
Columns piece_columns(EventPiece&& piece, Fates&& fates) {
  Columns out;
  out["subject_id"] = to_numpy(std::move(piece.subject_id));
  out["time"] = to_numpy(std::move(piece.time));
  out["available"] = to_numpy(std::move(piece.available));
  out["role"] = to_numpy(std::move(piece.role));
  out["table"] = to_numpy(std::move(piece.table));
  out["code"] = to_numpy(std::move(piece.code));
  out["unit"] = to_numpy(std::move(piece.unit));
  out["text"] = to_numpy(std::move(piece.text));
  out["number"] = to_numpy(std::move(piece.number));
  out["visit_id"] = to_numpy(std::move(piece.visit_id));
  out["end_time"] = to_numpy(std::move(piece.end_time));
  out["gone"] = to_numpy(std::move(fates.gone));
  out["changes"] = to_numpy(std::move(fates.changes));
  return out;
}

inline Columns fact_columns(EventFactColumns&& found) {
  Columns out;
  out["kind_role"] = to_numpy(std::move(found.kinds.role));
  out["kind_table"] = to_numpy(std::move(found.kinds.table));
  out["kind_code"] = to_numpy(std::move(found.kinds.code));
  out["kind_n_female"] = to_numpy(std::move(found.kinds.n_female));
  out["kind_n_male"] = to_numpy(std::move(found.kinds.n_male));
  out["n_events"] = to_numpy(std::move(found.n_events));
  out["n_subjects"] = to_numpy(std::move(found.n_subjects));
  out["subject_id"] = to_numpy(std::move(found.subject_id));
  out["first_us"] = to_numpy(std::move(found.first_us));
  out["last_us"] = to_numpy(std::move(found.last_us));
  out["died"] = to_numpy(std::move(found.died));
  out["death_us"] = to_numpy(std::move(found.death_us));
  out["visits"] = to_numpy(
      std::vector<std::int64_t>{found.n_visits, found.n_made, found.n_code, found.n_artificial});
  return out;
}

template <std::size_t N>
py::tuple names(const std::array<const char*, N>& values) {
  py::tuple out(N);
  for (std::size_t i = 0; i < N; ++i) out[i] = values[i];
  return out;
}

}  // namespace chronoward::bindings
