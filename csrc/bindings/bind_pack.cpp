#include <pybind11/typing.h>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/split_arrays.hpp"
#include "core/pack.hpp"
#include "core/rows.hpp"

namespace chronoward::bindings {

namespace {

using Lengths = Array<std::int32_t>;    // (n_windows,)
using Positions = Array<std::int64_t>;  // (n,) indices and offsets

using Ints = py::array_t<std::int32_t>;
using Longs = py::array_t<std::int64_t>;
using Octets = py::array_t<std::uint8_t>;
using WindowColumns = py::typing::Tuple<Longs, Longs, Ints, Ints, Longs, Longs>;
using RowColumns = py::typing::Tuple<Longs, Longs>;
using FilledRows = py::typing::Tuple<Ints, Ints, Octets, Octets, Ints, Longs, Longs, Ints>;

WindowColumns bind_cut(const SubjectOffsets& offsets, const TokenIds& token_id,
                       const Bytes& token_class, std::int32_t row_tokens, std::int32_t n_prompt) {
  const TimelineSpans timelines{view(offsets, "offsets"), view(token_id, "token_id")};
  const auto classes = view(token_class, "token_class");
  check_offsets(timelines.offsets, timelines.token_id.size(), "offsets");
  Windows windows;
  {
    py::gil_scoped_release release;  // the caller's arguments hold the buffers
    windows = cut_windows(timelines, classes, row_tokens, n_prompt);
  }
  return py::make_tuple(to_numpy(std::move(windows.timeline)), to_numpy(std::move(windows.begin)),
                        to_numpy(std::move(windows.length)), to_numpy(std::move(windows.n_lead)),
                        to_numpy(std::move(windows.open_visit)),
                        to_numpy(std::move(windows.open_detail)));
}

RowColumns bind_rows(const Lengths& lengths, const Positions& order, std::int32_t row_tokens,
                     std::int32_t max_segments, std::size_t block) {
  const auto length_view = view(lengths, "lengths");
  const auto order_view = view(order, "order");
  Rows rows;
  {
    py::gil_scoped_release release;  // the caller's arguments hold the buffers
    rows = pack_rows(length_view, order_view, row_tokens, max_segments, block);
  }
  return py::make_tuple(to_numpy(std::move(rows.offsets)), to_numpy(std::move(rows.window)));
}

/// All windows of a split, kept alive for as long as rows are made of them.
class WindowArrays {
 public:
  WindowArrays(Positions timeline, Positions begin, Lengths length, Lengths n_lead,
               Positions open_visit, Positions open_detail)
      : timeline_(std::move(timeline)),
        begin_(std::move(begin)),
        length_(std::move(length)),
        n_lead_(std::move(n_lead)),
        open_visit_(std::move(open_visit)),
        open_detail_(std::move(open_detail)) {
    const WindowSpans s = spans();
    const std::size_t n = s.timeline.size();
    if (s.begin.size() != n || s.length.size() != n || s.n_lead.size() != n ||
        s.open_visit.size() != n || s.open_detail.size() != n) {
      throw std::invalid_argument("the windows' arrays must have one length");
    }
  }

  WindowSpans spans() const {
    return {view(timeline_, "timeline"),     view(begin_, "begin"),
            view(length_, "length"),         view(n_lead_, "n_lead"),
            view(open_visit_, "open_visit"), view(open_detail_, "open_detail")};
  }

