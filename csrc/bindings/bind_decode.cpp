#include <pybind11/stl.h>

#include <array>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/places.hpp"
#include "core/decode_model.hpp"
#include "core/decode_steps.hpp"

namespace chronoward::bindings {

namespace {

TimeBias bias_named(const std::string& name) {
  if (name == "log") return TimeBias::log;
  if (name == "linear") return TimeBias::linear;
  if (name == "none") return TimeBias::none;
  throw std::invalid_argument("bias must be log, linear or none");
}

NumberType type_named(const std::string& name) {
  if (name == "float32") return NumberType::f32;
  if (name == "bfloat16") return NumberType::bf16;
  throw std::invalid_argument("dtype must be float32 or bfloat16");
}

NumberType weights_named(const std::string& name) {
  return name == "int8" ? NumberType::i8 : type_named(name);
}

constexpr const char* kLevels[] = {"x86-64", "x86-64-v3", "x86-64-v4", "dot", "amx"};

std::string level_name() { return kLevels[static_cast<std::size_t>(decode_level())]; }

void use_level(const std::string& name) {
  for (std::size_t i = 0; i < std::size(kLevels); ++i) {
    if (name == kLevels[i]) return use_decode_level(static_cast<DecodeLevel>(i));
  }
  throw std::invalid_argument("no such level: " + name);
}

/// A cache with the attention over it.
class KeyValueCache {
 public:
  KeyValueCache(std::size_t n_buffers, std::size_t n_layers, std::size_t n_heads,
                std::size_t n_kv_heads, std::size_t d_head, std::size_t capacity,
                const std::string& bias, const std::string& dtype)
      : cache_({n_layers, n_heads, n_kv_heads, d_head, bias_named(bias)}, type_named(dtype),
               n_buffers, capacity,
               n_buffers * ((capacity + PagedCache::kPageTokens - 1) / PagedCache::kPageTokens)),
        attention_(cache_) {}

  void write_times(const Places& places, const TimesMin& time_min) {
    const auto rows = places_of(places);
    cache_.check(rows);
    cache_.write_times(rows, view(time_min, "time_min"));
  }

  void attend(std::size_t layer, const Places& places, const Floats& q, const Floats& k,
              const Floats& v, const Floats& slope, const Floats& inverse_tau, Floats& out) {
    const auto rows = places_of(places);
    const auto result = target(out);
    const py::gil_scoped_release release;  // the caller's arguments hold all buffers
    cache_.check(rows);
    cache_.write(layer, rows, flat(k), flat(v));
    attention_.attend(layer, rows, flat(q), {flat(slope), flat(inverse_tau)}, result);
  }

  void release(std::size_t buffer) { cache_.release(buffer); }
  std::size_t pages_in_use() const { return cache_.pages_in_use(); }

 private:
  PagedCache cache_;
  PagedAttention attention_;
};

/// Parameters by name; a missing name is an empty array.
class Arrays {
 public:
  explicit Arrays(const py::dict& by_name) : by_name_(by_name) {}

  std::span<const float> floats(const char* name) { return get<float>(name); }
  std::span<const double> doubles(const char* name) { return get<double>(name); }

 private:
  template <typename T>
  std::span<const T> get(const char* name) {
    if (!by_name_.contains(name)) return {};
    const py::handle value = by_name_[name];
    if (!py::isinstance<Array<T>>(value)) {
      throw py::type_error(std::string(name) + " is not a contiguous array of the right dtype");
    }
    return flat(py::reinterpret_borrow<Array<T>>(value));  // the dict keeps it alive
  }

