#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "core/philox.hpp"
#include "core/sample.hpp"

namespace chronoward::bindings {

namespace {

template <typename T>
std::vector<T> copied(const Array<T>& array) {
  return std::vector<T>(array.data(), array.data() + array.size());
}

template <typename T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

SamplerTables tables_of(const py::object& grammar) {
  const auto bytes = [&](const char* name) { return copied(grammar.attr(name).cast<Bytes>()); };
  const auto masks = [&](const char* name) {
    return copied(grammar.attr(name).cast<Array<std::uint32_t>>());
  };
  SamplerTables tables;
  tables.token_class = bytes("token_class");
  const auto next = grammar.attr("next_state").cast<Array<std::int8_t>>();
  if (next.ndim() != 2) throw std::invalid_argument("next_state must have shape (states, classes)");
  tables.n_states = static_cast<int>(next.shape(0));
  tables.n_classes = static_cast<int>(next.shape(1));
  tables.next_state = copied(next);
  tables.state_mask = masks("state_mask");
  tables.sex_mask = masks("sex_mask");
  tables.token_sex = bytes("token_sex");
  tables.duration_rule = bytes("duration_rule");
  tables.duration_q = copied(grammar.attr("duration_q").cast<Array<std::int32_t>>());
  for (const bool moves : copied(grammar.attr("is_moving").cast<Array<bool>>())) {
    tables.is_moving.push_back(moves ? 1 : 0);
  }
  tables.start_state = grammar.attr("start_state").cast<int>();
  tables.max_clock_min = grammar.attr("max_clock_min").cast<int>();
  tables.codes_ascend = grammar.attr("codes_ascend").cast<bool>();
  return tables;
}

Sampler make_sampler(const py::object& grammar, std::size_t n_slots,
                     const std::vector<std::vector<std::int32_t>>& outcome_sets, double temperature,
                     std::int32_t top_k, double top_p, double min_p, bool forbid_end,
                     std::int32_t max_new_tokens) {
  SamplingRule rule{temperature, top_k, top_p, min_p, forbid_end, max_new_tokens, outcome_sets};
  return Sampler(tables_of(grammar), std::move(rule), n_slots);
}

void load_slot(Sampler& sampler, std::size_t slot, const TokenIds& prompt, std::uint64_t key,
               std::int64_t subject_id, std::int64_t prediction_time_us, std::uint32_t rollout,
               std::int32_t clock_min, std::int32_t prediction_min, std::int32_t deadline_min,
               std::int32_t masked_set) {
  SlotStart start{key,
                  hash64(subject_id, prediction_time_us),
                  rollout,
                  clock_min,
                  prediction_min,
                  deadline_min,
                  masked_set};
  sampler.load(slot, view(prompt, "prompt"), start);
}

std::tuple<TokenIds, TimesMin, Bytes> step_rows(Sampler& sampler, const Floats& logits,
                                                const Array<std::int32_t>& slots) {
  const auto rows = view(slots, "slots");
  TokenIds token_id(static_cast<py::ssize_t>(rows.size()));
  TimesMin time_min(static_cast<py::ssize_t>(rows.size()));
  Bytes status(static_cast<py::ssize_t>(rows.size()));
  const auto tokens = target(token_id);
  const auto times = target(time_min);
  const auto ends = target(status);
  {
    py::gil_scoped_release
        release;  // the caller's arguments and the three results hold all buffers
    sampler.step(flat(logits), rows, tokens, times, ends);
  }
  return {token_id, time_min, status};
}

py::typing::Dict<py::str, py::array> slot_arrays(const Sampler& sampler, std::size_t index) {
  const Slot& slot = sampler.slot(index);
  py::typing::Dict<py::str, py::array> arrays;
  arrays["token_id"] = to_array(slot.token_id);
  arrays["time_min"] = to_array(slot.time_min);
  arrays["log_p"] = to_array(slot.log_p);
  arrays["value_u"] = to_array(slot.value_u);
  arrays["step_min"] = to_array(slot.step_min);
  arrays["outcome_p"] = to_array(slot.outcome_p)
                            .reshape({static_cast<py::ssize_t>(slot.step_min.size()),
                                      static_cast<py::ssize_t>(sampler.n_sets())});
  return arrays;
}

std::int64_t walk_tokens(const Sampler& sampler, const TokenIds& tokens) {
  GrammarPlace place;
  return sampler.walk(view(tokens, "tokens"), place);
}

}  // namespace

void bind_engine(py::module_& m) {
  py::class_<Sampler>(m, "Sampler",
                      "Grammar, clock, silence and draws of all slots, a call a step.")
      .def(py::init(&make_sampler), py::arg("grammar"), py::arg("n_slots"), py::kw_only(),
           py::arg("outcome_sets"), py::arg("temperature"), py::arg("top_k"), py::arg("top_p"),
           py::arg("min_p"), py::arg("forbid_end"), py::arg("max_new_tokens"))
      .def("load", &load_slot, py::arg("slot"), py::arg("prompt").noconvert(), py::kw_only(),
           py::arg("key"), py::arg("subject_id"), py::arg("prediction_time_us"), py::arg("rollout"),
           py::arg("clock_min"), py::arg("prediction_min"), py::arg("deadline_min"),
           py::arg("masked_set"), "Starts a rollout after `prompt`.")
      .def("step", &step_rows, py::arg("logits").noconvert(), py::arg("slots").noconvert(),
           "Draws a token a row: token ids, clocks and statuses.")
      .def("arrays", &slot_arrays, py::arg("slot"), "Copies of what a slot has drawn so far.")
      .def("walk", &walk_tokens, py::arg("tokens").noconvert(),
           "-1, or the position at which the grammar refuses the tokens.");
}

}  // namespace chronoward::bindings
