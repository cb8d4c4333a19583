#include <pybind11/typing.h>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
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
using FilledRows = py::typing::Tuple<Ints, Ints, Octets, Octets, Ints>;

template <typename T>
std::span<T> mutable_view(Array<T>& array) {
  return {array.mutable_data(), static_cast<std::size_t>(array.size())};
}

void check_offsets(std::span<const std::int64_t> offsets, std::size_t n_values, const char* name) {
  bool good = !offsets.empty() && offsets.front() == 0 &&
              static_cast<std::size_t>(offsets.back()) == n_values;
  for (std::size_t i = 1; good && i < offsets.size(); ++i) good = offsets[i - 1] <= offsets[i];
  if (!good) {
    throw std::invalid_argument(std::string(name) + " must rise from 0 to " +
                                std::to_string(n_values));
  }
}

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

/// A shard's arrays, kept alive for as long as rows are made of them.
class ShardArrays {
 public:
  ShardArrays(TokenIds token_id, TimesMin time_min, Bytes n_prior, TimesMin obs_start_min,
              TimesMin obs_end_min)
      : token_id_(std::move(token_id)),
        time_min_(std::move(time_min)),
        n_prior_(std::move(n_prior)),
        obs_start_min_(std::move(obs_start_min)),
        obs_end_min_(std::move(obs_end_min)) {
    const ShardSpans s = spans();
    if (s.time_min.size() != s.token_id.size() || s.n_prior.size() != s.token_id.size() ||
        s.obs_start_min.size() != s.obs_end_min.size()) {
      throw std::invalid_argument("a shard's token arrays must have one length");
    }
  }

  ShardSpans spans() const {
    return {view(token_id_, "token_id"), view(time_min_, "time_min"), view(n_prior_, "n_prior"),
            view(obs_start_min_, "obs_start_min"), view(obs_end_min_, "obs_end_min")};
  }

 private:
  TokenIds token_id_;
  TimesMin time_min_;
  Bytes n_prior_;
  TimesMin obs_start_min_;
  TimesMin obs_end_min_;
};

/// `positions` rows: shard, begin, open_visit, open_detail, period_begin, period_end.
FilledRows bind_fill(const py::typing::List<ShardArrays>& shards, const Positions& positions,
                     const Lengths& length, const Lengths& n_lead,
                     const Array<std::int32_t>& prompt, const Positions& row_offsets,
                     const Bytes& token_class, std::int32_t row_tokens, std::int32_t max_segments) {
  std::vector<ShardSpans> spans;
  for (const py::handle& shard : shards) spans.push_back(shard.cast<const ShardArrays&>().spans());
  const auto n = static_cast<std::size_t>(length.size());
  const auto n_rows = static_cast<py::ssize_t>(row_offsets.size()) - 1;
  if (positions.ndim() != 2 || positions.shape(0) != 6 || prompt.ndim() != 2 ||
      static_cast<std::size_t>(positions.shape(1)) != n ||
      static_cast<std::size_t>(prompt.shape(0)) != n ||
      static_cast<std::size_t>(n_lead.size()) != n) {
    throw std::invalid_argument("the segments' arrays must describe the same segments");
  }
  const auto column = [&](std::size_t i) {
    return std::span<const std::int64_t>(positions.data() + i * n, n);
  };
  const SegmentSpans segments{column(0),
                              column(1),
                              view(length, "length"),
                              view(n_lead, "n_lead"),
                              column(2),
                              column(3),
                              column(4),
                              column(5),
                              {prompt.data(), static_cast<std::size_t>(prompt.size())}};
  const auto rows = view(row_offsets, "row_offsets");
  check_offsets(rows, n, "row_offsets");
  const auto classes = view(token_class, "token_class");
  if (row_tokens < 1 || max_segments < 1) {
    throw std::invalid_argument("row_tokens and max_segments must be positive");
  }
  Array<std::int32_t> token_id({n_rows, py::ssize_t{row_tokens}});
  Array<std::int32_t> time_min({n_rows, py::ssize_t{row_tokens}});
  Bytes n_prior({n_rows, py::ssize_t{row_tokens}});
  Bytes loss_mask({n_rows, py::ssize_t{row_tokens}});
  Array<std::int32_t> cu_seqlens({n_rows, py::ssize_t{max_segments} + 1});
  const RowsOut out{mutable_view(token_id), mutable_view(time_min), mutable_view(n_prior),
                    mutable_view(loss_mask), mutable_view(cu_seqlens)};
  {
    py::gil_scoped_release release;  // the caller's arguments and the outputs hold the buffers
    fill_rows(spans, segments, rows, classes, row_tokens, max_segments, out);
  }
  return py::make_tuple(token_id, time_min, n_prior, loss_mask, cu_seqlens);
}

}  // namespace

void bind_pack(py::module_& m) {
  m.def("cut_windows", &bind_cut, py::arg("offsets").noconvert(), py::arg("token_id").noconvert(),
        py::arg("token_class").noconvert(), py::arg("row_tokens"), py::arg("n_prompt"),
        "Windows (timeline, begin, length, n_lead, open_visit, open_detail) of a shard.");
  m.def("pack_rows", &bind_rows, py::arg("lengths").noconvert(), py::arg("order").noconvert(),
        py::arg("row_tokens"), py::arg("max_segments"), py::arg("block"),
        "Best fit in order, inside blocks: row offsets and the windows of each row.");
  py::class_<ShardArrays>(m, "ShardArrays", "A shard's arrays, as rows are made of them.")
      .def(py::init<TokenIds, TimesMin, Bytes, TimesMin, TimesMin>(),
           py::arg("token_id").noconvert(), py::arg("time_min").noconvert(),
           py::arg("n_prior").noconvert(), py::arg("obs_start_min").noconvert(),
           py::arg("obs_end_min").noconvert());
  m.def("fill_rows", &bind_fill, py::arg("shards"), py::arg("positions").noconvert(),
        py::arg("length").noconvert(), py::arg("n_lead").noconvert(), py::arg("prompt").noconvert(),
        py::arg("row_offsets").noconvert(), py::arg("token_class").noconvert(),
        py::arg("row_tokens"), py::arg("max_segments"),
        "Rows (token_id, time_min, n_prior, loss_mask, cu_seqlens) of segments.");
}

}  // namespace chronoward::bindings
