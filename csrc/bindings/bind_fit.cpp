// What `fit` computes: keys, counts, value bins.
#include <pybind11/pybind11.h>

#include <utility>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/checks.hpp"
#include "core/bottom_sample.hpp"
#include "core/fit_scan.hpp"
#include "core/key_index.hpp"
#include "core/value_bins.hpp"

namespace chronoward::bindings {
namespace {

Array<std::int32_t> number_keys(KeyIndex& index, const Bytes& role,
                                const Array<std::int32_t>& table, const Array<std::int32_t>& code,
                                const Array<std::int32_t>& unit, int n_threads) {
  const KeyColumns columns{view(role, "role"), view(table, "table"), view(code, "code"),
                           view(unit, "unit")};
  std::vector<std::int32_t> out;
  {
    const py::gil_scoped_release released;  // the arguments hold the arrays
    out = index.number(columns, n_threads);
  }
  return to_numpy(std::move(out));
}

py::list keys_from(const KeyIndex& index, std::size_t first) {
  py::list out;
  for (std::size_t i = first; i < index.size(); ++i) {
    const KeyIndex::Key key = index.key(i);
    out.append(py::make_tuple(key.role, key.table, key.code, key.unit));
  }
  return out;
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

void scan(FitScan& scan, const SubjectOffsets& offsets, const Array<std::int64_t>& subject_id,
          const Bytes& is_counted, const TimesUs& since_us, const Bytes& role,
          const Array<std::int32_t>& key, const Array<std::int32_t>& text, const Floats& value,
          const TimesUs& time_us, const TimesUs& available_us, const TimesUs& end_us,
          const Array<std::int64_t>& visit_id, std::size_t n_keys) {
  const ScannedEvents events{.offsets = view(offsets, "offsets"),
                             .subject_id = view(subject_id, "subject_id"),
                             .is_counted = view(is_counted, "is_counted"),
                             .since_us = view(since_us, "since_us"),
                             .key = view(key, "key"),
                             .text = view(text, "text"),
                             .value = view(value, "value"),
                             .times = {.role = view(role, "role"),
                                       .time_us = view(time_us, "time_us"),
                                       .available_us = view(available_us, "available_us"),
                                       .end_us = view(end_us, "end_us"),
                                       .visit_id = view(visit_id, "visit_id")}};
  const py::gil_scoped_release released;  // the arguments hold the arrays
  scan.add(events, n_keys);
}

py::tuple scanned_keys(const FitScan& scan) {
  KeyCounts counts = scan.keys();
  return py::make_tuple(to_numpy(std::move(counts.n_events)),
                        to_numpy(std::move(counts.n_subjects)));
}

py::tuple scanned_texts(const FitScan& scan) {
  TextCounts counts = scan.texts();
  return py::make_tuple(to_numpy(std::move(counts.key)), to_numpy(std::move(counts.text)),
                        to_numpy(std::move(counts.n_subjects)));
}

py::dict scanned_years(FitScan& scan) {
  py::dict out;
  for (const auto& [year, n] : scan.times().years()) out[py::int_(year)] = n;
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

template <typename Fn>
py::dict sampled_rows(const Fn& find) {
  SampledRows rows;
  {
    const py::gil_scoped_release released;
    rows = find();
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
  py::class_<KeyIndex>(m, "KeyIndex",
                       "Numbers the distinct keys (role, table, code, unit) of many batches.")
      .def(py::init<>())
      .def("number", &number_keys, py::arg("role").noconvert(), py::arg("table").noconvert(),
           py::arg("code").noconvert(), py::arg("unit").noconvert(), py::arg("n_threads") = 1,
           "The number of each row's key.")
      .def("keys", &keys_from, py::arg("first"),
           "(role, table, code, unit) of the keys from one on.")
      .def("__len__", &KeyIndex::size);
  m.def("fit_value_bins", &bind_fit_value_bins, py::kw_only(), py::arg("value").noconvert(),
        py::arg("subject").noconvert(), py::arg("offsets").noconvert(), py::arg("n_bins"),
        py::arg("min_subjects"), "Quantile bins of groups of sampled values: flat columns.");
  m.attr("DURATION_GROUPS") = kDurationGroups;
  py::class_<BottomSample>(m, "BottomSample",
                           "Per group the rows of least priority, a hash of the row alone.")
      .def(py::init<std::size_t, const std::string&>(), py::arg("size"), py::arg("folder") = "")
      .def("add", &add_rows, py::kw_only(), py::arg("group").noconvert(),
           py::arg("subject").noconvert(), py::arg("salt").noconvert(),
           py::arg("value").noconvert(), "Offers rows.")
      .def("add_sampled", &add_sampled_rows, py::kw_only(), py::arg("group").noconvert(),
           py::arg("priority").noconvert(), py::arg("subject").noconvert(),
           py::arg("value").noconvert(), "Offers rows of another sample.")
      .def(
          "rows",
          [](BottomSample& s, std::size_t first, std::size_t end) {
            return sampled_rows([&] { return s.rows(first, end); });
          },
          py::arg("first"), py::arg("end"), "As `take`, of some groups; it stays.")
      .def(
          "take", [](BottomSample& s) { return sampled_rows([&] { return s.take(); }); },
          "The sample, which is then forgotten: columns by name, sorted by group and priority.");
  py::class_<FitScan>(m, "FitScan", "Counts and samples of the subjects that are counted.")
      .def(py::init<std::size_t, const std::string&>(), py::arg("sample_size"),
           py::arg("folder") = "", "Sampled numbers lie in `folder`, in memory where it is empty.")
      .def("add", &scan, py::kw_only(), py::arg("offsets").noconvert(),
           py::arg("subject_id").noconvert(), py::arg("is_counted").noconvert(),
           py::arg("since_us").noconvert(), py::arg("role").noconvert(), py::arg("key").noconvert(),
           py::arg("text").noconvert(), py::arg("value").noconvert(),
           py::arg("time_us").noconvert(), py::arg("available_us").noconvert(),
           py::arg("end_us").noconvert(), py::arg("visit_id").noconvert(), py::arg("n_keys"),
           "Takes a batch of whole subjects into account.")
      .def("key_counts", &scanned_keys, "(events, subjects) of every key.")
      .def("text_counts", &scanned_texts, "(key, text, subjects), ascending.")
      .def("years", &scanned_years, "Subjects with an event, by calendar year.")
      .def_property_readonly(
          "values", [](FitScan& s) -> BottomSample& { return s.values(); },
          py::return_value_policy::reference_internal, "Numbers, a group a key.")
      .def_property_readonly(
          "durations", [](FitScan& s) -> BottomSample& { return s.times().durations(); },
          py::return_value_policy::reference_internal)
      .def_property_readonly(
          "starts", [](FitScan& s) -> BottomSample& { return s.times().starts(); },
          py::return_value_policy::reference_internal);
}

}  // namespace chronoward::bindings
