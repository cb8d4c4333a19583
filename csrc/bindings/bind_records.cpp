#include <pybind11/typing.h>

#include <array>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "core/event_order.hpp"
#include "core/mend_meds.hpp"
#include "core/visits.hpp"

namespace chronoward::bindings {

namespace {

using Rows = Array<std::int64_t>;   // (n,) rows and offsets
using Order = Array<std::int32_t>;  // (n,)
using Columns = py::typing::Dict<py::str, py::array>;

Columns bind_mend_visits(const SubjectOffsets& visit_offsets, const TimesUs& start,
                         const TimesUs& finish, const Order& order, const Bytes& source_class,
                         const Bytes& is_start_date, const Bytes& is_end_date, const Bytes& is_gone,
                         const Bytes& has_discharge, const TimesUs& death,
                         const SubjectOffsets& record_offsets, const Rows& record_visit,
                         const TimesUs& record_time, const Bytes& record_is_date,
                         std::int64_t inpatient_us, std::int64_t ed_link_us, bool merges) {
  const VisitColumns columns{.visit_offsets = view(visit_offsets, "visit_offsets"),
                             .start = view(start, "start"),
                             .finish = view(finish, "finish"),
                             .order = view(order, "order"),
                             .source_class = view(source_class, "source_class"),
                             .is_start_date = view(is_start_date, "is_start_date"),
                             .is_end_date = view(is_end_date, "is_end_date"),
                             .is_gone = view(is_gone, "is_gone"),
                             .has_discharge = view(has_discharge, "has_discharge"),
                             .death = view(death, "death"),
                             .record_offsets = view(record_offsets, "record_offsets"),
                             .record_visit = view(record_visit, "record_visit"),
                             .record_time = view(record_time, "record_time"),
                             .record_is_date = view(record_is_date, "record_is_date")};
  MendedColumns mended;
  {
    py::gil_scoped_release release;  // the caller's arguments hold the buffers
    mended = mend_visits(
        columns, {.inpatient_us = inpatient_us, .ed_link_us = ed_link_us, .merges = merges});
  }
  Columns out;
  out["offsets"] = to_numpy(std::move(mended.offsets));
  out["start"] = to_numpy(std::move(mended.start));
  out["finish"] = to_numpy(std::move(mended.finish));
  out["head"] = to_numpy(std::move(mended.head));
  out["discharge"] = to_numpy(std::move(mended.discharge));
  out["visit_class"] = to_numpy(std::move(mended.visit_class));
  out["is_timed"] = to_numpy(std::move(mended.is_timed));
  out["is_by_length"] = to_numpy(std::move(mended.is_by_length));
  out["is_clamped"] = to_numpy(std::move(mended.is_clamped));
  out["visit_of"] = to_numpy(std::move(mended.visit_of));
  out["fate"] = to_numpy(std::move(mended.fate));
  out["changes"] = to_numpy(std::move(mended.changes));
  out["detail_start"] = to_numpy(std::move(mended.detail_start));
  out["detail_finish"] = to_numpy(std::move(mended.detail_finish));
  out["detail_head"] = to_numpy(std::move(mended.detail_head));
  out["detail_visit"] = to_numpy(std::move(mended.detail_visit));
  return out;
}

using Codes = Array<std::int32_t>;    // (n_codes,) or (n_texts,) numbers
using Numbers = Array<double>;        // (n,)
using Tables = Array<std::uint16_t>;  // (n,) numbers of tables

template <typename T>
std::vector<T> copied(const Array<T>& array, const char* name) {
  const auto values = view(array, name);
  return {values.begin(), values.end()};
}

Rows bind_canonical_order(const Rows& subject, const TimesUs& available, const Bytes& role,
                          const Codes& table, const Codes& code, const Codes& unit,
                          const Floats& number, const Codes& text, const TimesUs& time,
                          const Rows& visit_id, const TimesUs& end_time) {
  const EventKeys events{.subject = view(subject, "subject"),
                         .available = view(available, "available"),
                         .role = view(role, "role"),
                         .table = view(table, "table"),
                         .code = view(code, "code"),
                         .unit = view(unit, "unit"),
                         .number = view(number, "number"),
                         .text = view(text, "text"),
                         .time = view(time, "time"),
                         .visit_id = view(visit_id, "visit_id"),
                         .end_time = view(end_time, "end_time")};
  std::vector<std::int64_t> order;
  {
    py::gil_scoped_release release;  // the caller's arguments hold the buffers
    order = canonical_order(events);
  }
  return to_numpy(std::move(order));
}

/// The tables and rules by which a MEDS source is mended; owns copies of them.
class MedsMending {
 public:
  MedsMending(const Bytes& code_kind, const Codes& event_code, const Bytes& is_visit_code,
              const Bytes& is_discharge_code, const Codes& code_rank, const Bytes& text_kind,
              const Numbers& text_number, const Codes& text_category, std::uint16_t visit_table,
              std::uint16_t detail_table)
      : code_kind_(copied(code_kind, "code_kind")),
        is_visit_code_(copied(is_visit_code, "is_visit_code")),
        is_discharge_code_(copied(is_discharge_code, "is_discharge_code")),
        text_kind_(copied(text_kind, "text_kind")),
        event_code_(copied(event_code, "event_code")),
        code_rank_(copied(code_rank, "code_rank")),
        text_category_(copied(text_category, "text_category")),
        text_number_(copied(text_number, "text_number")) {
    tables_ = {.code_kind = code_kind_,
               .event_code = event_code_,
               .is_visit_code = is_visit_code_,
               .is_discharge_code = is_discharge_code_,
               .code_rank = code_rank_,
               .text_kind = text_kind_,
               .text_number = text_number_,
               .text_category = text_category_,
               .visit_table = visit_table,
               .detail_table = detail_table};
  }

