#include <algorithm>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/split_arrays.hpp"
#include "core/padded.hpp"

namespace chronoward::bindings {

namespace {

using Positions = Array<std::int64_t>;
using Ints = Array<std::int32_t>;
using PaddedRows = py::typing::Tuple<Positions, Floats, Bytes, Floats, Bytes>;
using Heads = py::typing::Tuple<Ints, Ints>;

/// What each token's number is, kept alive for as long as batches are made with it.
class TokenValueArrays {
 public:
  TokenValueArrays(Floats value, Ints bin, Ints first_bin, Ints n_bins, Floats bin_value)
      : value_(std::move(value)),
        bin_(std::move(bin)),
        first_bin_(std::move(first_bin)),
        n_bins_(std::move(n_bins)),
        bin_value_(std::move(bin_value)) {
    const TokenValues v = spans();
    const std::size_t n = v.value.size();
    bool good = v.bin.size() == n && v.first_bin.size() == n && v.n_bins.size() == n;
    for (std::size_t i = 0; good && i < n; ++i) {
      good = v.n_bins[i] == 0 ||
             (v.n_bins[i] > 0 && v.first_bin[i] >= 0 &&
              static_cast<std::size_t>(v.first_bin[i] + v.n_bins[i]) <= v.bin_value.size());
    }
    if (!good) throw std::invalid_argument("the tokens' values do not fit their bins");
  }

  TokenValues spans() const {
    return {view(value_, "value"), view(bin_, "bin"), view(first_bin_, "first_bin"),
            view(n_bins_, "n_bins"), view(bin_value_, "bin_value")};
  }

 private:
  Floats value_;
  Ints bin_;
  Ints first_bin_;
  Ints n_bins_;
  Floats bin_value_;
};

void check_same(std::size_t n, std::size_t m) {
  if (n != m) throw std::invalid_argument("one entry a row in each array");
}

PaddedRows bind_fill_padded(const SplitArrays& split, const Positions& timeline,
                            const Positions& begin, const Positions& length,
                            const Ints& static_tokens, const TokenValueArrays& values,
                            py::ssize_t width, bool left) {
  if (static_tokens.ndim() != 2) {
    throw std::invalid_argument("static_tokens must have two dimensions");
  }
  if (width < 0) throw std::invalid_argument("width must not be negative");
  const SplitSpans split_spans = split.spans();
  const SliceSpans slices{view(timeline, "timeline"), view(begin, "begin"), view(length, "length"),
                          flat(static_tokens), static_cast<std::size_t>(static_tokens.shape(1))};
  const std::size_t n = slices.timeline.size();
  check_same(slices.begin.size(), n);
  check_same(slices.length.size(), n);
  check_same(static_cast<std::size_t>(static_tokens.shape(0)), n);
  const TokenValues value_spans = values.spans();
  const auto rows = static_cast<py::ssize_t>(n);
  Positions code({rows, width});
  Floats value({rows, width});
  Bytes has_value({rows, width});
  Floats delta_days({rows, width});
  Bytes is_static({rows, width});
  const PaddedOut out{target(code), target(value), target(has_value), target(delta_days),
                      target(is_static)};
  {
    py::gil_scoped_release release;  // the caller's arguments and the outputs hold the buffers
    fill_padded(split_spans, slices, value_spans, static_cast<std::size_t>(width), left, out);
  }
  return py::make_tuple(code, value, has_value, delta_days, is_static);
}

Positions bind_count_known(const SplitArrays& split, const Positions& timeline,
                           const Positions& until_min, std::int32_t end_id) {
  const SplitSpans split_spans = split.spans();
  const auto timelines = view(timeline, "timeline");
  const auto until = view(until_min, "until_min");
  check_same(until.size(), timelines.size());
  Positions known(static_cast<py::ssize_t>(timelines.size()));
  const auto out = target(known);
  {
    py::gil_scoped_release release;  // the caller's arguments and `known` hold the buffers
    count_known(split_spans, timelines, until, end_id, out);
  }
  return known;
}

Heads bind_read_heads(const SplitArrays& split, const Positions& timeline,
                      const Positions& position, py::ssize_t n_prompt) {
  if (n_prompt < 0) throw std::invalid_argument("n_prompt must not be negative");
  const SplitSpans split_spans = split.spans();
  const auto timelines = view(timeline, "timeline");
  const auto positions = view(position, "position");
  check_same(positions.size(), timelines.size());
  const auto n = static_cast<py::ssize_t>(timelines.size());
  Ints prompt({n, n_prompt});
  Ints clock(n);
  const auto prompt_out = target(prompt);
  const auto clock_out = target(clock);
  {
    py::gil_scoped_release release;  // the caller's arguments and the outputs hold the buffers
    read_heads(split_spans, timelines, positions, static_cast<std::size_t>(n_prompt), prompt_out,
               clock_out);
  }
  return py::make_tuple(prompt, clock);
}

}  // namespace

void bind_padded(py::module_& m) {
  py::class_<TokenValueArrays>(m, "TokenValueArrays", "The number that each token stands for.")
      .def(py::init<Floats, Ints, Ints, Ints, Floats>(), py::arg("value").noconvert(),
           py::arg("bin").noconvert(), py::arg("first_bin").noconvert(),
           py::arg("n_bins").noconvert(), py::arg("bin_value").noconvert());
  m.def("fill_padded", &bind_fill_padded, py::arg("split"), py::arg("timeline").noconvert(),
        py::arg("begin").noconvert(), py::arg("length").noconvert(),
        py::arg("static_tokens").noconvert(), py::arg("values"), py::arg("width"), py::arg("left"),
        "Padded rows (code, value, has_value, delta_days, is_static) of parts of timelines.");
  m.def("count_known", &bind_count_known, py::arg("split"), py::arg("timeline").noconvert(),
        py::arg("until_min").noconvert(), py::arg("end_id"),
        "Tokens of each timeline whose clock is at most a minute, its `end` not counted.");
  m.def("read_heads", &bind_read_heads, py::arg("split"), py::arg("timeline").noconvert(),
        py::arg("position").noconvert(), py::arg("n_prompt"),
        "Each timeline's first tokens, and its clock at a position.");
}

}  // namespace chronoward::bindings
