"""A small hand-written clinic: event, observation and code tables, and tokenizer specs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from chronoward.schema import Role, code_schema, event_schema, observation_schema
from chronoward.tokenizer import TokenizerSpec

DAY_US = 86_400_000_000
MIN_US = 60_000_000
EPOCH_2010 = 14610 * DAY_US

ROLE_TABLES = {
    Role.BIRTH: "person",
    Role.SEX: "person",
    Role.RACE: "person",
    Role.VISIT: "visit_occurrence",
    Role.DETAIL: "visit_detail",
    Role.DISCHARGE: "visit_occurrence",
    Role.DEATH: "death",
}
CODES: dict[str, tuple[str, list[str | None]]] = {
    # code -> (table, units)
    "SNOMED/hf": ("condition_occurrence", [None]),
    "SNOMED/pregnancy": ("condition_occurrence", [None]),
    "RxNorm/aspirin": ("drug_exposure", [None]),
    "LOINC/creatinine": ("measurement", ["mg/dL"]),
    "LOINC/sodium": ("measurement", ["mmol/L", None]),
    "LOINC/culture": ("measurement", [None]),
    "CPT4/xray": ("procedure_occurrence", [None]),
    # the same code under another table is another code
    "SNOMED/hf ": ("observation", [None]),
}
VISITS = {"Visit/IP": True, "Visit/OP": False, "Visit/ER": False}
TEXTS = ["POS", "NEG", "unclear"]


def row(
    subject: int,
    role: Role,
    code: str,
    time: int | None = None,
    available: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One event; times in microseconds, available defaults to time."""
    event: dict[str, Any] = dict.fromkeys(event_schema().names)
    event |= {"subject_id": subject, "role": int(role), "code": code, "time": time}
    event["table"] = ROLE_TABLES.get(role, "")
    event["available_time"] = time if available is None else available
    return event | more


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """An event table in canonical order."""
    order = ["available_time", "role", "table", "code", "unit", "numeric_value", "text_value"]
    order += ["time", "visit_id", "end_time"]

    def key(event: dict[str, Any]) -> tuple[Any, ...]:
        rest = ((event[n] is not None, event[n] if event[n] is not None else 0) for n in order)
        return (event["subject_id"], *rest)

    def column(name: str, kind: pa.DataType) -> pa.Array:
        values = [event[name] for event in events]
        if pa.types.is_timestamp(kind):
            return pa.array(values, pa.int64()).cast(kind)
        return pa.array(values, kind)

    events = sorted(rows, key=key)
    schema = event_schema()
    return pa.Table.from_arrays([column(f.name, f.type) for f in schema], schema=schema)


def shuffled(events: pa.Table, rng: np.random.Generator) -> pa.Table:
    """The same events with the rows of each subject in another order."""
    who = events["subject_id"].to_numpy()
    return events.take(np.lexsort((rng.random(len(who)), who)))


def subject_rows(subject: int, rng: np.random.Generator, *, n_visits: int) -> list[dict[str, Any]]:
    """One life: birth (mostly), sex, race, visits with codes, details, discharge, maybe death."""
    rows = [row(subject, Role.SEX, f"Gender/{rng.choice(['F', 'M', 'U'], p=[0.45, 0.45, 0.1])}")]
    birth = EPOCH_2010 - int(rng.integers(0, 36_000)) * DAY_US
    if rng.random() < 0.9:
        rows.append(row(subject, Role.BIRTH, "MEDS_BIRTH", birth))
    else:
        birth = EPOCH_2010 - 20 * 365 * DAY_US
    if rng.random() < 0.8:
        rows.append(row(subject, Role.RACE, f"Race/{rng.integers(1, 4)}"))
    now = max(birth, EPOCH_2010 - int(rng.integers(0, 2000)) * DAY_US) + int(
        rng.integers(0, 1440) * MIN_US
    )
    for visit in range(n_visits):
        visit_rows, now = _visit(subject, visit, now, rng)
        rows += visit_rows
        now += int(rng.choice([0, 30, 1440, 60_000, 700_000]) * rng.integers(0, 4)) * MIN_US
    if rng.random() < 0.3:
        rows.append(row(subject, Role.DEATH, "MEDS_DEATH", now))
    return rows


