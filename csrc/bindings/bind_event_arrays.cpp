#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "core/event_arrays.hpp"

namespace chronoward::bindings {
namespace {

template <typename T>
Array<T> bind_fill_null(const Array<T>& values, const Bytes& valid, std::size_t first_bit, T null) {
  const auto from = view(values, "values");
  const auto bitmap = view(valid, "valid");
  std::vector<T> out;
  bool is_filled = false;
  {
    const py::gil_scoped_release released;  // the arguments hold the arrays
    is_filled = is_null_filled(from, bitmap, first_bit, null);
    if (!is_filled) out = fill_null(from, bitmap, first_bit, null);
  }
  if (is_filled) return values;
  return to_numpy(std::move(out));
}

template <typename T>
void define_fill_null(py::module_& m) {
  m.def(
      "fill_null", &bind_fill_null<T>, py::arg("values").noconvert(), py::arg("valid").noconvert(),
      py::arg("first_bit"), py::arg("null"),
      "An unsigned column with `null` where Arrow's bitmap has no bit: the given array where that "
      "is so already, else a copy.");
}

py::array_t<std::int64_t> bind_subject_offsets(const Array<std::int64_t>& subject_id) {
  return to_numpy(subject_offsets(view(subject_id, "subject_id")));
}

}  // namespace

void bind_event_arrays(py::module_& m) {
  define_fill_null<std::uint8_t>(m);
  define_fill_null<std::uint32_t>(m);
  define_fill_null<std::uint64_t>(m);
  m.def("subject_offsets", &bind_subject_offsets, py::arg("subject_id").noconvert(),
        "Where the rows of each subject begin, and the end of all; ids must ascend.");
}

}  // namespace chronoward::bindings