  const py::dict& by_name_;
};

using BlockDicts = std::vector<py::dict>;

std::unique_ptr<DecodeModel> make_model(const std::array<std::size_t, 7>& sizes,
                                        const std::string& bias, float norm_eps,
                                        const std::vector<std::size_t>& n_knots,
                                        const py::dict& parameters, const BlockDicts& blocks,
                                        const ContextRules& rules, const std::string& dtype) {
  const auto [n_layers, n_heads, n_kv_heads, d_head, vocab, d_model, d_ff] = sizes;
  const ModelShape shape{
      {n_layers, n_heads, n_kv_heads, d_head, bias_named(bias)}, vocab, d_model, d_ff, norm_eps};
  Arrays arrays(parameters);
  ModelParameters all;
  all.embedded = arrays.floats("embedded");
  all.clock = arrays.floats("clock");
  all.n_knots = n_knots;
  all.index_frequency = arrays.doubles("index_frequency");
  all.time_frequency = arrays.doubles("time_frequency");
  all.final_norm = arrays.floats("final_norm");
  all.output = arrays.floats("output");
  all.unseen = arrays.floats("unseen");
  all.known = arrays.floats("known");
  for (const auto& block : blocks) {
    Arrays b(block);
    all.blocks.push_back({b.floats("attention_norm"), b.floats("qkv"), b.floats("query_norm"),
                          b.floats("key_norm"), b.floats("attention_output"),
                          b.floats("feed_forward_norm"), b.floats("gate_and_up"), b.floats("down"),
                          b.floats("slope"), b.floats("inverse_tau")});
  }
  return std::make_unique<DecodeModel>(shape, all, rules, weights_named(dtype));
}

void step_model(DecodeModel& model, const TokenIds& token_id, const TimesMin& time_min,
                const TimesMin& start_min, const Places& places, Floats& logits) {
  const DecodeRows rows{view(token_id, "token_id"), view(time_min, "time_min"),
                        view(start_min, "start_min"), places_of(places)};
  const auto scores = target(logits);
  const py::gil_scoped_release release;  // the caller's arguments hold all buffers
  model.step(rows, scores);
}

std::size_t run_steps(DecodeModel& model, Sampler& sampler, const Array<std::int32_t>& slots,
                      TokenIds& token_id, TimesMin& time_min, const TimesMin& start_min,
                      Places& places, Floats& logits, Bytes& status, std::size_t max_steps) {
  const RunningRows rows{view(slots, "slots"), target(token_id), target(time_min),
                         view(start_min, "start_min"), places_to_move(places)};
  const auto scores = target(logits);
  const auto ends = target(status);
  const py::gil_scoped_release release;  // the caller's arguments hold all buffers
  return decode_steps(model, sampler, rows, max_steps, scores, ends);
}

}  // namespace

void bind_decode(py::module_& m) {
  m.def("decode_level", &level_name,
        "What the decode step's loops are compiled for: x86-64, -v3, -v4, and with -v4 dot "
        "(AVX-512's dot products of bf16 and int8) or amx.");
  m.def("use_decode_level", &use_level, py::arg("name"),
        "Takes a lower level than the processor's best, for models made from then on (tests).");
  py::class_<KeyValueCache>(m, "KeyValueCache",
                            "Keys and values by buffer, in pages, and attention over them.")
      .def(py::init<std::size_t, std::size_t, std::size_t, std::size_t, std::size_t, std::size_t,
                    const std::string&, const std::string&>(),
           py::arg("n_buffers"), py::kw_only(), py::arg("n_layers"), py::arg("n_heads"),
           py::arg("n_kv_heads"), py::arg("d_head"), py::arg("capacity"), py::arg("bias"),
           py::arg("dtype"))
      .def("write_times", &KeyValueCache::write_times, py::arg("places").noconvert(),
           py::arg("time_min").noconvert(), "Clocks of the rows' own tokens, before the layers.")
      .def("attend", &KeyValueCache::attend, py::arg("layer"), py::arg("places").noconvert(),
           py::arg("q").noconvert(), py::arg("k").noconvert(), py::arg("v").noconvert(),
           py::arg("slope").noconvert(), py::arg("inverse_tau").noconvert(),
           py::arg("out").noconvert(), "Appends k and v of one layer and attends into `out`.")
      .def("release", &KeyValueCache::release, py::arg("buffer"), "Gives a buffer's pages back.")
      .def_property_readonly("pages_in_use", &KeyValueCache::pages_in_use);
  py::class_<DecodeModel>(m, "DecodeModel", "A model's decode step with its key-value cache.")
      .def(py::init(&make_model), py::arg("sizes"), py::kw_only(), py::arg("bias"),
           py::arg("norm_eps"), py::arg("n_knots"), py::arg("parameters"), py::arg("blocks"),
           py::arg("rules"), py::arg("dtype"))
      .def("open", &DecodeModel::open, py::arg("n_buffers"), py::arg("capacity"),
           py::arg("max_pages"), "Room for contexts of up to `capacity` tokens.")
      .def("step", &step_model, py::arg("token_id").noconvert(), py::arg("time_min").noconvert(),
           py::arg("start_min").noconvert(), py::arg("places").noconvert(),
           py::arg("logits").noconvert(),
           "Takes one token a row; fills `logits` (rows, V) unless it is empty.")
      .def("steps", &run_steps, py::arg("sampler"), py::kw_only(), py::arg("slots").noconvert(),
           py::arg("token_id").noconvert(), py::arg("time_min").noconvert(),
           py::arg("start_min").noconvert(), py::arg("places").noconvert(),
           py::arg("logits").noconvert(), py::arg("status").noconvert(), py::arg("max_steps"),
           "Steps and draws in turn until a row's rollout ends; returns how many steps.")
      .def("release", &DecodeModel::release, py::arg("buffer"), "Gives a buffer's pages back.")
      .def_property_readonly("pages_in_use",
                             [](const DecodeModel& model) { return model.cache().pages_in_use(); })
      .def_property_readonly("page_bytes", &DecodeModel::page_bytes)
      .def_property_readonly("weight_bytes", &DecodeModel::weight_bytes);
}

}  // namespace chronoward::bindings