 private:
  Positions timeline_;
  Positions begin_;
  Lengths length_;
  Lengths n_lead_;
  Positions open_visit_;
  Positions open_detail_;
};

FilledRows bind_fill(const SplitArrays& split, const WindowArrays& windows, const Positions& window,
                     const Positions& row_offsets, const Array<std::int32_t>& prompt,
                     const Bytes& token_class, std::int32_t row_tokens, std::int32_t max_segments) {
  if (row_tokens < 1 || max_segments < 1) {
    throw std::invalid_argument("row_tokens and max_segments must be positive");
  }
  if (prompt.ndim() != 2) throw std::invalid_argument("prompt must have two dimensions");
  const SplitSpans split_spans = split.spans();
  const WindowSpans window_spans = windows.spans();
  const SegmentSpans segments{view(window, "window"), view(row_offsets, "row_offsets"),
                              flat(prompt), static_cast<std::size_t>(prompt.shape(1))};
  check_offsets(segments.row_offsets, segments.window.size(), "row_offsets");
  const auto classes = view(token_class, "token_class");
  const auto n_rows = static_cast<py::ssize_t>(row_offsets.size()) - 1;
  const py::ssize_t tokens = row_tokens;
  const py::ssize_t places = max_segments;
  Array<std::int32_t> token_id({n_rows, tokens});
  Array<std::int32_t> time_min({n_rows, tokens});
  Bytes n_prior({n_rows, tokens});
  Bytes loss_mask({n_rows, tokens});
  Array<std::int32_t> cu_seqlens({n_rows, places + 1});
  Positions timeline({n_rows, places});
  Positions begin({n_rows, places});
  Lengths n_lead({n_rows, places});
  const RowsOut out{target(token_id),   target(time_min), target(n_prior), target(loss_mask),
                    target(cu_seqlens), target(timeline), target(begin),   target(n_lead)};
  {
    py::gil_scoped_release release;  // the caller's arguments and the outputs hold the buffers
    fill_rows(split_spans, window_spans, segments, classes, row_tokens, max_segments, out);
  }
  return py::make_tuple(token_id, time_min, n_prior, loss_mask, cu_seqlens, timeline, begin,
                        n_lead);
}

}  // namespace

void bind_pack(py::module_& m) {
  m.def("cut_windows", &bind_cut, py::arg("offsets").noconvert(), py::arg("token_id").noconvert(),
        py::arg("token_class").noconvert(), py::arg("row_tokens"), py::arg("n_prompt"),
        "Windows (timeline, begin, length, n_lead, open_visit, open_detail) of a shard.");
  m.def("pack_rows", &bind_rows, py::arg("lengths").noconvert(), py::arg("order").noconvert(),
        py::arg("row_tokens"), py::arg("max_segments"), py::arg("block"),
        "Best fit in order, inside blocks: row offsets and the windows of each row.");
  py::class_<ShardArrays>(m, "ShardArrays", "A shard's arrays, as batches are made of them.")
      .def(
          py::init<SubjectOffsets, TokenIds, TimesMin, Bytes, SubjectOffsets, TimesMin, TimesMin>(),
          py::arg("offsets").noconvert(), py::arg("token_id").noconvert(),
          py::arg("time_min").noconvert(), py::arg("n_prior").noconvert(),
          py::arg("obs_offsets").noconvert(), py::arg("obs_start_min").noconvert(),
          py::arg("obs_end_min").noconvert());
  py::class_<SplitArrays>(m, "SplitArrays", "The shards of a split, in order.")
      .def(py::init<const py::typing::List<ShardArrays>&>(), py::arg("shards"));
  py::class_<WindowArrays>(m, "WindowArrays", "All windows of a split.")
      .def(py::init<Positions, Positions, Lengths, Lengths, Positions, Positions>(),
           py::arg("timeline").noconvert(), py::arg("begin").noconvert(),
           py::arg("length").noconvert(), py::arg("n_lead").noconvert(),
           py::arg("open_visit").noconvert(), py::arg("open_detail").noconvert());
  m.def("fill_rows", &bind_fill, py::arg("split"), py::arg("windows"),
        py::arg("window").noconvert(), py::arg("row_offsets").noconvert(),
        py::arg("prompt").noconvert(), py::arg("token_class").noconvert(), py::arg("row_tokens"),
        py::arg("max_segments"),
        "Rows (token_id, time_min, n_prior, loss_mask, cu_seqlens, timeline, begin, n_lead).");
}

}  // namespace chronoward::bindings
