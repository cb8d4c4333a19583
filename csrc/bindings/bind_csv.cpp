#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "core/csv_piece.hpp"

namespace chronoward::bindings {

namespace {

using Codes = Array<std::int32_t>;  // (n,) numbers, -1 for null
using Rows = Array<std::int64_t>;

std::vector<std::string> texts_of(const TextNumbering& numbering) {
  std::vector<std::string> out;
  out.reserve(numbering.size());
  for (std::size_t i = 0; i < numbering.size(); ++i) out.emplace_back(numbering.text(i));
  return out;
}

/// Numbers within a piece as those of the whole source.
Codes renumbered(std::vector<std::int32_t>&& index, const std::vector<std::int32_t>& number) {
  for (std::int32_t& value : index) {
    if (value >= 0) value = number[static_cast<std::size_t>(value)];
  }
  return to_numpy(std::move(index));
}

/// Rows of a block that were read; each column is taken once.
class Piece {
 public:
  explicit Piece(CsvPiece&& piece) : piece_(std::move(piece)) {}

  std::int64_t n_rows() const { return piece_.n_rows; }
  std::size_t n_bytes() const { return piece_.n_bytes; }
  bool is_ascii() const { return piece_.is_ascii; }

  Rows integers(std::size_t i) { return to_numpy(std::move(column(i).integers)); }
  Array<double> numbers(std::size_t i) { return to_numpy(std::move(column(i).numbers)); }

  Codes ids(std::size_t i, IdNumbering& numbering) {
    CsvColumn& mine = column(i);
    std::vector<std::int32_t> number;
    for (const std::int64_t value : mine.ids.values()) number.push_back(numbering.of(value));
    return renumbered(std::move(mine.index), number);
  }

  Codes texts(std::size_t i, TextNumbering& numbering, bool is_value) {
    CsvColumn& mine = column(i);
    std::vector<std::int32_t> number;
    for (std::size_t k = 0; k < mine.texts.size(); ++k) {
      const std::string_view text = mine.texts.text(k);
      number.push_back(is_value ? numbering.of_value(text) : numbering.of(text));
    }
    return renumbered(std::move(mine.index), number);
  }

  std::size_t n_unread(std::size_t i) { return column(i).unread_row.size(); }

  std::tuple<Rows, Codes, std::vector<std::string>> unread(std::size_t i) {
    CsvColumn& mine = column(i);
    return {to_numpy(std::vector(mine.unread_row)), to_numpy(std::vector(mine.unread)),
            texts_of(mine.unread_texts)};
  }

 private:
  CsvColumn& column(std::size_t i) {
    if (i >= piece_.columns.size()) throw std::out_of_range("there is no such column");
    return piece_.columns[i];
  }

  CsvPiece piece_;
};

CsvLayout layout_of(const std::string& delimiter, const Bytes& kinds, bool ends_with_return,
                    std::size_t max_line_bytes) {
  if (delimiter.size() != 1) throw std::invalid_argument("a delimiter is one character");
  CsvLayout layout{.delimiter = delimiter[0],
                   .kinds = {},
                   .ends_with_return = ends_with_return,
                   .max_line_bytes = max_line_bytes};
  for (const std::uint8_t kind : view(kinds, "kinds")) {
    if (kind >= static_cast<std::uint8_t>(CsvKind::kCount)) {
      throw std::invalid_argument("no such kind of column");
    }
    layout.kinds.push_back(static_cast<CsvKind>(kind));
  }
  return layout;
}

void bind_numberings(py::module_& m) {
  py::class_<IdNumbering>(m, "IdNumbering", "Distinct integers in the order in which they came.")
      .def(py::init<>())
      .def("of", &IdNumbering::of, py::arg("value"), "The number of a value, a new one if it is.")
      .def(
          "of_all",
          [](IdNumbering& self, const Rows& values, std::int64_t null) {
            std::vector<std::int32_t> out;
            for (const std::int64_t value : view(values, "values")) {
              out.push_back(value == null ? -1 : self.of(value));
            }
            return to_numpy(std::move(out));
          },
          py::arg("values").noconvert(), py::kw_only(), py::arg("null"),
          "The numbers of values, -1 for the one that stands for null.")
      .def(
          "values", [](const IdNumbering& self) { return self.values(); }, "All of them, in order.")
      .def("__len__", [](const IdNumbering& self) { return self.values().size(); });
  py::class_<TextNumbering>(m, "TextNumbering", "Distinct texts in the order in which they came.")
      .def(py::init<>())
      .def(
          "of_all",
          [](TextNumbering& self, const std::vector<std::string_view>& texts, bool is_value) {
            std::vector<std::int32_t> out;
            for (const std::string_view text : texts) {
              out.push_back(text.empty() ? -1 : is_value ? self.of_value(text) : self.of(text));
            }
            return to_numpy(std::move(out));
          },
          py::arg("texts"), py::kw_only(), py::arg("is_value") = false,
          "The numbers of texts, -1 for empty ones; of long values a digest is kept.")
      .def("texts", &texts_of, "All of them, in order.")
      .def("__len__", &TextNumbering::size);
}

}  // namespace

void bind_csv(py::module_& m) {
  bind_numberings(m);
  py::class_<Piece>(m, "CsvPiece", "Rows of a block of delimited text; a column is taken once.")
      .def_property_readonly("n_rows", &Piece::n_rows)
      .def_property_readonly("n_bytes", &Piece::n_bytes, "How much of the block they are.")
      .def_property_readonly("is_ascii", &Piece::is_ascii,
                             "Whether no byte read is above 127: then it is UTF-8 as well.")
      .def("integers", &Piece::integers, py::arg("column"), "Integers or times, -2^63 for null.")
      .def("numbers", &Piece::numbers, py::arg("column"), "NaN for null.")
      .def("ids", &Piece::ids, py::arg("column"), py::arg("numbering"), "Numbers, -1 for null.")
      .def("texts", &Piece::texts, py::arg("column"), py::arg("numbering"), py::kw_only(),
           py::arg("is_value") = false, "Numbers, -1 for null; of long values a digest is kept.")
      .def("n_unread", &Piece::n_unread, py::arg("column"),
           "How many fields are not written plainly.")
      .def("unread", &Piece::unread, py::arg("column"),
           "Fields that are not written plainly: rows, places among distinct texts, those texts.");
  m.def(
      "read_csv",
      [](const py::buffer& block, const std::string& delimiter, const Bytes& kinds,
         bool ends_with_return, std::size_t max_line_bytes, std::size_t n_bytes, bool is_last) {
        const CsvLayout layout = layout_of(delimiter, kinds, ends_with_return, max_line_bytes);
        const py::buffer_info bytes = block.request();
        if (bytes.ndim != 1 || bytes.itemsize != 1 || bytes.strides[0] != 1) {
          throw std::invalid_argument("a block is bytes");
        }
        const auto n = std::min(static_cast<std::size_t>(bytes.size), n_bytes);
        const std::string_view text(static_cast<const char*>(bytes.ptr), n);
        py::gil_scoped_release release;  // `bytes` holds the block
        return std::make_unique<Piece>(read_csv(text, layout, is_last));
      },
      py::arg("block"), py::kw_only(), py::arg("delimiter"), py::arg("kinds").noconvert(),
      py::arg("ends_with_return"), py::arg("max_line_bytes"), py::arg("n_bytes"),
      py::arg("is_last"), "Whole rows of the first bytes of a block of delimited text.");
}

}  // namespace chronoward::bindings
