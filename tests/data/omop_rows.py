"""Small OMOP folders written by hand: a table is a list of dicts, missing columns are empty."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from chronoward.schema import event_schema

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.data import PreparedEvents

Row = dict[str, Any]

PERSON: Row = {
    "person_id": 1,
    "gender_concept_id": 8532,
    "year_of_birth": 1950,
    "month_of_birth": 3,
    "day_of_birth": 4,
    "race_concept_id": 8527,
}


def person(person_id: int = 1, **other: Any) -> Row:
    return PERSON | {"person_id": person_id} | other


def visit(key: int, start: str, end: str | None, concept: int = 9202, **other: Any) -> Row:
    return {
        "visit_occurrence_id": key,
        "person_id": 1,
        "visit_concept_id": concept,
        "visit_start_date": start[:10],
        "visit_start_datetime": start if len(start) > 10 else None,
        "visit_end_date": end[:10] if end else None,
        "visit_end_datetime": end if end and len(end) > 10 else None,
        "discharged_to_concept_id": None,
        "visit_type_concept_id": 32817,
    } | other


def condition(key: int, start: str, visit_id: int | None = None, **other: Any) -> Row:
    return {
        "condition_occurrence_id": key,
        "person_id": 1,
        "condition_concept_id": 316139,
        "condition_start_date": start[:10],
        "condition_start_datetime": start if len(start) > 10 else None,
        "condition_type_concept_id": 32817,
        "visit_occurrence_id": visit_id,
        "condition_source_value": None,
        "condition_source_concept_id": None,
    } | other


def measurement(key: int, start: str, visit_id: int | None = None, **other: Any) -> Row:
    return {
        "measurement_id": key,
        "person_id": 1,
        "measurement_concept_id": 3004501,
        "measurement_date": start[:10],
        "measurement_datetime": start if len(start) > 10 else None,
        "measurement_type_concept_id": 32856,
        "visit_occurrence_id": visit_id,
        "value_as_number": None,
        "value_as_concept_id": None,
        "operator_concept_id": None,
        "unit_concept_id": None,
        "unit_source_value": None,
        "value_source_value": None,
    } | other


def write_omop(folder: Path, tables: dict[str, list[Row]]) -> Path:
    """Writes tables as CSV; a table without rows must name its columns by one row of None."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with (folder / f"{name}.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for row in rows if any(v is not None for v in row.values()))
    return folder


def death(person_id: int, when: str) -> Row:
    return {
        "person_id": person_id,
        "death_date": when[:10],
        "death_datetime": when if len(when) > 10 else None,
    }


def period(key: int, person_id: int, start: str, end: str) -> Row:
    return {
        "observation_period_id": key,
        "person_id": person_id,
        "observation_period_start_date": start,
        "observation_period_end_date": end,
    }


def drug(key: int, start: str, concept: int, visit_id: int | None = None, **other: Any) -> Row:
    return {
        "drug_exposure_id": key,
        "person_id": 1,
        "drug_concept_id": concept,
        "drug_exposure_start_date": start[:10],
        "drug_exposure_start_datetime": start if len(start) > 10 else None,
        "drug_type_concept_id": 32838,
        "visit_occurrence_id": visit_id,
    } | other


def concept(concept_id: int, code: str, vocabulary: str = "SNOMED", **other: Any) -> Row:
    return {
        "concept_id": concept_id,
        "concept_name": f"name of {code}",
        "domain_id": "Condition",
        "vocabulary_id": vocabulary,
        "concept_class_id": "Clinical Finding",
        "standard_concept": "S",
        "concept_code": code,
    } | other


def events_of(prepared: PreparedEvents) -> pa.Table:
    """All events, texts as plain strings."""
    return pa.concat_tables(batch.cast(event_schema()) for batch in prepared.batches())
