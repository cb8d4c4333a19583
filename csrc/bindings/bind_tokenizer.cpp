// Encode, decode, validate: tables come in once, as attributes of the Python dataclasses.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/checks.hpp"
#include "core/decode.hpp"
#include "core/encode.hpp"
#include "core/errors.hpp"
#include "core/fingerprint.hpp"
#include "core/grammar.hpp"

namespace chronoward::bindings {
namespace {

/// A copy of an attribute that is an array of one or two dimensions (tables are small).
template <typename T>
std::vector<T> column(const py::object& tables, const char* name) {
  const auto array = tables.attr(name).cast<py::array>();
  if (!py::isinstance<py::array_t<T>>(array)) {
    throw py::type_error(std::string(name) + " has the wrong dtype");
  }
  const auto flat = py::array_t<T, py::array::c_style>::ensure(array);
  return {flat.data(), flat.data() + flat.size()};
}

/// A view of an attribute; its owner keeps the array alive, so a converted copy is refused.
template <typename T>
std::span<const T> attribute_view(const py::object& owner, const char* name) {
  const py::object value = owner.attr(name);
  if (!Array<T>::check_(value)) {
    throw py::type_error(std::string(name) + " must be a contiguous array of its own dtype");
  }
  return view(value.cast<Array<T>>(), name);
}

template <typename T>
T scalar(const py::object& tables, const char* name) {
  return tables.attr(name).cast<T>();
}

EncodeTables read_encode_tables(const py::object& source) {
  EncodeTables t;
  t.preset = static_cast<Preset>(scalar<int>(source, "preset"));
  t.resolution_min = scalar<std::int32_t>(source, "resolution_min");
  t.is_calendar = scalar<bool>(source, "is_calendar");
  t.order_by_time = scalar<bool>(source, "order_by_time");
  t.use_hours = scalar<bool>(source, "use_hours");
  t.is_split = scalar<bool>(source, "is_split");
  t.max_clock_min = scalar<std::int32_t>(source, "max_clock_min");
  const auto special = column<std::int32_t>(source, "special");
  const auto defaults = column<std::int32_t>(source, "default_token");
  t.end_token = special.at(0);
  t.visit_start = special.at(1);
  t.visit_end = special.at(2);
  t.detail_end = special.at(3);
  t.death = special.at(4);
  t.default_sex = defaults.at(0);
  t.default_race = defaults.at(1);
  t.default_discharge = defaults.at(3);
  t.prompt_classes = column<std::uint8_t>(source, "prompt_classes");
  t.year_first = scalar<std::int32_t>(source, "year_first");
  t.year_token = column<std::int32_t>(source, "year_token");
  t.age_edge_min = column<std::int32_t>(source, "age_edge_min");
  t.age_token = column<std::int32_t>(source, "age_token");
  t.age_unknown = scalar<std::int32_t>(source, "age_unknown_id");
  t.entry_plain = column<std::int32_t>(source, "entry_plain");
  t.entry_bin_token = column<std::int32_t>(source, "entry_bin_token");
  t.entry_n_bins = column<std::int32_t>(source, "entry_n_bins");
  t.entry_edge_offset = column<std::int64_t>(source, "entry_edge_offset");
  t.edges = column<float>(source, "edges");
  t.entry_sex = column<std::uint8_t>(source, "entry_sex");
  t.text_key = column<std::int64_t>(source, "text_key");
  t.text_token = column<std::int32_t>(source, "text_token");
  t.token_class = column<std::uint8_t>(source, "token_class");
  t.token_sex = column<std::uint8_t>(source, "token_sex");
  t.token_rank = column<std::int32_t>(source, "token_rank");
  t.base_code = column<std::int32_t>(source, "base_code");
  t.gap_lo = column<std::int32_t>(source, "gap_lo");
  t.gap_token = column<std::int32_t>(source, "gap_token");
  t.gap_repeat_token = scalar<std::int32_t>(source, "gap_repeat_token");
  t.inner_lo = column<std::int32_t>(source, "inner_lo");
  t.inner_token = column<std::int32_t>(source, "inner_token");
  t.hour_token = column<std::int32_t>(source, "hour_token");
  return t;
}

/// Buckets are looked up without looking: edges ascend from one that every length reaches.
void check_buckets(const std::vector<std::int32_t>& edges, const std::vector<std::int32_t>& tokens,
                   std::int32_t most_first, const char* name) {
  const bool ascends =
      std::adjacent_find(edges.begin(), edges.end(), std::greater_equal{}) == edges.end();
  if (edges.empty() || edges.size() != tokens.size() || !ascends || edges.front() < 0 ||
      edges.front() > most_first) {
    throw FormatError(std::string("the tokenizer's buckets of ") + name + " are malformed");
  }
}

bool has_prompt(const EncodeTables& t, TokenClass wanted) {
  return std::find(t.prompt_classes.begin(), t.prompt_classes.end(),
                   static_cast<std::uint8_t>(wanted)) != t.prompt_classes.end();
}

/// Everything that encoding indexes lies inside what it points to.
void check_encode_tables(const EncodeTables& t) {
  const std::size_t n = t.token_class.size(), n_entries = t.entry_plain.size();
  const auto tokens = [n](const std::vector<std::int32_t>& ids, const char* name) {
    check_below(std::span<const std::int32_t>(ids), n, -1, name);
  };
  check_size(t.token_sex.size(), n, "token_sex");
  check_size(t.token_rank.size(), n, "token_rank");
  check_size(t.base_code.size(), n, "base_code");
  check_below(std::span<const std::int32_t>(t.base_code), n_entries, -1, "base_code");
  tokens({t.end_token, t.visit_start, t.visit_end, t.detail_end, t.death, t.default_sex,
          t.default_race, t.default_discharge, t.age_unknown, t.gap_repeat_token},
         "special tokens");
  tokens(t.year_token, "year_token");
  tokens(t.age_token, "age_token");
  tokens(t.entry_plain, "entry_plain");
  tokens(t.entry_bin_token, "entry_bin_token");
  tokens(t.text_token, "text_token");
  tokens(t.gap_token, "gap_token");
  tokens(t.inner_token, "inner_token");
  tokens(t.hour_token, "hour_token");
  check_size(t.hour_token.size(), 24, "hour_token");
  check_size(t.text_token.size(), t.text_key.size(), "text_token");
  check_size(t.entry_bin_token.size(), n_entries, "entry_bin_token");
  check_size(t.entry_n_bins.size(), n_entries, "entry_n_bins");
  check_size(t.entry_sex.size(), n_entries, "entry_sex");
  check_size(t.entry_edge_offset.size(), n_entries + 1, "entry_edge_offset");
  for (std::size_t i = 0; i < n_entries; ++i) {
    const std::int64_t first = t.entry_edge_offset[i], last = t.entry_edge_offset[i + 1];
    const std::int64_t n_bins = t.entry_n_bins[i], token = t.entry_bin_token[i];
    const bool is_inside =
        first >= 0 && first <= last && last <= static_cast<std::int64_t>(t.edges.size());
    const bool is_bin = n_bins == 0 || (token >= 0 && last - first < n_bins &&
                                        token + n_bins <= static_cast<std::int64_t>(n));
    if (!is_inside || !is_bin) throw FormatError("the tokenizer's value bins are malformed");
  }
  check_buckets(t.gap_lo, t.gap_token, 1, "gaps");
  const std::int32_t day = 1440;
  if (t.preset != Preset::kEvents) {
    check_buckets(t.inner_lo, t.inner_token, t.is_calendar ? day : 1, "gaps inside visits");
  }
  if (has_prompt(t, TokenClass::age)) check_buckets(t.age_edge_min, t.age_token, 0, "ages");
  if (has_prompt(t, TokenClass::year) && t.year_token.empty()) {
    throw FormatError("the tokenizer has no token of a year");
  }
}

Grammar read_grammar(const py::object& source) {
  Grammar g;
  g.token_class = column<std::uint8_t>(source, "token_class");
  g.next_state = column<std::int8_t>(source, "next_state");
  g.n_classes = static_cast<std::size_t>(source.attr("next_state").cast<py::array>().shape(1));
  g.start_state = scalar<std::int32_t>(source, "start_state");
  g.state_mask = column<std::uint32_t>(source, "state_mask");
  g.sex_mask = column<std::uint32_t>(source, "sex_mask");
  g.token_sex = column<std::uint8_t>(source, "token_sex");
  g.duration_rule = column<std::uint8_t>(source, "duration_rule");
  g.duration_q = column<std::int32_t>(source, "duration_q");
  g.n_knots = g.duration_q.size() / std::max<std::size_t>(g.token_class.size(), 1);
  g.duration_lo = column<std::int32_t>(source, "duration_lo");
  g.duration_hi = column<std::int32_t>(source, "duration_hi");
  g.max_clock_min = scalar<std::int32_t>(source, "max_clock_min");
  g.n_prompt = column<std::uint8_t>(source, "prompt_classes").size();
  const std::size_t n = g.token_class.size(), n_words = (n + 31) / 32;
  const std::size_t n_states = g.next_state.size() / std::max<std::size_t>(g.n_classes, 1);
  check_below(std::span<const std::uint8_t>(g.token_class), g.n_classes, 0, "token_class");
  check_below(std::span<const std::int8_t>(g.next_state), n_states, -1, "next_state");
  check_below(std::span<const std::uint8_t>(g.token_sex), 3, 0, "token_sex");
  check_size(g.token_sex.size(), n, "token_sex");
  check_size(g.state_mask.size(), n_states * n_words, "state_mask");
  check_size(g.sex_mask.size(), 3 * n_words, "sex_mask");
  for (const std::size_t size :
       {g.duration_rule.size(), g.duration_lo.size(), g.duration_hi.size()}) {
    check_size(size, n, "durations");
  }
  return g;
}

/// The bounds of subjects must lie inside the column they point to.
void check_offsets(std::span<const std::int64_t> offsets, std::size_t size, const char* name) {
  if (offsets.empty() || offsets.front() != 0 ||
      offsets.back() != static_cast<std::int64_t>(size)) {
    throw DataError(std::string(name) + " must run from 0 to the length of its column");
  }
  for (std::size_t i = 1; i < offsets.size(); ++i) {
    if (offsets[i] < offsets[i - 1]) throw DataError(std::string(name) + " must not fall");
  }
}

EventView read_events(const py::object& given, std::size_t n_entries) {
  const py::object columns = given.attr("columns");
  EventView e;
  e.role = attribute_view<std::uint8_t>(columns, "role");
  const std::size_t n = e.role.size();
  e.time_us = attribute_view<std::int64_t>(columns, "time_us");
  e.available_us = attribute_view<std::int64_t>(columns, "available_us");
  e.visit_id = attribute_view<std::int64_t>(columns, "visit_id");
  e.end_us = attribute_view<std::int64_t>(columns, "end_us");
  e.key = attribute_view<std::int32_t>(columns, "key");
  e.text = attribute_view<std::int32_t>(columns, "text");
  e.value = attribute_view<float>(columns, "value");
  e.key_entry = attribute_view<std::int32_t>(given, "key_entry");
  e.key_exact = attribute_view<std::uint8_t>(given, "key_exact");
  e.text_number = attribute_view<std::int32_t>(given, "text_number");
  e.row_offsets = attribute_view<std::int64_t>(given, "row_offsets");
  e.obs_offsets = attribute_view<std::int64_t>(given, "obs_offsets");
  e.obs_start_us = attribute_view<std::int64_t>(given, "obs_start_us");
  e.obs_end_us = attribute_view<std::int64_t>(given, "obs_end_us");
  for (const std::size_t size : {e.time_us.size(), e.available_us.size(), e.visit_id.size(),
                                 e.end_us.size(), e.key.size(), e.text.size(), e.value.size()}) {
    check_size(size, n, "event column");
  }
  check_size(e.key_exact.size(), e.key_entry.size(), "key_exact");
  check_size(e.obs_offsets.size(), e.row_offsets.size(), "obs_offsets");
  check_size(e.obs_end_us.size(), e.obs_start_us.size(), "obs_end_us");
  check_offsets(e.row_offsets, n, "row_offsets");
  check_offsets(e.obs_offsets, e.obs_start_us.size(), "obs_offsets");
  check_below(e.key, e.key_entry.size(), 0, "key");
  check_below(e.text, e.text_number.size() - 1, kNoText, "text");
  check_below(e.key_entry, n_entries, kNotInPreset, "key_entry");
  return e;
}

TimelineView read_timelines(const py::object& batch) {
  TimelineView v;
  v.offsets = attribute_view<std::int64_t>(batch, "offsets");
  v.token_id = attribute_view<std::int32_t>(batch, "token_id");
  v.time_min = attribute_view<std::int32_t>(batch, "time_min");
  v.event_min = attribute_view<std::int32_t>(batch, "event_min");
  check_size(v.time_min.size(), v.token_id.size(), "time_min");
  check_size(v.event_min.size(), v.token_id.size(), "event_min");
  check_offsets(v.offsets, v.token_id.size(), "offsets");
  return v;
}

/// The encoder, decoder and checker of one tokenizer.
class TokenizerCore {
 public:
  TokenizerCore(const py::object& encode_tables, const py::object& token_columns, bool has_age)
      : encode_(read_encode_tables(encode_tables)) {
    check_encode_tables(encode_);
    decode_.token_class = encode_.token_class;
    decode_.token_entry = column<std::int32_t>(token_columns, "entry");
    check_size(decode_.token_entry.size(), decode_.token_class.size(), "entry");
    const auto bins = column<std::int32_t>(token_columns, "bin");
    check_size(bins.size(), decode_.token_class.size(), "bin");
    for (const std::int32_t bin : bins) decode_.has_value.push_back(bin != -1);
    decode_.has_age = has_age;
    decode_.age_unknown = encode_.age_unknown;
  }

