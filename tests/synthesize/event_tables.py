"""Hand-made decoded events, as a tokenizer's decode would give them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa

from chronoward.schema import Role, event_schema, observation_schema
from chronoward.synthesize.concepts import Code, CodeMap, map_codes

UNITS = {"mm[Hg]": 8876, "mg/dL": 8840}


def codes() -> list[Code]:
    """A code of every kind that the writer treats in its own way."""

    def known(
        table: str, code: str, concept_id: int, domain: str, concept_class: str = "Clinical Finding"
    ) -> Code:
        return Code(
            table=table,
            code=code,
            concept_id=concept_id,
            vocabulary_id=code.split("/", 1)[0],
            domain_id=domain,
            concept_class_id=concept_class,
            description=code,
        )

    return [
        Code(table="person", code="Gender/F", concept_id=8532),
        Code(table="person", code="Gender/M", concept_id=8507),
        Code(table="person", code="Race/5", concept_id=8527, domain_id="Race"),
        Code(table="visit_occurrence", code="Visit/IP", concept_id=9201, is_inpatient=True),
        Code(table="visit_occurrence", code="Visit/OP", concept_id=9202),
        Code(table="visit_occurrence", code="Visit/0"),
        Code(table="visit_occurrence", code="Discharge/HOME", concept_id=581476),
        Code(table="visit_detail", code="Visit/ICU", concept_id=32037),
        known("condition_occurrence", "SNOMED/84114007", 316139, "Condition"),
        known("condition_occurrence", "ICD10CM/I50", 1569178, "Condition", "3-char nonbill code"),
        known("condition_occurrence", "SNOMED/160603005", 4222303, "Observation"),
        known("drug_exposure", "RxNorm/17767", 1332418, "Drug", "Ingredient"),
        known("procedure_occurrence", "SNOMED/71388002", 4301351, "Procedure", "Procedure"),
        known("device_exposure", "SNOMED/303619006", 4217646, "Device", "Physical Object"),
        known("measurement", "LOINC/8480-6", 3004249, "Measurement", "Clinical Observation"),
        Code(table="measurement", code="OMOP/3016723", concept_id=3016723),
        Code(table="observation", code="OMOP/2000000123", concept_id=2_000_000_123),
        Code(table="", code="LAB//50912//mg", has_values=True),
        Code(table="", code="TRANSFER//ward"),
    ]


def code_map() -> CodeMap:
    """Where those codes go."""
    return map_codes(codes(), UNITS)


def at(text: str) -> datetime:
    """A time from `2010-03-01 08:00`."""
    return datetime.fromisoformat(text)


def row(role: Role, time: str | None, table: str, code: str, **values: Any) -> dict[str, Any]:
    """One event of subject 1 unless `subject_id` says otherwise."""
    when = None if time is None else at(time)
    event = {
        "subject_id": 1,
        "time": when,
        "available_time": when,
        "role": int(role),
        "table": table,
        "code": code,
    }
    return {**event, **values}


def events(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as an event table."""
    names = event_schema().names
    filled = [{name: r.get(name) for name in names} for r in rows]
    return pa.Table.from_pylist(filled, schema=event_schema())


def observation(periods: list[tuple[int, str, str]]) -> pa.Table:
    """(subject_id, start, end) as an observation table."""
    return pa.Table.from_pylist(
        [{"subject_id": s, "start_time": at(a), "end_time": at(b)} for s, a, b in periods],
        schema=observation_schema(),
    )


def demographics(subject_id: int, born: str, sex: str = "F") -> list[dict[str, Any]]:
    """Birth, sex and race of one subject."""
    return [
        row(Role.BIRTH, born, "person", "MEDS_BIRTH", subject_id=subject_id),
        row(Role.SEX, None, "person", f"Gender/{sex}", subject_id=subject_id),
        row(Role.RACE, None, "person", "Race/5", subject_id=subject_id),
    ]


def lives() -> tuple[pa.Table, pa.Table]:
    """Two subjects: a stay with everything in it, a prescription, records outside visits, death."""
    stay = {"visit_id": 0}
    office = {"visit_id": 1}
    alone = {"visit_id": 2}
    condition, drug, lab = "condition_occurrence", "drug_exposure", "measurement"
    start, end = "2010-03-01 08:00", "2010-03-05 00:00"
    rows = [
        *demographics(1, "1950-06-15"),
        row(Role.VISIT, start, "visit_occurrence", "Visit/IP", end_time=at(end), **stay),
        row(Role.DETAIL, "2010-03-02 10:00", "visit_detail", "Visit/ICU", end_time=at(end), **stay),
        row(Role.CODE, start, condition, "SNOMED/84114007", **stay),
        row(Role.CODE, start, lab, "LOINC/8480-6", numeric_value=120.1, unit="mm[Hg]", **stay),
        row(Role.CODE, "2010-03-02 10:00", drug, "RxNorm/17767", **stay),
        row(Role.CODE, "2010-03-02 10:00", "procedure_occurrence", "SNOMED/71388002", **stay),
        row(Role.CODE, "2010-03-02 10:00", "device_exposure", "SNOMED/303619006", **stay),
        row(Role.CODE, "2010-03-03 09:30", lab, "OMOP/3016723", text_value="POS", **stay),
        row(Role.CODE, end, condition, "SNOMED/84114007", **stay),
        row(Role.CODE, end, condition, "ICD10CM/I50", **stay),
        row(Role.DISCHARGE, end, "visit_occurrence", "Discharge/HOME", **stay),
        row(
            Role.VISIT,
            "2010-04-20 09:00",
            "visit_occurrence",
            "Visit/OP",
            end_time=at("2010-04-20 09:20"),
            **office,
        ),
        row(Role.CODE, "2010-04-20 09:20", condition, "SNOMED/160603005", **office),
        row(Role.CODE, "2010-04-20 09:20", drug, "RxNorm/17767", text_value="order", **office),
        row(
            Role.VISIT,
            "2010-12-20 12:00",
            "visit_occurrence",
            "Visit/0",
            end_time=at("2010-12-20 12:00"),
            **alone,
        ),
        row(Role.CODE, "2010-12-20 12:00", drug, "RxNorm/17767", **alone),
        row(Role.CODE, "2010-12-20 12:00", "observation", "OMOP/2000000123", **alone),
        row(Role.DEATH, "2011-01-01 00:00", "death", "MEDS_DEATH"),
        *demographics(2, "1980-01-31", "M"),
        row(Role.CODE, "2010-05-01 00:00", "", "LAB//50912//mg", numeric_value=0.9, subject_id=2),
        row(Role.CODE, "2010-05-01 00:00", "", "TRANSFER//ward", subject_id=2),
    ]
    periods = [(1, "2010-03-01 08:00", "2012-01-01 00:00"), (2, "2010-05-01 00:00", "2010-05-02")]
    return events(rows), observation(periods)
