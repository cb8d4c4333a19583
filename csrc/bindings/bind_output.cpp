#include <tuple>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/places.hpp"
#include "core/context_bias.hpp"
#include "core/context_counts.hpp"
#include "core/cross_entropy.hpp"

namespace chronoward::bindings {

namespace {

using Longs = Array<std::int64_t>;
using Ints = Array<std::int32_t>;
using Kinds = Array<std::int8_t>;

ContextRules make_rules(const Kinds& visit_kind, const Ints& companion, std::size_t n_kinds) {
  return {view(visit_kind, "visit_kind"), view(companion, "companion"), n_kinds};
}

std::tuple<Longs, Longs, Ints, Bytes> list_contexts(const ContextRules& rules,
                                                    const Longs& token_id, const Ints& cu_seqlens,
                                                    const Longs& places, const Longs& column) {
  ContextLists lists;
  {
    const auto tokens = view(token_id, "token_id");
    const auto bounds = view(cu_seqlens, "cu_seqlens");
    const auto wanted = view(places, "places");
    const auto columns = view(column, "column");
    const py::gil_scoped_release release;  // the arguments keep every buffer alive
    lists = context_lists(rules, tokens, bounds, wanted, columns);
  }
  return {to_numpy(std::move(lists.kind)), to_numpy(std::move(lists.offsets)),
          to_numpy(std::move(lists.entry)), to_numpy(std::move(lists.next))};
}

std::tuple<Longs, Longs, Longs> precedence(const Longs& offsets, const TokenIds& token_id,
                                           const Ints& candidate, std::size_t n_candidates) {
  Precedence counts;
  {
    const TimelineTokens timelines{view(offsets, "offsets"), view(token_id, "token_id")};
    const auto numbers = view(candidate, "candidate");
    const py::gil_scoped_release release;  // the arguments keep every buffer alive
    counts = count_precedence(timelines, numbers, n_candidates);
  }
  return {to_numpy(std::move(counts.before)), to_numpy(std::move(counts.n)),
          to_numpy(std::move(counts.n_places))};
}

std::tuple<Longs, Longs> contexts(const ContextRules& rules, const Longs& offsets,
                                  const TokenIds& token_id) {
  ContextCounts counts;
  {
    const TimelineTokens timelines{view(offsets, "offsets"), view(token_id, "token_id")};
    const py::gil_scoped_release release;  // the arguments keep every buffer alive
    counts = count_contexts(rules, timelines);
  }
  return {to_numpy(std::move(counts.counted)), to_numpy(std::move(counts.exposed))};
}

void cross_entropy(Floats& logits, const Floats& unseen, const Floats& known, const Longs& aims,
                   const Floats& weight, const Longs& kind, const Longs& offsets, const Ints& entry,
                   Floats& losses, Floats& d_unseen, Floats& d_known, int n_threads) {
  if (unseen.ndim() != 2) throw std::invalid_argument("unseen must have shape (kinds, tokens)");
  const CrossEntropyRows rows{.n_kinds = static_cast<std::size_t>(unseen.shape(0)),
                              .unseen = flat(unseen),
                              .known = flat(known),
                              .target = view(aims, "target"),
                              .weight = view(weight, "weight"),
                              .kind = view(kind, "kind"),
                              .offsets = view(offsets, "offsets"),
                              .entry = view(entry, "entry")};
  const auto values = target(logits);
  const auto terms = target(losses);
  const auto unseen_sum = target(d_unseen);
  const auto known_sum = target(d_known);
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  cross_entropy_rows(values, rows, terms, unseen_sum, known_sum, n_threads);
}

void advance(ContextBuffers& buffers, const Places& places, const TokenIds& token_id,
             const Floats& unseen, const Floats& known, Floats& logits) {
  const auto rows = places_of(places);
  const auto tokens = view(token_id, "token_id");
  const auto base = flat(unseen);
  const auto added = flat(known);
  const auto values = target(logits);
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  buffers.advance(rows, tokens, base, added, values);
}

}  // namespace

void bind_output(py::module_& m) {
  py::class_<ContextRules>(m, "ContextRules",
                           "Which tokens begin a kind of visit, and which announce which.")
      .def(py::init(&make_rules), py::arg("visit_kind").noconvert(),
           py::arg("companion").noconvert(), py::arg("n_kinds"));
  m.def("context_lists", &list_contexts, py::arg("rules"), py::arg("token_id").noconvert(),
        py::arg("cu_seqlens").noconvert(), py::arg("places").noconvert(),
        py::arg("column").noconvert(),
        "Kind of visit, offsets, entries (v: seen, V + v: announced) of each place's context, and "
        "the state of the token after it.");
  m.def("count_precedence", &precedence, py::arg("offsets").noconvert(),
        py::arg("token_id").noconvert(), py::arg("candidate").noconvert(), py::arg("n_candidates"),
        "Timelines in which candidate u came before v, that hold v, and places that hold v.");
  m.def("count_contexts", &contexts, py::arg("rules"), py::arg("offsets").noconvert(),
        py::arg("token_id").noconvert(),
        "Times that each token came next and places where it might have, by state and kind.");
  m.def("cross_entropy", &cross_entropy, py::arg("logits").noconvert(),
        py::arg("unseen").noconvert(), py::arg("known").noconvert(), py::arg("target").noconvert(),
        py::arg("weight").noconvert(), py::arg("kind").noconvert(), py::arg("offsets").noconvert(),
        py::arg("entry").noconvert(), py::arg("losses").noconvert(),
        py::arg("d_unseen").noconvert(), py::arg("d_known").noconvert(), py::arg("n_threads"),
        "Logits (n, V) become their gradient; fills losses, adds to the biases' gradients.");
  py::class_<ContextBuffers>(m, "ContextBuffers", "The context in each buffer of a cache.")
      .def(py::init<ContextRules, std::size_t>(), py::arg("rules"), py::arg("n_buffers"))
      .def("advance", &advance, py::arg("places").noconvert(), py::arg("token_id").noconvert(),
           py::arg("unseen").noconvert(), py::arg("known").noconvert(),
           py::arg("logits").noconvert(),
           "Takes each row's token, then adds the biases of its context to its logits.");
}

}  // namespace chronoward::bindings
