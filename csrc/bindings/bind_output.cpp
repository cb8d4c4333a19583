#include <tuple>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/places.hpp"
#include "core/cross_entropy.hpp"
#include "core/repeat.hpp"

namespace chronoward::bindings {

namespace {

using Longs = Array<std::int64_t>;
using Ints = Array<std::int32_t>;

std::tuple<Longs, Ints> list_seen(const Longs& token_id, const Ints& cu_seqlens,
                                  const Longs& places, std::size_t vocab_size) {
  SeenLists lists;
  {
    const auto tokens = view(token_id, "token_id");
    const auto bounds = view(cu_seqlens, "cu_seqlens");
    const auto wanted = view(places, "places");
    const py::gil_scoped_release release;  // the arguments keep every buffer alive
    lists = seen_lists(tokens, bounds, wanted, vocab_size);
  }
  return {to_numpy(std::move(lists.offsets)), to_numpy(std::move(lists.token_id))};
}

void cross_entropy(Floats& logits, const Floats& bias, const Longs& aims, const Floats& weight,
                   const Floats& repeat_bias, const Longs& offsets, const Ints& seen,
                   Floats& losses, Floats& d_bias, Floats& d_repeat_bias, int n_threads) {
  const CrossEntropyRows rows{.bias = view(bias, "bias"),
                              .target = view(aims, "target"),
                              .weight = view(weight, "weight"),
                              .repeat_bias = view(repeat_bias, "repeat_bias"),
                              .offsets = view(offsets, "offsets"),
                              .seen = view(seen, "seen")};
  const auto values = target(logits);
  const auto terms = target(losses);
  const auto bias_sum = target(d_bias);
  const auto repeat_sum = target(d_repeat_bias);
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  cross_entropy_rows(values, rows, terms, bias_sum, repeat_sum, n_threads);
}

void advance_seen(SeenTokens& seen, const Places& places, const TokenIds& token_id,
                  const Floats& bias, Floats& logits) {
  const auto rows = places_of(places);
  const auto tokens = view(token_id, "token_id");
  const auto added = view(bias, "bias");
  const auto values = target(logits);
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  seen.advance(rows, tokens, added, values);
}

}  // namespace

void bind_output(py::module_& m) {
  m.def("seen_lists", &list_seen, py::arg("token_id").noconvert(),
        py::arg("cu_seqlens").noconvert(), py::arg("places").noconvert(), py::arg("vocab_size"),
        "Offsets and distinct tokens of each place's segment up to and including the place.");
  m.def("cross_entropy", &cross_entropy, py::arg("logits").noconvert(), py::arg("bias").noconvert(),
        py::arg("target").noconvert(), py::arg("weight").noconvert(),
        py::arg("repeat_bias").noconvert(), py::arg("offsets").noconvert(),
        py::arg("seen").noconvert(), py::arg("losses").noconvert(), py::arg("d_bias").noconvert(),
        py::arg("d_repeat_bias").noconvert(), py::arg("n_threads"),
        "Logits (n, V) become their gradient; fills losses, adds to the biases' gradients.");
  py::class_<SeenTokens>(m, "SeenTokens", "Which tokens each buffer of a key-value cache holds.")
      .def(py::init<std::size_t, std::size_t>(), py::arg("n_buffers"), py::arg("vocab_size"))
      .def("advance", &advance_seen, py::arg("places").noconvert(), py::arg("token_id").noconvert(),
           py::arg("bias").noconvert(), py::arg("logits").noconvert(),
           "Takes each row's token, then adds the bias of its context's tokens to its logits.");
}

}  // namespace chronoward::bindings
