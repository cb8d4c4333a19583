#include <optional>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/value_columns.hpp"
#include "core/event_piece.hpp"

namespace chronoward::bindings {

namespace {

using Codes = Array<std::int32_t>;  // (n_codes,) or (n_texts,) numbers
using Numbers = Array<double>;      // (n,)

/// Columns of rows by name, as `MedsRows` calls them; those that nobody has may be missing.
class RowArrays {
 public:
  RowArrays(const Columns& rows, std::uint16_t no_table) : arrays_(rows) {
    rows_.no_table = no_table;
    rows_.time = take<std::int64_t>("time");
    rows_.end_time = take<std::int64_t>("end_time");
    rows_.available = take<std::int64_t>("available");
    rows_.code = take<std::int32_t>("code");
    rows_.text = take<std::int32_t>("text");
    rows_.unit = take<std::int32_t>("unit");
    rows_.number = take<double>("number");
    rows_.has_number = take<std::uint8_t>("has_number");
    rows_.visit_ref = take<std::int64_t>("visit_ref");
    rows_.table = take<std::uint16_t>("table");
  }

  const MedsRows& rows() const { return rows_; }

 private:
  template <typename T>
  std::span<const T> take(const char* name) const {
    if (!arrays_.contains(name)) return {};
    const py::object column = arrays_[name];
    if (!py::isinstance<Array<T>>(column)) {
      throw py::type_error(std::string("rows: ") + name + " is of another type");
    }
    return view(py::reinterpret_borrow<Array<T>>(column), name);  // the dictionary holds the array
  }