def _visit(
    subject: int, visit: int, start: int, rng: np.random.Generator
) -> tuple[list[dict[str, Any]], int]:
    kind = str(rng.choice(list(VISITS)))
    length = int(rng.integers(0, 6 * 1440) if kind == "Visit/IP" else rng.integers(0, 300))
    end = start + length * MIN_US + int(rng.integers(0, 2)) * 17_000_000
    rows = [row(subject, Role.VISIT, kind, start, visit_id=visit, end_time=end)]
    for _ in range(int(rng.integers(0, 8))):
        available = int(rng.integers(start, end + 1))
        code = str(rng.choice(list(CODES)))
        domain, units = CODES[code]
        more: dict[str, Any] = {"table": domain, "visit_id": visit}
        more["unit"] = units[int(rng.integers(len(units)))]
        if code in ("LOINC/creatinine", "LOINC/sodium") and rng.random() < 0.9:
            more["numeric_value"] = float(np.float32(rng.lognormal(0.0, 1.0)))
        elif code == "LOINC/culture":
            more["text_value"] = str(rng.choice(TEXTS, p=[0.5, 0.4, 0.1]))
        time = start if rng.random() < 0.2 else available
        rows.append(row(subject, Role.CODE, code.strip(), time, available, **more))
    if kind == "Visit/IP":
        for _ in range(int(rng.integers(0, 3))):
            a, b = sorted(int(x) for x in rng.integers(start, end + 1, 2))
            ward = f"Ward/{rng.integers(1, 3)}"
            rows.append(row(subject, Role.DETAIL, ward, a, visit_id=visit, end_time=b))
        if rng.random() < 0.8:
            rows.append(row(subject, Role.DISCHARGE, "Discharge/home", end, visit_id=visit))
    return rows, end


def make_world(n_subjects: int, seed: int) -> tuple[pa.Table, pa.Table, pa.Table]:
    """(events, observation, codes) of a clinic."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for i in range(n_subjects):
        rows += subject_rows(10 * i - 50, rng, n_visits=int(rng.integers(0, 6)))
    events = table(rows)
    return events, make_observation(events), make_codes()


HOURS_BEFORE = (0, 6, 30, 24 * 40, 24 * 900)  # observation begins before the first event, by id


def make_observation(events: pa.Table) -> pa.Table:
    """One period a subject: from its first event or hours to years earlier, to its last event."""
    timed = events.filter(pa.compute.is_valid(events["available_time"]))
    periods = timed.group_by("subject_id").aggregate(
        [("available_time", "min"), ("available_time", "max")]
    )
    subject, first, last = (
        periods[n] for n in ("subject_id", "available_time_min", "available_time_max")
    )
    hours = np.array(HOURS_BEFORE)[subject.to_numpy() % len(HOURS_BEFORE)]
    start = first.to_numpy() - hours.astype("timedelta64[h]")
    columns = [subject, pa.array(start).cast(first.type), last]
    return pa.Table.from_arrays(columns, schema=observation_schema())


def make_codes() -> pa.Table:
    """The code table; `SNOMED/rare` has the kept ancestor `SNOMED/hf`."""

    def entry(domain: str, code: str, **more: Any) -> dict[str, Any]:
        base: dict[str, Any] = dict.fromkeys(code_schema().names)
        base |= {"concept_id": 0, "parent_codes": [], "is_inpatient": False}
        return base | {"table": domain, "code": code, "description": code.lower()} | more

    rows = [entry(domain, code.strip()) for code, (domain, _) in CODES.items()]
    rows = [r | ({"sex_specific": "F"} if r["code"] == "SNOMED/pregnancy" else {}) for r in rows]
    rows += [
        entry("visit_occurrence", code, is_inpatient=inpatient, concept_id=9201 + i)
        for i, (code, inpatient) in enumerate(VISITS.items())
    ]
    rows.append(
        entry("condition_occurrence", "SNOMED/rare", parent_codes=["SNOMED/absent", "SNOMED/hf"])
    )
    return pa.Table.from_pylist(rows, schema=code_schema())


SPECS: dict[str, TokenizerSpec] = {
    "compact": TokenizerSpec(min_subjects=3, n_value_bins=4),
    "compact-split-day": TokenizerSpec(
        min_subjects=3, n_value_bins=4, values="split", time_scheme="day"
    ),
    "compact-ethos-none": TokenizerSpec(min_subjects=3, values="none", time_scheme="ethos"),
    "cehr": TokenizerSpec(preset="cehr", min_subjects=3),
    "cehr-hours": TokenizerSpec(preset="cehr", min_subjects=3, hour_tokens=True),
    "cehr-mix-fused": TokenizerSpec(
        preset="cehr", min_subjects=3, time_scheme="mix", values="fused"
    ),
    "cehr-week": TokenizerSpec(preset="cehr", min_subjects=3, time_scheme="week"),
    "cehr-bert": TokenizerSpec(preset="cehr", min_subjects=3, time_scheme="cehr_bert"),
    "events": TokenizerSpec(preset="events", min_subjects=3, n_value_bins=4),
    "events-month-split": TokenizerSpec(
        preset="events", min_subjects=3, time_scheme="month", values="split", calendar="shifted"
    ),
    "events-ethos": TokenizerSpec(
        preset="events", min_subjects=3, time_scheme="ethos", prompt_fields=("sex",)
    ),
}