  py::dict encode(const py::object& given, int threads) const {
    const EventView events = read_events(given, encode_.entry_plain.size());
    TokenTimelines out;
    {
      const py::gil_scoped_release released;  // `given` holds the arrays until we return
      out = chronoward::encode(encode_, events, threads);
    }
    py::dict counts;
    for (std::size_t r = 0; r < out.counts.size(); ++r) {
      if (out.counts[r] != 0) counts[kEncodeRules[r]] = out.counts[r];
    }
    py::dict result;
    result["origin_us"] = to_numpy(std::move(out.origin_us));
    result["offsets"] = to_numpy(std::move(out.offsets));
    result["token_id"] = to_numpy(std::move(out.token_id));
    result["time_min"] = to_numpy(std::move(out.time_min));
    result["event_min"] = to_numpy(std::move(out.event_min));
    result["n_prior"] = to_numpy(std::move(out.n_prior));
    result["obs_start_min"] = to_numpy(std::move(out.obs_start_min));
    result["obs_end_min"] = to_numpy(std::move(out.obs_end_min));
    result["counts"] = counts;
    return result;
  }

  Array<std::uint64_t> fingerprints(const py::object& given) const {
    const EventView events = read_events(given, encode_.entry_plain.size());
    const auto keys = attribute_view<std::uint64_t>(given, "key_hash");
    const auto texts = attribute_view<std::uint64_t>(given, "text_hash");
    check_size(keys.size(), events.key_entry.size(), "key_hash");
    check_size(texts.size() + 1, events.text_number.size(), "text_hash");
    std::vector<std::uint64_t> found;
    {
      const py::gil_scoped_release released;  // the arguments hold the arrays until we return
      found = chronoward::fingerprints(events, keys, texts);
    }
    return to_numpy(std::move(found));
  }

