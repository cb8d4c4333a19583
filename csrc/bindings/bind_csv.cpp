#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <string>
#include <string_view>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "core/csv_piece.hpp"

namespace chronoward::bindings {

namespace {

py::dict to_dict(CsvColumn&& column) {
  py::dict out;
  out["integers"] = to_numpy(std::move(column.integers));
  out["numbers"] = to_numpy(std::move(column.numbers));
  out["index"] = to_numpy(std::move(column.index));
  out["ids"] = to_numpy(std::move(column.ids));
  out["texts"] = py::cast(std::move(column.texts));
  out["unread_row"] = to_numpy(std::move(column.unread_row));
  out["unread"] = to_numpy(std::move(column.unread));
  out["unread_texts"] = py::cast(std::move(column.unread_texts));
  return out;
}

}  // namespace

void bind_csv(py::module_& m) {
  m.def(
      "read_csv",
      [](const py::bytes& block, const std::string& delimiter, const Bytes& kinds,
         bool ends_with_return, std::size_t max_line_bytes, bool is_last) {
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
        const std::string_view text = block;
        CsvPiece piece;
        {
          py::gil_scoped_release release;  // the caller holds the block
          piece = read_csv(text, layout, is_last);
        }
        py::typing::List<py::dict> columns;
        for (CsvColumn& column : piece.columns) columns.append(to_dict(std::move(column)));
        return py::make_tuple(columns, piece.n_rows, piece.n_bytes);
      },
      py::arg("block"), py::kw_only(), py::arg("delimiter"), py::arg("kinds").noconvert(),
      py::arg("ends_with_return"), py::arg("max_line_bytes"), py::arg("is_last"),
      "Whole rows of a block of delimited text: columns by place, the number of rows, and of bytes "
      "they take.");
}

}  // namespace chronoward::bindings
