"""The cases as an OMOP database in Parquet, typed as CEHR-GPT's Spark code needs it."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from . import cases

if TYPE_CHECKING:
    from pathlib import Path

    from .cases import Case

ID, TEXT, NUMBER = pa.int64(), pa.string(), pa.float64()
DATE, TIME = pa.date32(), pa.timestamp("us")


def _record(prefix: str, key: str, start: str, when: str, more: dict[str, Any]) -> pa.Schema:
    columns: dict[str, Any] = {f"{key}_id": ID, "person_id": ID, f"{prefix}_concept_id": ID}
    columns |= {start: DATE, when: TIME, "visit_occurrence_id": ID}
    return pa.schema(columns | more)


SCHEMAS: dict[str, pa.Schema] = {
    "person": pa.schema(
        {"person_id": ID, "gender_concept_id": ID, "race_concept_id": ID, "year_of_birth": ID}
        | {"month_of_birth": ID, "day_of_birth": ID, "birth_datetime": TIME}
    ),
    "visit_occurrence": pa.schema(
        {"visit_occurrence_id": ID, "person_id": ID, "visit_concept_id": ID}
        | {"visit_start_date": DATE, "visit_start_datetime": TIME, "visit_end_date": DATE}
        | {"visit_end_datetime": TIME, "discharged_to_concept_id": ID, "visit_type_concept_id": ID}
    ),
    "condition_occurrence": _record(
        "condition",
        "condition_occurrence",
        "condition_start_date",
        "condition_start_datetime",
        {"condition_type_concept_id": ID},
    ),
    "procedure_occurrence": _record(
        "procedure", "procedure_occurrence", "procedure_date", "procedure_datetime", {}
    ),
    "drug_exposure": _record(
        "drug", "drug_exposure", "drug_exposure_start_date", "drug_exposure_start_datetime", {}
    ),
    "measurement": _record(
        "measurement",
        "measurement",
        "measurement_date",
        "measurement_datetime",
        {"value_as_number": NUMBER, "value_as_concept_id": ID, "unit_concept_id": ID}
        | {"unit_source_value": TEXT},
    ),
    "death": pa.schema({"person_id": ID, "death_date": DATE, "death_datetime": TIME}),
    "concept": pa.schema(
        {"concept_id": ID, "concept_name": TEXT, "domain_id": TEXT, "vocabulary_id": TEXT}
        | {"concept_class_id": TEXT, "standard_concept": TEXT, "concept_code": TEXT}
    ),
    "concept_ancestor": pa.schema(
        {"ancestor_concept_id": ID, "descendant_concept_id": ID, "min_levels_of_separation": ID}
        | {"max_levels_of_separation": ID}
    ),
}
_CONCEPTS = (
    (cases.HF, "SNOMED", "84114007", "Condition", "Clinical Finding"),
    (cases.DM, "SNOMED", "44054006", "Condition", "Clinical Finding"),
    (cases.AF, "SNOMED", "49436004", "Condition", "Clinical Finding"),
    (cases.PAIN, "SNOMED", "29857009", "Condition", "Clinical Finding"),
    (cases.XRAY, "SNOMED", "399208008", "Procedure", "Procedure"),
    (cases.SURGERY, "SNOMED", "232717009", "Procedure", "Procedure"),
    (cases.ASPIRIN, "RxNorm", "1191", "Drug", "Ingredient"),
    (cases.METFORMIN, "RxNorm", "6809", "Drug", "Ingredient"),
    (cases.STATIN, "RxNorm", "83367", "Drug", "Ingredient"),
    (cases.ASPIRIN_PILL, "RxNorm", "243670", "Drug", "Clinical Drug"),
    (cases.COMBINATION, "RxNorm", "861769", "Drug", "Clinical Drug"),
    (cases.CREATININE, "LOINC", "2160-0", "Measurement", "Lab Test"),
    (cases.CULTURE, "LOINC", "600-7", "Measurement", "Lab Test"),
    (8840, "UCUM", "mg/dL", "Unit", "Unit"),
    (8749, "UCUM", "umol/L", "Unit", "Unit"),
    (9191, "SNOMED", "10828004", "Meas Value", "Qualifier Value"),
    (9201, "Visit", "IP", "Visit", "Visit"),
    (9202, "Visit", "OP", "Visit", "Visit"),
    (9203, "Visit", "ER", "Visit", "Visit"),
    (262, "Visit", "ERIP", "Visit", "Visit"),
    (8971, "CMS Place of Service", "51", "Visit", "Visit"),
    (8920, "CMS Place of Service", "61", "Visit", "Visit"),
    (581477, "CMS Place of Service", "OV", "Visit", "Visit"),
    (581385, "CMS Place of Service", "OBS", "Visit", "Visit"),
    (8536, "CMS Place of Service", "12", "Visit", "Visit"),
    (4216643, "SNOMED", "371828006", "Observation", "Clinical Finding"),
    (8507, "Gender", "M", "Gender", "Gender"),
    (8532, "Gender", "F", "Gender", "Gender"),
    (8515, "Race", "2", "Race", "Race"),
    (8527, "Race", "5", "Race", "Race"),
)
_INGREDIENTS = (
    (cases.ASPIRIN, cases.ASPIRIN),
    (cases.METFORMIN, cases.METFORMIN),
    (cases.STATIN, cases.STATIN),
    (cases.ASPIRIN, cases.ASPIRIN_PILL),
    (cases.METFORMIN, cases.COMBINATION),
    (cases.STATIN, cases.COMBINATION),
)
_START = {
    "condition": "condition_start_date",
    "procedure": "procedure_date",
    "drug": "drug_exposure_start_date",
    "measurement": "measurement_date",
}
_TABLE = {
    "condition": "condition_occurrence",
    "procedure": "procedure_occurrence",
    "drug": "drug_exposure",
    "measurement": "measurement",
}


def _day(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text[:10])


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text is not None and len(text) > 10 else None


def _person(person: int, case: Case) -> dict[str, Any]:
    born = date.fromisoformat(case.born)
    return {
        "person_id": person,
        "gender_concept_id": case.gender,
        "race_concept_id": case.race,
        "year_of_birth": born.year,
        "month_of_birth": born.month,
        "day_of_birth": born.day,
        "birth_datetime": datetime(born.year, born.month, born.day),
    }


def _add_case(tables: dict[str, list[dict[str, Any]]], person: int, case: Case) -> None:
    tables["person"].append(_person(person, case))
    first = len(tables["visit_occurrence"]) + 1
    for i, visit in enumerate(case.visits):
        tables["visit_occurrence"].append(
            {
                "visit_occurrence_id": first + i,
                "person_id": person,
                "visit_concept_id": visit["concept"],
                "visit_start_date": _day(visit["start"]),
                "visit_start_datetime": _time(visit["start"])
                or datetime.fromisoformat(visit["start"]),
                "visit_end_date": _day(visit["end"]),
                "visit_end_datetime": _time(visit["end"]),
                "discharged_to_concept_id": visit["discharge"],
                "visit_type_concept_id": 32817,
            }
        )
    for event in case.events:
        kind, table = event["table"], _TABLE[event["table"]]
        start = _START[kind]
        row = {
            f"{table}_id": len(tables[table]) + 1,
            "person_id": person,
            f"{kind}_concept_id": event["concept"],
            start: _day(event["when"]),
            f"{start}time": _time(event["when"]),
            "visit_occurrence_id": None if event["visit"] is None else first + event["visit"],
        }
        if kind == "condition":
            row["condition_type_concept_id"] = 32817
        if kind == "measurement":
            row |= {"value_as_number": event["value"], "value_as_concept_id": event["answer"]}
            row |= {"unit_concept_id": event["unit"]}
        tables[table].append(row)
    if case.died is not None:
        tables["death"].append({"person_id": person, "death_date": _day(case.died)})


def write_cases(folder: Path) -> None:
    """Writes all cases, the first one as person 1."""
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
    for person, case in enumerate(cases.CASES, 1):
        _add_case(tables, person, case)
    names = ("concept_id", "vocabulary_id", "concept_code", "domain_id", "concept_class_id")
    for concept in _CONCEPTS:
        row = dict(zip(names, concept, strict=True))
        tables["concept"].append(row | {"concept_name": concept[2], "standard_concept": "S"})
    for up, down in _INGREDIENTS:
        levels = int(up != down)
        tables["concept_ancestor"].append(
            {"ancestor_concept_id": up, "descendant_concept_id": down}
            | {"min_levels_of_separation": levels, "max_levels_of_separation": levels}
        )
    for name, rows in tables.items():
        (folder / name).mkdir(parents=True)
        table = pa.Table.from_pylist(rows, schema=SCHEMAS[name])
        pq.write_table(table, folder / name / "0.parquet")
