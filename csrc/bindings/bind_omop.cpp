#include <memory>
#include <optional>
#include <string>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/value_columns.hpp"
#include "core/omop_census.hpp"
#include "core/omop_piece.hpp"

namespace chronoward::bindings {

namespace {

using Codes = Array<std::int32_t>;

/// An array of a dictionary, which holds it; empty where it is not there.
template <typename T>
std::span<const T> take(const Columns& columns, const char* name) {
  if (!columns.contains(name)) return {};
  const py::object column = columns[name];
  if (!py::isinstance<Array<T>>(column)) {
    throw py::type_error(std::string(name) + " is of another type");
  }
  return view(py::reinterpret_borrow<Array<T>>(column), name);
}

OmopRows rows_of(const Columns& c) {
  return {.table = take<std::uint16_t>(c, "table"),
          .order = take<std::int64_t>(c, "order"),
          .moment = take<std::int64_t>(c, "moment"),
          .day = take<std::int64_t>(c, "day"),
          .end_at = take<std::int64_t>(c, "end_at"),
          .end_day = take<std::int64_t>(c, "end_day"),
          .concept_id = take<std::int32_t>(c, "concept"),
          .source_concept = take<std::int32_t>(c, "source_concept"),
          .type = take<std::int32_t>(c, "type"),
          .status = take<std::int32_t>(c, "status"),
          .value_concept = take<std::int32_t>(c, "value_concept"),
          .operator_id = take<std::int32_t>(c, "operator"),
          .source_value = take<std::int32_t>(c, "source_value"),
          .text = take<std::int32_t>(c, "text"),
          .unit = take<std::int32_t>(c, "unit"),
          .visit_ref = take<std::int64_t>(c, "visit_ref"),
          .number = take<double>(c, "number"),
          .flags = take<std::uint8_t>(c, "flags")};
}

OmopSubjects subjects_of(const Columns& c) {
  return {.subject_id = take<std::int64_t>(c, "subject_id"),
          .birth = take<std::int64_t>(c, "birth"),
          .death = take<std::int64_t>(c, "death"),
          .offsets = take<std::int64_t>(c, "offsets")};
}

/// Years as pairs of the first microsecond and the one behind the last, from (2, n).
std::vector<std::pair<std::int64_t, std::int64_t>> years_of(const Array<std::int64_t>& us) {
  if (us.ndim() != 2 || us.shape(0) != 2) {
    throw std::invalid_argument("sentinel_us must have two rows");
  }
  std::vector<std::pair<std::int64_t, std::int64_t>> out;
  const auto n = static_cast<std::size_t>(us.shape(1));
  for (std::size_t i = 0; i < n; ++i) out.emplace_back(us.data()[i], us.data()[n + i]);
  return out;
}

/// The tables and rules by which an OMOP source's records are mended; holds the arrays.
class OmopMending {
 public:
  OmopMending(Columns tables, std::int32_t no_code, std::int32_t artificial_code,
              std::uint16_t drug_table, std::uint16_t condition_table, std::uint16_t visit_table)
      : arrays_(std::move(tables)),
        tables_{.id_value = take<std::int64_t>(arrays_, "id_value"),
                .id_flags = take<std::uint8_t>(arrays_, "id_flags"),
                .id_code = take<std::int32_t>(arrays_, "id_code"),
                .id_text = take<std::int32_t>(arrays_, "id_text"),
                .part_offsets = take<std::int64_t>(arrays_, "part_offsets"),
                .part_id = take<std::int32_t>(arrays_, "part_id"),
                .source_code = take<std::int32_t>(arrays_, "source_code"),
                .text_kind = take<std::uint8_t>(arrays_, "text_kind"),
                .text_number = take<double>(arrays_, "text_number"),
                .text_category = take<std::int32_t>(arrays_, "text_category"),
                .is_fixed_text = take<std::uint8_t>(arrays_, "is_fixed_text"),
                .is_date_type = take<std::uint8_t>(arrays_, "is_date_type"),
                .no_code = no_code,
                .artificial_code = artificial_code,
                .drug_table = drug_table,
                .condition_table = condition_table,
                .visit_table = visit_table} {}

