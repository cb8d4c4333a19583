#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/checks.hpp"
#include "bindings/split_arrays.hpp"
#include "core/copy_rows.hpp"

namespace chronoward::bindings {

namespace {

using Rows = Array<std::int64_t>;

/// Checks that rows lie within their values: those that are asked for, as offsets may be many.
///
/// @param n_values that there are of all rows.
/// @param n_beside that stand, or have room, one row after the other; called `name`.
void check_rows(std::span<const std::int64_t> offsets, std::span<const std::int64_t> rows,
                std::size_t n_values, std::size_t n_beside, const char* name) {
  if (offsets.empty()) throw std::invalid_argument("offsets must not be empty");
  check_below(rows, offsets.size() - 1, 0, "rows");
  for (const std::int64_t row : rows) {
    const auto i = static_cast<std::size_t>(row);
    if (offsets[i] < 0 || offsets[i + 1] < offsets[i] ||
        static_cast<std::size_t>(offsets[i + 1]) > n_values) {
      throw std::invalid_argument("offsets must rise from 0 to " + std::to_string(n_values));
    }
  }
  check_size(n_beside, count_values(offsets, rows), name);
}

template <typename T>
void bind_copy(const SubjectOffsets& offsets, const Rows& rows, const Array<T>& values,
               Array<T>& out) {
  const auto bounds = view(offsets, "offsets"), chosen = view(rows, "rows");
  const auto source = view(values, "values");
  const auto copied = target(out);
  check_rows(bounds, chosen, source.size(), copied.size(), "out");
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  copy_rows(bounds, chosen, source, copied);
}

template <typename T>
void bind_put(const SubjectOffsets& offsets, const Rows& rows, const Array<T>& values,
              Array<T>& out) {
  const auto bounds = view(offsets, "offsets"), chosen = view(rows, "rows");
  const auto source = view(values, "values");
  const auto places = target(out);
  check_rows(bounds, chosen, places.size(), source.size(), "values");
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