  Columns arrays_;
  MedsRows rows_;
};

/// The tables and rules by which a MEDS source is mended; owns copies of them.
class MedsMending {
 public:
  MedsMending(const Bytes& code_kind, const Codes& event_code, const Bytes& is_visit_code,
              const Bytes& is_discharge_code, const Codes& code_rank, const Bytes& text_kind,
              const Numbers& text_number, const Codes& text_category, const Bytes& is_fixed_text,
              std::uint16_t visit_table, std::uint16_t detail_table, std::uint16_t no_table)
      : code_kind_(copied(code_kind, "code_kind")),
        is_visit_code_(copied(is_visit_code, "is_visit_code")),
        is_discharge_code_(copied(is_discharge_code, "is_discharge_code")),
        text_kind_(copied(text_kind, "text_kind")),
        is_fixed_text_(copied(is_fixed_text, "is_fixed_text")),
        event_code_(copied(event_code, "event_code")),
        code_rank_(copied(code_rank, "code_rank")),
        text_category_(copied(text_category, "text_category")),
        text_number_(copied(text_number, "text_number")),
        no_table_(no_table) {
    tables_ = {.code_kind = code_kind_,
               .event_code = event_code_,
               .is_visit_code = is_visit_code_,
               .is_discharge_code = is_discharge_code_,
               .code_rank = code_rank_,
               .text_kind = text_kind_,
               .text_number = text_number_,
               .text_category = text_category_,
               .is_fixed_text = is_fixed_text_,
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

  /// What is known or guessed of the visits of all subjects; what was counted before is forgotten.
  void set_facts(bool is_explicit, bool is_disjoint, bool has_visits, bool is_midnight_date) {
    visits_.is_explicit = is_explicit;
    visits_.is_disjoint = is_disjoint;
    visits_.has_visits = has_visits;
    visits_.is_midnight_date = is_midnight_date;
    counts_.emplace(ValueCounts());
  }

  /// What the values of all subjects say, and places of texts in byte order.
  void set_values(const Codes& unit_name, const std::vector<Converted>& conversions,
                  const std::vector<Triple>& assumed, const std::vector<Triple>& kept_texts,
                  const Codes& table_rank, const Codes& unit_rank, const Codes& text_rank,
                  std::int32_t female, std::int32_t male, std::int32_t artificial) {
    ValueRules values = value_rules(unit_name, is_fixed_text_, conversions, assumed, kept_texts);
    TextRanks ranks{.table = copied(table_rank, "table_rank"),
                    .unit = copied(unit_rank, "unit_rank"),
                    .text = copied(text_rank, "text_rank")};
    const KnownCodes known{.female = female, .male = male, .artificial = artificial};
    pieces_.emplace(std::move(values), std::move(ranks), known, code_rank_.size());
  }

  Array<std::int64_t> survey(const SubjectOffsets& offsets, const Bytes& is_excluded,
                             const Columns& rows) {
    const RowArrays arrays(rows, no_table_);
    const MedsSubjects subjects{view(offsets, "offsets"), view(is_excluded, "is_excluded")};
    VisitFacts facts;
    {
      py::gil_scoped_release release;  // the caller's arguments hold the buffers
      facts = chronoward::survey(subjects, arrays.rows(), rules(), *counts_);
    }
    return to_numpy(std::vector<std::int64_t>{facts.n_explicit, facts.n_overlaps, facts.n_staged,
                                              facts.n_midnight, facts.n_visits});
  }

  Columns texts() const { return text_columns(ValueCounts::texts(counts_->all())); }
  Columns units() const { return unit_columns(ValueCounts::units(counts_->all())); }

  std::size_t n_codes() const { return code_rank_.size(); }

  Columns unit_values(const SubjectOffsets& offsets, const Bytes& is_excluded, const Columns& rows,
                      const Bytes& is_chosen) const {
    const RowArrays arrays(rows, no_table_);
    const MedsSubjects subjects{view(offsets, "offsets"), view(is_excluded, "is_excluded")};
    const auto chosen = view(is_chosen, "is_chosen");
    UnitValues found;
    {
      py::gil_scoped_release release;  // the caller's arguments hold the buffers
      found = chronoward::unit_values(subjects, arrays.rows(), rules(), chosen);
    }
    return unit_value_columns(std::move(found));
  }

  Columns piece(const SubjectOffsets& offsets, const Bytes& is_excluded,
                const Array<std::int64_t>& subject_id, const Columns& rows) {
    if (!pieces_) throw std::logic_error("set_values comes before piece");
    const RowArrays arrays(rows, no_table_);
    const MedsSubjects subjects{view(offsets, "offsets"), view(is_excluded, "is_excluded")};
    const auto ids = view(subject_id, "subject_id");
    EventPiece piece;
    RowFates fates;
    {
      py::gil_scoped_release release;  // the caller's arguments hold the buffers
      piece = pieces_->make(subjects, ids, arrays.rows(), rules(), fates);
    }
    return piece_columns(std::move(piece), std::move(fates));
  }

  Columns facts() const {
    if (!pieces_) throw std::logic_error("set_values comes before facts");
    return fact_columns(pieces_->facts());
  }

 private:
  MendingRules rules() const { return {tables_, rules_, visits_}; }

  std::vector<std::uint8_t> code_kind_, is_visit_code_, is_discharge_code_, text_kind_,
      is_fixed_text_;
  std::vector<std::int32_t> event_code_, code_rank_, text_category_;
  std::vector<double> text_number_;
  std::vector<std::int32_t> discharge_code_;
  std::vector<std::uint8_t> is_bare_, visit_class_;
  MedsTables tables_;
  JudgeRules rules_;
  MedsVisits visits_;
  std::uint16_t no_table_;
  std::optional<Spares<ValueCounts>> counts_{std::in_place, ValueCounts()};
  std::optional<EventPieces> pieces_;
};

}  // namespace

void bind_meds(py::module_& m) {
  m.attr("REMOVALS") = names(kRemovals);
  m.attr("CHANGES") = names(kChanges);
  py::class_<MedsMending>(m, "MedsMending", "Tables and rules by which a MEDS source is mended.")
      .def(py::init<const Bytes&, const Codes&, const Bytes&, const Bytes&, const Codes&,
                    const Bytes&, const Numbers&, const Codes&, const Bytes&, std::uint16_t,
                    std::uint16_t, std::uint16_t>(),
           py::kw_only(), py::arg("code_kind").noconvert(), py::arg("event_code").noconvert(),
           py::arg("is_visit_code").noconvert(), py::arg("is_discharge_code").noconvert(),
           py::arg("code_rank").noconvert(), py::arg("text_kind").noconvert(),
           py::arg("text_number").noconvert(), py::arg("text_category").noconvert(),
           py::arg("is_fixed_text").noconvert(), py::arg("visit_table"), py::arg("detail_table"),
           py::arg("no_table"))
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
      .def("set_values", &MedsMending::set_values, py::kw_only(), py::arg("unit_name").noconvert(),
           py::arg("conversions"), py::arg("assumed"), py::arg("kept_texts"),
           py::arg("table_rank").noconvert(), py::arg("unit_rank").noconvert(),
           py::arg("text_rank").noconvert(), py::arg("female"), py::arg("male"),
           py::arg("artificial"))
      .def(
          "survey", &MedsMending::survey, py::kw_only(), py::arg("offsets").noconvert(),
          py::arg("is_excluded").noconvert(), py::arg("rows"),
          "Facts about visits: rows that are visits, overlaps, staged, at midnight, mended; counts "
          "values.")
      .def("texts", &MedsMending::texts, kTextsDoc)
      .def("units", &MedsMending::units, kUnitsDoc)
      .def_property_readonly("n_codes", &MedsMending::n_codes)
      .def("unit_values", &MedsMending::unit_values, py::kw_only(), py::arg("offsets").noconvert(),
           py::arg("is_excluded").noconvert(), py::arg("rows"), py::arg("is_chosen").noconvert(),
           kUnitValuesDoc)
      .def("piece", &MedsMending::piece, py::kw_only(), py::arg("offsets").noconvert(),
           py::arg("is_excluded").noconvert(), py::arg("subject_id").noconvert(), py::arg("rows"),
           "Events of whole subjects in canonical order, and what became of each row: columns by "
           "name; those that no event of the source can have are empty.")
      .def("facts", &MedsMending::facts, "Facts about all events of the pieces: columns by name.");
}

}  // namespace chronoward::bindings