  /// Rules on single records; sentinel_us (2, n): first and end of each sentinel year.
  void set_rules(const Array<std::int64_t>& sentinel_us, std::int64_t prenatal_us,
                 std::int64_t future_us, std::int64_t local_concept, bool uses_source_concept,
                 bool drops_unmapped, bool has_drug_stop) {
    rules_ = {.sentinel_us = years_of(sentinel_us),
              .prenatal_us = prenatal_us,
              .future_us = future_us,
              .local_concept = local_concept,
              .uses_source_concept = uses_source_concept,
              .drops_unmapped = drops_unmapped,
              .has_drug_stop = has_drug_stop};
    pieces_.emplace(tables_, rules_);
  }

  void set_texts(std::int32_t positive, std::int32_t negative, std::int32_t stop) {
    const auto n = static_cast<std::int32_t>(tables_.text_kind.size());
    for (const std::int32_t text : {positive, negative, stop}) {
      if (text < 0 || text >= n) throw std::invalid_argument("a text is out of range");
    }
    tables_.positive_text = positive;
    tables_.negative_text = negative;
    tables_.stop_text = stop;
  }

  /// By code: place in byte order; only `piece` looks at it, the other passes at its length.
  void set_codes(const Codes& code_rank) {
    code_rank_ = copied(code_rank, "code_rank");
    tables_.code_rank = code_rank_;
  }

  std::size_t n_codes() const { return code_rank_.size(); }

  /// By concept number of a type: the text of drug records of it, -1 for none.
  void set_drug_texts(const Codes& drug_text) {
    if (view(drug_text, "drug_text").size() != tables_.id_value.size()) {
      throw std::invalid_argument("drug_text must have one entry a concept");
    }
    drug_text_ = copied(drug_text, "drug_text");
    tables_.drug_text = drug_text_;
  }

  Columns survey(const Columns& subjects, const Columns& rows, const Columns& visits) {
    const StagedVisits staged{.offsets = take<std::int64_t>(visits, "offsets"),
                              .ref = take<std::int64_t>(visits, "ref"),
                              .start = take<std::int64_t>(visits, "start"),
                              .finish = take<std::int64_t>(visits, "finish"),
                              .ends_as_date = take<std::uint8_t>(visits, "ends_as_date")};
    const OmopSubjects who = subjects_of(subjects);
    const OmopRows records = rows_of(rows);
    OmopPieces& mine = pieces();
    VisitExtents extents;
    {
      py::gil_scoped_release release;  // the caller's arguments hold the buffers
      extents = mine.survey(who, records, staged);
    }
    Columns out;
    out["last_any"] = to_numpy(std::move(extents.last_any));
    out["last_same_day"] = to_numpy(std::move(extents.last_same_day));
    return out;
  }

  Columns texts() { return text_columns(pieces().texts()); }
  Columns units() { return unit_columns(pieces().units()); }

  Codes drug_types() { return to_numpy(pieces().drug_types()); }

  Columns unit_values(const Columns& subjects, const Columns& rows, const Bytes& is_chosen) {
    const OmopSubjects who = subjects_of(subjects);
    const OmopRows records = rows_of(rows);
    const auto chosen = view(is_chosen, "is_chosen");
    const OmopPieces& mine = pieces();
    UnitValues found;
    {
      py::gil_scoped_release release;  // the caller's arguments hold the buffers
      found = mine.unit_values(who, records, chosen);
    }
    return unit_value_columns(std::move(found));
  }

