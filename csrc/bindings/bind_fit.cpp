// What `fit` computes: keys, counts, value bins.
#include <pybind11/pybind11.h>

#include <utility>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/checks.hpp"
#include "core/bottom_sample.hpp"
#include "core/fit_times.hpp"
#include "core/value_bins.hpp"
#include "core/vocab.hpp"

namespace chronoward::bindings {
namespace {

py::tuple bind_distinct_keys(const Bytes& role, const Array<std::int32_t>& table,
                             const Array<std::int32_t>& code, const Array<std::int32_t>& unit,
                             std::int64_t n_tables, std::int64_t n_codes, std::int64_t n_units) {
  const KeyColumns columns{view(role, "role"),
                           view(table, "table"),
                           view(code, "code"),
                           view(unit, "unit"),
                           n_tables,
                           n_codes,
                           n_units};
  const std::size_t n = columns.role.size();
  check_size(columns.table.size(), n, "table");
  check_size(columns.code.size(), n, "code");
  check_size(columns.unit.size(), n, "unit");
  DistinctKeys out;
  {
    const py::gil_scoped_release released;  // the arguments hold the arrays
    out = distinct_keys(columns);
  }
  return py::make_tuple(to_numpy(std::move(out.keys)), to_numpy(std::move(out.index)));
}

py::tuple bind_count_keys(const Array<std::int32_t>& key, const Array<std::int64_t>& subject_id,
                          std::size_t n_keys) {
  const auto keys = view(key, "key");
  const auto subjects = view(subject_id, "subject_id");
  check_size(subjects.size(), keys.size(), "subject_id");
  check_below(keys, n_keys, 0, "key");
  KeyCounts out;
  {
    const py::gil_scoped_release released;  // the arguments hold the arrays
    out = count_keys(keys, subjects, n_keys);
  }
  return py::make_tuple(to_numpy(std::move(out.n_events)), to_numpy(std::move(out.n_subjects)));
}

py::dict bind_fit_value_bins(const Floats& value, const Array<std::uint64_t>& subject,
                             const SubjectOffsets& offsets, int n_bins, int min_subjects) {
  const auto values = view(value, "value");
  const auto subjects = view(subject, "subject");
  const auto bounds = view(offsets, "offsets");
  ValueBins bins;
  {
    const py::gil_scoped_release released;  // the arguments hold the arrays
    bins = fit_value_bins(values, subjects, bounds, n_bins, min_subjects);
  }
  py::dict out;
  out["edge_offset"] = to_numpy(std::move(bins.edge_offset));
  out["bin_offset"] = to_numpy(std::move(bins.bin_offset));
  out["knot_offset"] = to_numpy(std::move(bins.knot_offset));
  out["edge"] = to_numpy(std::move(bins.edge));
  out["knot"] = to_numpy(std::move(bins.knot));
  return out;
}

py::dict bind_scan_times(const Array<std::int64_t>& subject_id, const Bytes& role,
                         const TimesUs& time_us, const TimesUs& available_us, const TimesUs& end_us,
                         const Array<std::int64_t>& visit_id, const TimesUs& since_us) {
  const FitEvents events{view(subject_id, "subject_id"), view(role, "role"),
                         view(time_us, "time_us"),       view(available_us, "available_us"),
                         view(end_us, "end_us"),         view(visit_id, "visit_id")};
  const auto since = view(since_us, "since_us");
  FitTimes times;
  {
    const py::gil_scoped_release released;  // the arguments hold the arrays
    times = scan_times(events, since);
  }
  py::dict out;
  out["duration_group"] = to_numpy(std::move(times.duration_group));
  out["duration_subject"] = to_numpy(std::move(times.duration_subject));
  out["duration_start_min"] = to_numpy(std::move(times.duration_start_min));
  out["duration_min"] = to_numpy(std::move(times.duration_min));
  out["start_kind"] = to_numpy(std::move(times.start_kind));
  out["start_subject"] = to_numpy(std::move(times.start_subject));
  out["start_value"] = to_numpy(std::move(times.start_value));
  out["years"] = to_numpy(std::move(times.years));
  return out;
}

void add_rows(BottomSample& sample, const Array<std::int64_t>& group,
              const Array<std::int64_t>& subject, const Array<std::int64_t>& salt,
              const Array<double>& value) {
  const auto groups = view(group, "group");
  const auto subjects = view(subject, "subject");
  const auto salts = view(salt, "salt");
  const auto values = view(value, "value");
  const py::gil_scoped_release released;  // the arguments hold the arrays
  sample.add(groups, subjects, salts, values);
}

void add_sampled_rows(BottomSample& sample, const Array<std::int64_t>& group,
                      const Array<std::uint64_t>& priority, const Array<std::uint64_t>& subject,
                      const Array<double>& value) {
  const auto groups = view(group, "group");
  const auto priorities = view(priority, "priority");
  const auto subjects = view(subject, "subject");
  const auto values = view(value, "value");
  const py::gil_scoped_release released;  // the arguments hold the arrays
  sample.add_sampled(groups, priorities, subjects, values);
}

py::dict sampled_rows(BottomSample& sample) {
  SampledRows rows;
  {
    const py::gil_scoped_release released;
    rows = sample.rows();
  }
  py::dict out;
  out["group"] = to_numpy(std::move(rows.group));
  out["priority"] = to_numpy(std::move(rows.priority));
  out["subject"] = to_numpy(std::move(rows.subject));
  out["value"] = to_numpy(std::move(rows.value));
  return out;
}

}  // namespace

void bind_fit(py::module_& m) {
  m.def("distinct_keys", &bind_distinct_keys, py::arg("role").noconvert(),
        py::arg("table").noconvert(), py::arg("code").noconvert(), py::arg("unit").noconvert(),
        py::arg("n_tables"), py::arg("n_codes"), py::arg("n_units"),
        "Keys (role, table, code, unit) that occur, ascending, and each row's place among them.");
  m.def("count_keys", &bind_count_keys, py::arg("key").noconvert(),
        py::arg("subject_id").noconvert(), py::arg("n_keys"), "(events, subjects) of every key.");
  m.def("fit_value_bins", &bind_fit_value_bins, py::kw_only(), py::arg("value").noconvert(),
        py::arg("subject").noconvert(), py::arg("offsets").noconvert(), py::arg("n_bins"),
        py::arg("min_subjects"), "Quantile bins of groups of sampled values: flat columns.");
  m.attr("DURATION_GROUPS") = kDurationGroups;
  m.def("scan_times", &bind_scan_times, py::kw_only(), py::arg("subject_id").noconvert(),
        py::arg("role").noconvert(), py::arg("time_us").noconvert(),
        py::arg("available_us").noconvert(), py::arg("end_us").noconvert(),
        py::arg("visit_id").noconvert(), py::arg("since_us").noconvert(),
        "Durations, starts and years of whole subjects: flat columns.");
  py::class_<BottomSample>(m, "BottomSample",
                           "Per group the rows of least priority, a hash of the row alone.")
      .def(py::init<std::size_t>(), py::arg("size"))
      .def("add", &add_rows, py::kw_only(), py::arg("group").noconvert(),
           py::arg("subject").noconvert(), py::arg("salt").noconvert(),
           py::arg("value").noconvert(), "Offers rows.")
      .def("add_sampled", &add_sampled_rows, py::kw_only(), py::arg("group").noconvert(),
           py::arg("priority").noconvert(), py::arg("subject").noconvert(),
           py::arg("value").noconvert(), "Offers rows of another sample.")
      .def("rows", &sampled_rows, "The sample: columns by name, sorted by group and priority.");
}

}  // namespace chronoward::bindings
