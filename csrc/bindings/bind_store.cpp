#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/checks.hpp"
#include "bindings/split_arrays.hpp"
#include "core/copy_rows.hpp"

namespace chronoward::bindings {

namespace {

using Rows = Array<std::int64_t>;

template <typename T>
void bind_copy(const SubjectOffsets& offsets, const Rows& rows, const Array<T>& values,
               Array<T>& out) {
  const auto bounds = view(offsets, "offsets");
  const auto chosen = view(rows, "rows");
  const auto source = view(values, "values");
  check_offsets(bounds, source.size(), "offsets");
  check_below(chosen, bounds.size() - 1, 0, "rows");
  const auto copied = target(out);
  check_size(copied.size(), count_values(bounds, chosen), "out");
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  copy_rows(bounds, chosen, source, copied);
}

template <typename T>
void bind_put(const SubjectOffsets& offsets, const Rows& rows, const Array<T>& values,
              Array<T>& out) {
  const auto bounds = view(offsets, "offsets");
  const auto chosen = view(rows, "rows");
  const auto source = view(values, "values");
  const auto places = target(out);
  check_offsets(bounds, places.size(), "offsets");
  check_below(chosen, bounds.size() - 1, 0, "rows");
  check_size(source.size(), count_values(bounds, chosen), "values");
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  put_rows(bounds, chosen, source, places);
}

template <typename T>
void define_copy(py::module_& m) {
  m.def("copy_rows", &bind_copy<T>, py::arg("offsets").noconvert(), py::arg("rows").noconvert(),
        py::arg("values").noconvert(), py::arg("out").noconvert(),
        "Fills `out` with the values offsets[r] .. offsets[r + 1] of each of the rows r.");
}

template <typename T>
void define_put(py::module_& m) {
  m.def("put_rows", &bind_put<T>, py::arg("offsets").noconvert(), py::arg("rows").noconvert(),
        py::arg("values").noconvert(), py::arg("out").noconvert(),
        "Fills out[offsets[r]:offsets[r + 1]] of each of the rows r, one after the other.");
}

}  // namespace

void bind_store(py::module_& m) {
  define_copy<std::int32_t>(m);
  define_copy<std::uint8_t>(m);
  define_copy<std::int64_t>(m);
  define_copy<std::uint16_t>(m);
  define_copy<double>(m);
  define_put<std::uint8_t>(m);
  define_put<std::uint32_t>(m);
}

}  // namespace chronoward::bindings