  /// What the first pass says about values, and places of texts in byte order.
  void set_values(const Codes& unit_name, const std::vector<Converted>& conversions,
                  const std::vector<Triple>& assumed, const std::vector<Triple>& kept_texts,
                  const Codes& unit_rank, const Codes& text_rank, std::int32_t female,
                  std::int32_t male, std::int32_t artificial, bool has_visits) {
    ValueRules values =
        value_rules(unit_name, tables_.is_fixed_text, conversions, assumed, kept_texts);
    const KnownCodes known{.female = female, .male = male, .artificial = artificial};
    pieces().set_values(std::move(values), copied(unit_rank, "unit_rank"),
                        copied(text_rank, "text_rank"), known, has_visits);
  }

  Columns piece(const Columns& subjects, const Columns& rows, const Columns& visits,
                const Columns& others) {
    const FinalVisits final_visits{.offsets = take<std::int64_t>(visits, "offsets"),
                                   .start = take<std::int64_t>(visits, "start"),
                                   .finish = take<std::int64_t>(visits, "finish"),
                                   .is_timed = take<std::uint8_t>(visits, "is_timed"),
                                   .ref_offsets = take<std::int64_t>(visits, "ref_offsets"),
                                   .ref = take<std::int64_t>(visits, "ref"),
                                   .became = take<std::int32_t>(visits, "became")};
    const OtherEvents extra{.offsets = take<std::int64_t>(others, "offsets"),
                            .time = take<std::int64_t>(others, "time"),
                            .available = take<std::int64_t>(others, "available"),
                            .end_time = take<std::int64_t>(others, "end_time"),
                            .role = take<std::uint8_t>(others, "role"),
                            .table = take<std::uint16_t>(others, "table"),
                            .code = take<std::int32_t>(others, "code"),
                            .visit = take<std::int32_t>(others, "visit")};
    const OmopSubjects who = subjects_of(subjects);
    const OmopRows records = rows_of(rows);
    OmopPieces& mine = pieces();
    EventPiece made;
    RecordFates fates;
    {
      py::gil_scoped_release release;  // the caller's arguments hold the buffers
      made = mine.make(who, records, final_visits, extra, fates);
    }
    return piece_columns(std::move(made), std::move(fates));
  }

  Columns facts() {
    Columns out = fact_columns(pieces().facts());
    out["named_table"] = to_numpy(pieces().named_tables());
    out["named_concept"] = to_numpy(pieces().named_concepts());
    return out;
  }

 private:
  OmopPieces& pieces() {
    if (!pieces_) throw std::logic_error("set_rules comes first");
    return *pieces_;
  }