  /// Rules on single records; sentinel_us (2, n): first and end of each sentinel year.
  void set_rules(const Array<std::int64_t>& sentinel_us, std::int64_t prenatal_us,
                 std::int64_t future_us) {
    if (sentinel_us.ndim() != 2 || sentinel_us.shape(0) != 2) {
      throw std::invalid_argument("sentinel_us must have two rows");
    }
    rules_ = {.sentinel_us = {}, .prenatal_us = prenatal_us, .future_us = future_us};
    const auto n = static_cast<std::size_t>(sentinel_us.shape(1));
    for (std::size_t i = 0; i < n; ++i) {
      rules_.sentinel_us.emplace_back(sentinel_us.data()[i], sentinel_us.data()[n + i]);
    }
  }

  void set_visit_codes(const Codes& discharge_code, const Bytes& is_bare, const Bytes& visit_class,
                       std::int32_t stay_code, std::int32_t artificial_code,
                       std::int64_t inpatient_us, std::int64_t ed_link_us, bool merges) {
    discharge_code_ = copied(discharge_code, "discharge_code");
    is_bare_ = copied(is_bare, "is_bare");
    visit_class_ = copied(visit_class, "visit_class");
    visits_.discharge_code = discharge_code_;
    visits_.is_bare = is_bare_;
    visits_.visit_class = visit_class_;
    visits_.stay_code = stay_code;
    visits_.artificial_code = artificial_code;
    visits_.rules = {.inpatient_us = inpatient_us, .ed_link_us = ed_link_us, .merges = merges};
  }

  void add_pattern(const Bytes& opens, const Bytes& closes, const Codes& visit_code,
                   bool closes_itself, bool is_detail) {
    visits_.patterns.push_back({.opens = copied(opens, "opens"),
                                .closes = copied(closes, "closes"),
                                .visit_code = copied(visit_code, "visit_code"),
                                .closes_itself = closes_itself,
                                .is_detail = is_detail});
  }

  /// What a first pass found out about all subjects.
  void set_facts(bool is_explicit, bool is_disjoint, bool has_visits, bool is_midnight_date) {
    visits_.is_explicit = is_explicit;
    visits_.is_disjoint = is_disjoint;
    visits_.has_visits = has_visits;
    visits_.is_midnight_date = is_midnight_date;
  }

  Columns mend(const SubjectOffsets& offsets, const Bytes& is_excluded, const TimesUs& time,
               const TimesUs& end_time, const TimesUs& available, const Codes& code,
               const Codes& text, const Codes& unit, const Numbers& number, const Bytes& has_number,
               const TimesUs& visit_ref, const Tables& table, int n_threads) const {
    const MedsSubjects subjects{view(offsets, "offsets"), view(is_excluded, "is_excluded")};
    const MedsRows rows{.time = view(time, "time"),
                        .end_time = view(end_time, "end_time"),
                        .available = view(available, "available"),
                        .code = view(code, "code"),
                        .text = view(text, "text"),
                        .unit = view(unit, "unit"),
                        .number = view(number, "number"),
                        .has_number = view(has_number, "has_number"),
                        .visit_ref = view(visit_ref, "visit_ref"),
                        .table = view(table, "table")};
    MendedEvents events;
    RowFates fates;
    VisitFacts facts;
    {
      py::gil_scoped_release release;  // the caller's arguments hold the buffers
      events = mend_meds(subjects, rows, tables_, rules_, visits_, n_threads, fates, facts);
    }
    Columns out;
    out["subject"] = to_numpy(std::move(events.subject));
    out["time"] = to_numpy(std::move(events.time));
    out["available"] = to_numpy(std::move(events.available));
    out["end_time"] = to_numpy(std::move(events.end_time));
    out["visit_id"] = to_numpy(std::move(events.visit_id));
    out["role"] = to_numpy(std::move(events.role));
    out["table"] = to_numpy(std::move(events.table));
    out["code"] = to_numpy(std::move(events.code));
    out["text"] = to_numpy(std::move(events.text));
    out["unit"] = to_numpy(std::move(events.unit));
    out["number"] = to_numpy(std::move(events.number));
    out["row"] = to_numpy(std::move(events.row));
    out["gone"] = to_numpy(std::move(fates.gone));
    out["changes"] = to_numpy(std::move(fates.changes));
    out["facts"] = to_numpy(std::vector<std::int64_t>{
        facts.n_explicit, facts.n_overlaps, facts.n_staged, facts.n_midnight, facts.n_visits});
    return out;
  }

