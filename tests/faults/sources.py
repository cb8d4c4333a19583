"""Faulty sources by hand, and what every refusal has in common."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronoward.data import IngestConfig, PreparedEvents, prepare, read_ledger

if TYPE_CHECKING:
    from pathlib import Path

SUBJECT = 7_313_131  # a subject's id that must not be in any message
PERSON = "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth\n"
CONDITION = (
    "condition_occurrence_id,person_id,condition_concept_id,condition_start_date,"
    "condition_source_value\n"
)
TIME_US = pa.timestamp("us")


def write_csv(folder: Path, **files: str | bytes) -> Path:
    """An OMOP folder of one person; a file is named by its table (`.csv` is added)."""
    folder.mkdir(parents=True)
    person = f"{PERSON}{SUBJECT},8532,1950,3,4\n"
    for name, content in ({"person": person} | files).items():
        path = folder / (name if "." in name else f"{name}.csv")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def conditions(*rows: str) -> str:
    """A table of conditions of the subject; rows from the concept on, keys 1, 2, …"""
    lines = (f"{i},{SUBJECT},{row}\n" for i, row in enumerate(rows, 1))
    return CONDITION + "".join(lines)


def rows_of_meds(**columns: Any) -> pa.Table:
    """Three rows of two subjects, with columns replaced, added, or (None) taken away."""
    made: dict[str, Any] = {
        "subject_id": pa.array([SUBJECT, SUBJECT, SUBJECT + 1], pa.int64()),
        "time": pa.array([None, datetime(2020, 1, 1), datetime(2020, 1, 2)], TIME_US),
        "code": pa.array(["GENDER//F", "A", "B"]),
    } | columns
    return pa.table({name: column for name, column in made.items() if column is not None})


def write_meds(folder: Path, table: pa.Table, name: str = "data/0.parquet", **options: Any) -> Path:
    """A MEDS folder of one shard (or one more shard of it)."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return folder


def refused(source: Path, error: type[Exception], match: str, **options: Any) -> str:
    """Checks that a source is refused by a class of ours, and that nothing looks finished.

    Returns:
        The message, which holds no subject's id.
    """
    work = source.parent / f"{source.name}-work"
    with pytest.raises(error, match=match) as raised:
        prepare(source, work, **options)
    assert type(raised.value) is error
    assert str(SUBJECT) not in str(raised.value)
    assert [path for path in work.rglob("*") if path.is_file()] == []
    return str(raised.value)


def accepted(source: Path, config: IngestConfig | None = None, **options: Any) -> PreparedEvents:
    """A source that is read; its report's rules are those of its ledger."""
    prepared = prepare(source, source.parent / f"{source.name}-work", config=config, **options)
    ledger = read_ledger(prepared.path / "ledger")
    counts = Counter(rule for rule in ledger["rule"].to_pylist() if rule is not None)
    counts.update(rule for rules in ledger["changes"].to_pylist() for rule in rules)
    assert prepared.report["rules"] == dict(sorted(counts.items()))
    return prepared


def events_of(prepared: PreparedEvents) -> list[dict[str, Any]]:
    """The events as dicts."""
    return [row for table in prepared.batches() for row in table.to_pylist()]


def codes_of(prepared: PreparedEvents) -> list[str]:
    """Codes of the events, without sex, race and birth."""
    structural = ("Gender/", "Race/", "MEDS_BIRTH", "Visit/")
    codes = (row["code"] for row in events_of(prepared))
    return [code for code in codes if not code.startswith(structural)]