  Columns arrays_;
  OmopTables tables_;
  OmopRules rules_;
  std::vector<std::int32_t> code_rank_, drug_text_;
  std::optional<OmopPieces> pieces_;
};

RecordCensus make_census(const TimesUs& subjects, const TimesUs& excluded,
                         const TimesUs& sentinel_us, std::int64_t border_us, std::int32_t zero,
                         bool uses_source_concept) {
  return RecordCensus({.subjects = copied(subjects, "subjects"),
                       .excluded = copied(excluded, "excluded"),
                       .sentinel_us = years_of(sentinel_us),
                       .border_us = border_us,
                       .zero = zero,
                       .uses_source_concept = uses_source_concept});
}

py::tuple take_records(RecordCensus& census, const TimesUs& subject_id, const Columns& rows,
                       std::uint16_t table, bool is_drug) {
  const auto ids = view(subject_id, "subject_id");
  const OmopRows records = rows_of(rows);
  Owners owners;
  {
    py::gil_scoped_release release;  // the caller's arguments hold the buffers
    owners = census.take(ids, records, table, is_drug);
  }
  return py::make_tuple(to_numpy(std::move(owners.subject)), to_numpy(std::move(owners.gone)),
                        owners.n_known);
}

void bind_census(py::module_& m) {
  py::class_<RecordCensus>(m, "RecordCensus",
                           "What the rules need to know about all clinical records of a source.")
      .def(py::init(&make_census), py::kw_only(), py::arg("subjects").noconvert(),
           py::arg("excluded").noconvert(), py::arg("sentinel_us").noconvert(),
           py::arg("border_us"), py::arg("zero"), py::arg("uses_source_concept"))
      .def("take", &take_records, py::arg("subject_id").noconvert(), py::arg("rows"), py::kw_only(),
           py::arg("table"), py::arg("is_drug"),
           "Counts records of one table. Of each row: the subject's place, -1 where it is not "
           "known, "
           "and why it is removed; and how many are known.")
      .def_property_readonly("n_dated", &RecordCensus::n_dated, "Times outside of sentinel years.")
      .def_property_readonly("n_late", &RecordCensus::n_late, "Of them, those after the border.")
      .def_property_readonly("midnights", &RecordCensus::midnights,
                             "By table and type (a concept's number or -1): records with a time of "
                             "day, and those at 00:00:00.")
      .def("names", [](const RecordCensus& self) { return self.names.numbers(); })
      .def("values", [](const RecordCensus& self) { return self.values.numbers(); })
      .def("drugs", [](const RecordCensus& self) { return self.drugs.numbers(); })
      .def("source_codes", [](const RecordCensus& self) { return self.source_codes.numbers(); });
}

}  // namespace

void bind_omop(py::module_& m) {
  bind_census(m);
  m.attr("RECORD_REMOVALS") = names(kRecordRemovals);
  m.attr("RECORD_CHANGES") = names(kRecordChanges);
  py::class_<OmopMending>(m, "OmopMending",
                          "Tables and rules by which the records of an OMOP source are mended.")
      .def(py::init<Columns, std::int32_t, std::int32_t, std::uint16_t, std::uint16_t,
                    std::uint16_t>(),
           py::arg("tables"), py::kw_only(), py::arg("no_code"), py::arg("artificial_code"),
           py::arg("drug_table"), py::arg("condition_table"), py::arg("visit_table"))
      .def("set_rules", &OmopMending::set_rules, py::kw_only(), py::arg("sentinel_us").noconvert(),
           py::arg("prenatal_us"), py::arg("future_us"), py::arg("local_concept"),
           py::arg("uses_source_concept"), py::arg("drops_unmapped"), py::arg("has_drug_stop"))
      .def("set_texts", &OmopMending::set_texts, py::kw_only(), py::arg("positive"),
           py::arg("negative"), py::arg("stop"))
      .def("set_codes", &OmopMending::set_codes, py::arg("code_rank").noconvert(),
           "Codes by number: their places in byte order, which only `piece` looks at.")
      .def_property_readonly("n_codes", &OmopMending::n_codes)
      .def("set_drug_texts", &OmopMending::set_drug_texts, py::arg("drug_text").noconvert(),
           "By concept number of a type: the text of drug records of it, -1 for none.")
      .def("survey", &OmopMending::survey, py::kw_only(), py::arg("subjects"), py::arg("rows"),
           py::arg("visits"), "First pass: the last times of each visit's records; counts values.")
      .def("texts", &OmopMending::texts, kTextsDoc)
      .def("units", &OmopMending::units, kUnitsDoc)
      .def("drug_types", &OmopMending::drug_types, "Types of kept drug records.")
      .def("unit_values", &OmopMending::unit_values, py::kw_only(), py::arg("subjects"),
           py::arg("rows"), py::arg("is_chosen").noconvert(), kUnitValuesDoc)
      .def("set_values", &OmopMending::set_values, py::kw_only(), py::arg("unit_name").noconvert(),
           py::arg("conversions"), py::arg("assumed"), py::arg("kept_texts"),
           py::arg("unit_rank").noconvert(), py::arg("text_rank").noconvert(), py::arg("female"),
           py::arg("male"), py::arg("artificial"), py::arg("has_visits"))
      .def("piece", &OmopMending::piece, py::kw_only(), py::arg("subjects"), py::arg("rows"),
           py::arg("visits"), py::arg("others"),
           "Events of whole subjects in canonical order, and what became of each row: columns by "
           "name; those that no event of the source can have are empty.")
      .def("facts", &OmopMending::facts, "Facts about all events of the pieces: columns by name.");
}

}  // namespace chronoward::bindings