 private:
  std::vector<std::uint8_t> code_kind_, is_visit_code_, is_discharge_code_, text_kind_;
  std::vector<std::int32_t> event_code_, code_rank_, text_category_;
  std::vector<double> text_number_;
  std::vector<std::int32_t> discharge_code_;
  std::vector<std::uint8_t> is_bare_, visit_class_;
  MedsTables tables_;
  JudgeRules rules_;
  MedsVisits visits_;
};

template <std::size_t N>
py::tuple names(const std::array<const char*, N>& values) {
  py::tuple out(N);
  for (std::size_t i = 0; i < N; ++i) out[i] = values[i];
  return out;
}

}  // namespace

void bind_records(py::module_& m) {
  m.def("mend_visits", &bind_mend_visits, py::arg("visit_offsets").noconvert(),
        py::arg("start").noconvert(), py::arg("finish").noconvert(), py::arg("order").noconvert(),
        py::arg("source_class").noconvert(), py::arg("is_start_date").noconvert(),
        py::arg("is_end_date").noconvert(), py::arg("is_gone").noconvert(),
        py::arg("has_discharge").noconvert(), py::arg("death").noconvert(),
        py::arg("record_offsets").noconvert(), py::arg("record_visit").noconvert(),
        py::arg("record_time").noconvert(), py::arg("record_is_date").noconvert(),
        py::arg("inpatient_us"), py::arg("ed_link_us"), py::arg("merges") = true,
        "Visits of whole subjects made disjoint: columns by name.");
  m.def("canonical_order", &bind_canonical_order, py::kw_only(), py::arg("subject").noconvert(),
        py::arg("available").noconvert(), py::arg("role").noconvert(), py::arg("table").noconvert(),
        py::arg("code").noconvert(), py::arg("unit").noconvert(), py::arg("number").noconvert(),
        py::arg("text").noconvert(), py::arg("time").noconvert(), py::arg("visit_id").noconvert(),
        py::arg("end_time").noconvert(),
        "Rows in the canonical order of events, subject by subject.");
  m.attr("REMOVALS") = names(kRemovals);
  m.attr("CHANGES") = names(kChanges);
  py::class_<MedsMending>(m, "MedsMending", "Tables and rules by which a MEDS source is mended.")
      .def(py::init<const Bytes&, const Codes&, const Bytes&, const Bytes&, const Codes&,
                    const Bytes&, const Numbers&, const Codes&, std::uint16_t, std::uint16_t>(),
           py::kw_only(), py::arg("code_kind").noconvert(), py::arg("event_code").noconvert(),
           py::arg("is_visit_code").noconvert(), py::arg("is_discharge_code").noconvert(),
           py::arg("code_rank").noconvert(), py::arg("text_kind").noconvert(),
           py::arg("text_number").noconvert(), py::arg("text_category").noconvert(),
           py::arg("visit_table"), py::arg("detail_table"))
      .def("set_rules", &MedsMending::set_rules, py::kw_only(), py::arg("sentinel_us").noconvert(),
           py::arg("prenatal_us"), py::arg("future_us"))
      .def("set_visit_codes", &MedsMending::set_visit_codes, py::kw_only(),
           py::arg("discharge_code").noconvert(), py::arg("is_bare").noconvert(),
           py::arg("visit_class").noconvert(), py::arg("stay_code"), py::arg("artificial_code"),
           py::arg("inpatient_us"), py::arg("ed_link_us"), py::arg("merges"))
      .def("add_pattern", &MedsMending::add_pattern, py::kw_only(), py::arg("opens").noconvert(),
           py::arg("closes").noconvert(), py::arg("visit_code").noconvert(),
           py::arg("closes_itself"), py::arg("is_detail"))
      .def("set_facts", &MedsMending::set_facts, py::kw_only(), py::arg("is_explicit"),
           py::arg("is_disjoint"), py::arg("has_visits"), py::arg("is_midnight_date"))
      .def("mend", &MedsMending::mend, py::kw_only(), py::arg("offsets").noconvert(),
           py::arg("is_excluded").noconvert(), py::arg("time").noconvert(),
           py::arg("end_time").noconvert(), py::arg("available").noconvert(),
           py::arg("code").noconvert(), py::arg("text").noconvert(), py::arg("unit").noconvert(),
           py::arg("number").noconvert(), py::arg("has_number").noconvert(),
           py::arg("visit_ref").noconvert(), py::arg("table").noconvert(), py::arg("n_threads"),
           "Events of whole subjects, and what became of each row: columns by name.");
}

}  // namespace chronoward::bindings