  py::dict decode(const py::object& batch, int threads) const {
    const TimelineView timelines = read_timelines(batch);
    check_below(timelines.token_id, decode_.token_class.size(), 0, "token_id");
    DecodedRows out;
    {
      const py::gil_scoped_release released;  // `batch` holds the arrays until we return
      out = chronoward::decode(decode_, timelines, threads);
    }
    py::dict result;
    result["subject"] = to_numpy(std::move(out.subject));
    result["role"] = to_numpy(std::move(out.role));
    result["entry"] = to_numpy(std::move(out.entry));
    result["value"] = to_numpy(std::move(out.value));
    result["position"] = to_numpy(std::move(out.position));
    result["time_min"] = to_numpy(std::move(out.time_min));
    result["available_min"] = to_numpy(std::move(out.available_min));
    result["end_min"] = to_numpy(std::move(out.end_min));
    result["visit"] = to_numpy(std::move(out.visit));
    return result;
  }

 private:
  EncodeTables encode_;
  DecodeTables decode_;
};

py::tuple validate_timelines(const py::object& grammar, const py::object& batch, bool complete,
                             int threads) {
  const Grammar tables = read_grammar(grammar);
  const TimelineView timelines = read_timelines(batch);
  Violations out;
  {
    const py::gil_scoped_release released;  // `batch` holds the arrays until we return
    out = validate(tables, timelines, complete, threads);
  }
  py::list rules;
  for (const std::uint8_t rule : out.rule) rules.append(kGrammarRules[rule]);
  return py::make_tuple(to_numpy(std::move(out.subject)), to_numpy(std::move(out.position)), rules,
                        to_numpy(std::move(out.state)));
}

}  // namespace

void bind_tokenizer(py::module_& m) {
  py::class_<TokenizerCore>(m, "TokenizerCore")
      .def(py::init<const py::object&, const py::object&, bool>(), py::arg("encode_tables"),
           py::arg("token_columns"), py::arg("has_age"))
      .def("encode", &TokenizerCore::encode, py::arg("given"), py::arg("threads") = 1)
      .def("fingerprints", &TokenizerCore::fingerprints, py::arg("given"),
           "One number a subject for all that `encode` reads of it: uint64 (n,).")
      .def("decode", &TokenizerCore::decode, py::arg("batch"), py::arg("threads") = 1);
  m.def("validate_timelines", &validate_timelines, py::arg("grammar"), py::arg("batch"),
        py::arg("complete"), py::arg("threads") = 1);
}

}  // namespace chronoward::bindings
