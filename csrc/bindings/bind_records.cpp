#include <pybind11/typing.h>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "core/visits.hpp"

namespace chronoward::bindings {

namespace {

using Rows = Array<std::int64_t>;   // (n,) rows
using Order = Array<std::int32_t>;  // (n,)
using Columns = py::typing::Dict<py::str, py::array>;

Columns bind_mend_visits(const SubjectOffsets& visit_offsets, const TimesUs& start,
                         const TimesUs& finish, const Order& order, const Bytes& source_class,
                         const Bytes& is_start_date, const Bytes& is_end_date, const Bytes& is_gone,
                         const Bytes& has_discharge, const TimesUs& death,
                         const SubjectOffsets& record_offsets, const Rows& record_visit,
                         const TimesUs& record_time, const Bytes& record_is_date,
                         std::int64_t inpatient_us, std::int64_t ed_link_us, bool merges) {
  const VisitColumns columns{.visit_offsets = view(visit_offsets, "visit_offsets"),
                             .start = view(start, "start"),
                             .finish = view(finish, "finish"),
                             .order = view(order, "order"),
                             .source_class = view(source_class, "source_class"),
                             .is_start_date = view(is_start_date, "is_start_date"),
                             .is_end_date = view(is_end_date, "is_end_date"),
                             .is_gone = view(is_gone, "is_gone"),
                             .has_discharge = view(has_discharge, "has_discharge"),
                             .death = view(death, "death"),
                             .record_offsets = view(record_offsets, "record_offsets"),
                             .record_visit = view(record_visit, "record_visit"),
                             .record_time = view(record_time, "record_time"),
                             .record_is_date = view(record_is_date, "record_is_date")};
  MendedColumns mended;
  {
    py::gil_scoped_release release;  // the caller's arguments hold the buffers
    mended = mend_visits(
        columns, {.inpatient_us = inpatient_us, .ed_link_us = ed_link_us, .merges = merges});
  }
  Columns out;
  out["offsets"] = to_numpy(std::move(mended.offsets));
  out["start"] = to_numpy(std::move(mended.start));
  out["finish"] = to_numpy(std::move(mended.finish));
  out["head"] = to_numpy(std::move(mended.head));
  out["discharge"] = to_numpy(std::move(mended.discharge));
  out["visit_class"] = to_numpy(std::move(mended.visit_class));
  out["is_timed"] = to_numpy(std::move(mended.is_timed));
  out["is_by_length"] = to_numpy(std::move(mended.is_by_length));
  out["is_clamped"] = to_numpy(std::move(mended.is_clamped));
  out["visit_of"] = to_numpy(std::move(mended.visit_of));
  out["fate"] = to_numpy(std::move(mended.fate));
  out["changes"] = to_numpy(std::move(mended.changes));
  out["detail_start"] = to_numpy(std::move(mended.detail_start));
  out["detail_finish"] = to_numpy(std::move(mended.detail_finish));
  out["detail_head"] = to_numpy(std::move(mended.detail_head));
  out["detail_visit"] = to_numpy(std::move(mended.detail_visit));
  return out;
}

}  // namespace

void bind_records(py::module_& m) {
  m.def("mend_visits", &bind_mend_visits, py::arg("visit_offsets").noconvert(),
        py::arg("start").noconvert(), py::arg("finish").noconvert(), py::arg("order").noconvert(),
        py::arg("source_class").noconvert(), py::arg("is_start_date").noconvert(),
        py::arg("is_end_date").noconvert(), py::arg("is_gone").noconvert(),
        py::arg("has_discharge").noconvert(), py::arg("death").noconvert(),
        py::arg("record_offsets").noconvert(), py::arg("record_visit").noconvert(),
        py::arg("record_time").noconvert(), py::arg("record_is_date").noconvert(),
        py::arg("inpatient_us"), py::arg("ed_link_us"), py::arg("merges") = true,
        "Visits of whole subjects made disjoint: columns by name.");
}

}  // namespace chronoward::bindings
