"""Random small OMOP databases with every fault that a record can have, as a hypothesis strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from chronoward.data import IngestConfig

if TYPE_CHECKING:
    from tests.twin.omop import Tables

SUBJECTS = ["1", "2", "3", "4"]
PEOPLE = st.sampled_from([*SUBJECTS, *SUBJECTS, *SUBJECTS, "77", None])
DAYS = [f"2020-01-0{n}" for n in range(1, 6)]
ODD_DAYS = ["2020-02-30", "soon", "1900-01-01", "9999-12-31", "2031-05-05", "20200103", None]
CLOCKS = ["00:00:00", "00:00:00", "06:00:00", "10:00:00", "10:00:00", "23:00:00"]
VISIT_REFS = st.sampled_from([*"11223456", "99", None, None])
CONCEPTS = [
    {"concept_id": "10", "concept_code": "I50", "vocabulary_id": "SNOMED"},
    {"concept_id": "11", "concept_code": "292", "vocabulary_id": "DRG"},
    {"concept_id": "20", "concept_code": "aspirin", "vocabulary_id": "RxNorm"},
    {"concept_id": "21", "concept_code": "statin", "vocabulary_id": "RxNorm"},
    {"concept_id": "22", "concept_code": "aspirin 100", "vocabulary_id": "RxNorm"},
    {"concept_id": "23", "concept_code": "both", "vocabulary_id": "RxNorm"},
    {"concept_id": "30", "concept_code": "2345-7", "vocabulary_id": "LOINC"},
    {"concept_id": "40", "concept_code": "yes", "vocabulary_id": "LOINC"},
    {"concept_id": "8863", "concept_code": "SNF", "vocabulary_id": "CMS"},
    {"concept_id": "8840", "concept_code": "mg/dL", "vocabulary_id": "UCUM"},
    {"concept_id": "581478", "concept_code": "AMB", "vocabulary_id": "Visit"},
]
ANCESTORS = [("20", "22"), ("20", "23"), ("21", "23"), ("20", "20"), ("10", "11")]


def some(*values: str | None, blank: int = 0) -> st.SearchStrategy[str | None]:
    """One of the values; `blank` adds so many chances of an empty cell."""
    return st.sampled_from([*values, *[None] * blank])


@st.composite
def dates(draw: st.DrawFn, *, odd: float = 0.08) -> str | None:
    """A day of the week that the databases are about, at times one that cannot be."""
    is_odd = draw(st.integers(0, 99)) < odd * 100
    return draw(st.sampled_from(ODD_DAYS if is_odd else DAYS))


@st.composite
def moments(draw: st.DrawFn) -> tuple[str | None, str | None]:
    """(date, datetime) of one moment, one of which may be missing."""
    day = draw(dates())
    if day is None or not day.startswith(("2", "1900", "9999")):
        return day, draw(st.sampled_from([None, day]))
    clock = draw(st.sampled_from(CLOCKS))
    at = f"{day} {clock}" if "-" in day else None
    return draw(st.sampled_from([(day, at), (day, at), (day, None), (None, at)]))


def _rows(draw: st.DrawFn, columns: dict, least: int, most: int, keys: int | None) -> list[dict]:
    """Rows of independent cells, some of them twice; keys count from a number on."""
    rows = draw(st.lists(st.fixed_dictionaries(columns), min_size=least, max_size=most))
    copies = draw(st.lists(st.sampled_from(rows), max_size=3)) if rows else []
    rows = [dict(row) for row in [*rows, *copies]]
    for number, row in enumerate(rows):
        if keys is not None:
            row["key"] = str(keys + number)
        for name in [name for name in row if name.startswith("at ")]:
            stem = name.removeprefix("at ")
            row[f"{stem}_date"], row[f"{stem}_datetime"] = row.pop(name)
    return rows


def _named(rows: list[dict], stem: str, key: str) -> list[dict]:
    return [
        {(key if name == "key" else name.replace("*", stem)): v for name, v in row.items()}
        for row in rows
    ]


_CLINICAL = {
    "person_id": PEOPLE,
    "*_concept_id": some("10", "11", "12", "0", "2000000007", blank=1),
    "*_source_concept_id": some("50", "0", blank=3),
    "*_source_value": some("local", "428.0", " ", blank=2),
    "*_type_concept_id": some("32817", "32821"),
    "visit_occurrence_id": VISIT_REFS,
}
_VALUES = {
    "value_as_number": some("5.5", "7", "140", "NaN", "inf", "1e39", "high", "-0.0", blank=6),
    "value_source_value": some(
        *("<5", ">= 7.5", "12", "refused", "Positive", "neg", "red", "blue", "x" * 80), blank=5
    ),
    "value_as_concept_id": some("40", "41", "9191", "9189", "0", blank=6),
    "unit_concept_id": some("8840", "0", "777", blank=3),
    "unit_source_value": some("mg/dl", "mmol/L", "odd", blank=3),
}


@st.composite
def _people(draw: st.DrawFn) -> list[dict]:
    columns = {
        "gender_concept_id": some("8532", "8507", "0"),
        "year_of_birth": some("1950", "1950", "2020", "1900", "x", blank=1),
        "month_of_birth": some("1", "2", "13", blank=1),
        "day_of_birth": some("1", "4", "31", "99", blank=1),
        "birth_datetime": some("1951-03-04 05:00:00", "2020-01-03 07:00:00", blank=6),
        "race_concept_id": some("8527", "0", "10", blank=1),
        "ethnicity_concept_id": some("38003564", "0", blank=1),
    }
    return [{"person_id": key} | draw(st.fixed_dictionaries(columns)) for key in SUBJECTS]


@st.composite
def _visits(draw: st.DrawFn) -> list[dict]:
    columns = {
        "person_id": PEOPLE,
        "visit_concept_id": some("9201", "9203", "9203", "9202", "581478", "0"),
        "at visit_start": moments(),
        "at visit_end": moments(),
        "visit_type_concept_id": some("32817", "32818"),
        "discharged_to_concept_id": some("8863", "0", "8536", "4216643", blank=4),
    }
    return _named(_rows(draw, columns, 1, 9, 1), "visit", "visit_occurrence_id")


@st.composite
def _details(draw: st.DrawFn) -> list[dict]:
    columns = {
        "person_id": PEOPLE,
        "visit_detail_concept_id": some("32037", "9203", "8863"),
        "at visit_detail_start": moments(),
        "at visit_detail_end": moments(),
        "visit_occurrence_id": VISIT_REFS,
    }
    return _named(_rows(draw, columns, 0, 4, 500), "visit_detail", "visit_detail_id")


@st.composite
def _measurements(draw: st.DrawFn) -> list[dict]:
    columns = _CLINICAL | _VALUES | {"at measurement": moments()}
    columns |= {"*_concept_id": some("30", "30", "3004501", "0", blank=1)}
    columns |= {"operator_concept_id": some("4171756", "4172703", blank=3)}
    return _named(_rows(draw, columns, 0, 10, 90), "measurement", "measurement_id")


@st.composite
def _observations(draw: st.DrawFn) -> list[dict]:
    columns = _CLINICAL | _VALUES | {"at observation": moments()}
    columns |= {"value_as_string": some("red", "not done", blank=4)}
    return _named(_rows(draw, columns, 0, 4, 8), "observation", "observation_id")


@st.composite
def _conditions(draw: st.DrawFn) -> list[dict]:
    columns = _CLINICAL | {"at condition_start": moments(), "at condition_end": moments()}
    columns |= {"condition_status_concept_id": some("32890", "0", blank=2)}
    return _named(_rows(draw, columns, 0, 8, 7), "condition", "condition_occurrence_id")


@st.composite
def _drugs(draw: st.DrawFn) -> list[dict]:
    columns = _CLINICAL | {"at drug_exposure_start": moments(), "at drug_exposure_end": moments()}
    columns |= {"*_concept_id": some("20", "22", "23", "24", "0", blank=1)}
    columns |= {"*_type_concept_id": some("32838", "32825", "32817")}
    return _named(_rows(draw, columns, 0, 6, 3000), "drug", "drug_exposure_id")


@st.composite
def _procedures(draw: st.DrawFn) -> list[dict]:
    columns = _CLINICAL | {"at procedure": moments()}
    return _named(_rows(draw, columns, 0, 3, 1), "procedure", "procedure_occurrence_id")


@st.composite
def _deaths(draw: st.DrawFn) -> list[dict]:
    columns = {"person_id": PEOPLE, "at death": moments()}
    return _rows(draw, columns, 0, 3, None)


@st.composite
def _periods(draw: st.DrawFn) -> list[dict]:
    columns = {
        "person_id": PEOPLE,
        "observation_period_start_date": dates(),
        "observation_period_end_date": dates(),
    }
    return _named(_rows(draw, columns, 0, 5, 60), "", "observation_period_id")


_OPTIONAL = {
    "visit_occurrence": _visits(),
    "visit_detail": _details(),
    "condition_occurrence": _conditions(),
    "measurement": _measurements(),
    "drug_exposure": _drugs(),
    "observation": _observations(),
    "procedure_occurrence": _procedures(),
    "death": _deaths(),
    "observation_period": _periods(),
}
_REQUIRED = {
    *("person_id", "visit_occurrence_id", "visit_concept_id", "visit_detail_id"),
    *("visit_detail_concept_id", "condition_occurrence_id", "condition_concept_id"),
    *("measurement_id", "measurement_concept_id", "drug_exposure_id", "drug_concept_id"),
    *("observation_id", "observation_concept_id", "procedure_occurrence_id"),
    *("procedure_concept_id", "gender_concept_id", "year_of_birth", "observation_period_id"),
    *("observation_period_start_date", "observation_period_end_date"),
}
"""Columns that a table must have; of a date and a datetime one is enough."""


def _without_columns(draw: st.DrawFn, rows: list[dict]) -> list[dict]:
    names = [name for name in rows[0] if name not in _REQUIRED] if rows else []
    starts = [name for name in names if name.endswith(("start_date", "measurement_date"))]
    starts += [n for n in names if n in ("death_date", "observation_date", "procedure_date")]
    free = [name for name in names if name not in starts]
    gone = set(draw(st.lists(st.sampled_from(free), max_size=2))) if free else set()
    rows = [{name: value for name, value in row.items() if name not in gone} for row in rows]
    return [row for row in rows if any(row.values())]  # an empty line of CSV is no row


@st.composite
def omop_databases(draw: st.DrawFn) -> Tables:
    """Tables by name; a table, and a column that may be missing, may be missing."""
    tables: Tables = {"person": draw(_people())}
    for name, rows in _OPTIONAL.items():
        if draw(st.integers(0, 9)):
            tables[name] = _without_columns(draw, draw(rows))
    if draw(st.booleans()):
        named = ("concept_name", "domain_id", "concept_class_id")
        tables["concept"] = [
            row
            | dict.fromkeys(named, "x")
            | ({"concept_class_id": "Ingredient"} if row["concept_id"] in ("20", "21") else {})
            for row in CONCEPTS
        ]
        names = ("ancestor_concept_id", "descendant_concept_id", "min_levels_of_separation")
        if draw(st.booleans()):
            tables["concept_ancestor"] = [
                dict(zip(names, (up, down, "1"), strict=True)) for up, down in ANCESTORS
            ]
    if draw(st.booleans()):
        day = draw(some("2020-01-04", "2020-01-31", "2019-01-01"))
        tables["cdm_source"] = [{"cdm_source_name": "twin", "source_release_date": day}]
    if draw(st.booleans()):
        tables["note"] = [{"note_id": "5", "person_id": "1"}, {"note_id": "6", "person_id": "9"}]
        tables["care_site"] = [{"care_site_id": "5"}]
    return tables


@st.composite
def ingest_configs(draw: st.DrawFn) -> IngestConfig:
    """Dials, with categories that few subjects need to share."""
    return IngestConfig(
        concept_policy=draw(st.sampled_from(["standard_then_source", "standard", "source"])),
        prenatal_policy=draw(st.sampled_from(["keep", "quarantine"])),
        observation_end=draw(st.sampled_from(["last_event", "extract_date"])),
        extract_date=draw(st.sampled_from([None, None, "2020-01-03"])),
        calendar=draw(st.sampled_from(["auto", "auto", "real", "shifted"])),
        drug_stop=draw(st.booleans()),
        text_top_k=2,
        text_min_subjects=2,
        midnight_share=draw(st.sampled_from([0.2, 0.6])),
    )
