"""Faulty MEDS sources: every row is accounted for, and neither order nor threads change a thing.

The digests are of what an implementation of the same rules in SQL made of these sources, event by
event and record by record; the core took its place when both agreed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronoward.data import IngestConfig, PreparedEvents, prepare, read_ledger

if TYPE_CHECKING:
    from pathlib import Path

DAY_US, HOUR_US = 86_400_000_000, 3_600_000_000
FIRST_DAY = 14_000
CODES = [
    *("LAB//K", "LAB//Na", "DX//1", "DX//2", "RX//a", "MEDS_BIRTH", "MEDS_DEATH", "GENDER//F"),
    *("GENDER//M", "SEX/male", "RACE//WHITE", "race/black", "ETHNICITY//X", "HOSPITAL_ADMISSION"),
    *("HOSPITAL_ADMISSION//URGENT", "HOSPITAL_DISCHARGE", "HOSPITAL_DISCHARGE//HOME"),
    *("ED_REGISTRATION", "ED_OUT", "ICU_ADMISSION//MICU", "ICU_DISCHARGE//MICU", "VISIT//OUT"),
    *("VISIT", None),
]
SHARE = [12, 12, 12, 8, 8, 1, 0.3, 1, 0.2, 0.2, 1, 0.2, 0.5, 2, 2, 2, 2, 2, 2, 2, 2, 1, 0.5, 0.3]
TEXTS = [
    *("POS", "negative", "<5", ">= 7.5", "12.5", "refused", "red", "blue", "x" * 80, " "),
    None,
]
UNITS = ["mg/dL", "mmol/L", "mg/dl", "weird", None, None]


def write_faulty(folder: Path, seed: int, n_subjects: int = 120) -> Path:
    """Two shards of random rows with every fault that a row can have; out of order in time."""
    rng = np.random.default_rng(seed)
    n = 40 * n_subjects
    subject = np.sort(rng.integers(0, n_subjects, n)) * 7 - 200
    time = (FIRST_DAY + rng.integers(0, 60, n)) * DAY_US + rng.choice([0, 7, 12], n) * HOUR_US
    years = np.array([-62_135_596_800, -2_208_988_800, 253_370_764_800]) * 1_000_000  # 1 1900 9999
    odd = rng.random(n)
    time = np.where(odd < 0.01, rng.choice(years, n) + DAY_US, time)
    weights = np.array(SHARE) / sum(SHARE)
    codes = [CODES[i] for i in rng.choice(len(CODES), n, p=weights)]
    end = time + rng.choice([-30, -1, 0, 3, 30, 200], n) * HOUR_US
    has_end = rng.random(n) < 0.2
    number = rng.choice([1.5, 2.0, 140.0, np.nan, np.inf, 1e39, 0.0, -0.0], n)
    columns = {
        "subject_id": pa.array(subject),
        "time": pa.array(time, mask=rng.random(n) < 0.02).cast(pa.timestamp("us")),
        "code": pa.array(codes, pa.string()),
        "numeric_value": pa.array(number, pa.float32(), mask=rng.random(n) < 0.5),
        "text_value": pa.array([TEXTS[i] for i in rng.integers(0, len(TEXTS), n)], pa.string()),
        "unit": pa.array([UNITS[i] for i in rng.integers(0, len(UNITS), n)], pa.string()),
        "end_time": pa.array(end, mask=~has_end).cast(pa.timestamp("us")),
        "available_time": pa.array(time + HOUR_US, mask=rng.random(n) < 0.8).cast(
            pa.timestamp("us")
        ),
    }
    table = pa.table(columns)
    again = np.sort(np.concatenate([np.arange(n), rng.integers(0, n, n // 20)]))
    table = table.take(pa.array(again))  # exact copies
    (folder / "data").mkdir(parents=True)
    border = int(np.searchsorted(table["subject_id"].to_numpy(), 7 * (n_subjects // 2) - 200))
    pq.write_table(table.slice(border), folder / "data" / "0.parquet")
    pq.write_table(table.slice(0, border), folder / "data" / "1.parquet")
    return folder


def write_visits(folder: Path, seed: int, n_subjects: int = 80) -> Path:
    """Disjoint visits in columns, as chronoward writes them, and records linked well and badly."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    for subject in range(n_subjects):
        clock = (FIRST_DAY + int(rng.integers(0, 50))) * DAY_US
        rows.append((subject, clock - 9000 * DAY_US, "MEDS_BIRTH", None, None, "", None))
        for visit in range(int(rng.integers(0, 5))):
            start = clock + int(rng.integers(1, 60)) * HOUR_US
            clock = start + int(rng.integers(0, 40)) * HOUR_US
            code = ["Visit/IP", "Visit/ER", "Visit/OP", "Visit/0"][int(rng.integers(0, 4))]
            rows.append((subject, start, code, clock, visit, "visit_occurrence", None))
            if rng.random() < 0.4:
                rows.append(
                    (subject, clock, "Discharge/HOME", None, visit, "visit_occurrence", None)
                )
            if rng.random() < 0.3:
                end = clock + int(rng.integers(-10, 10)) * HOUR_US
                rows.append((subject, start, "Unit/A", end, visit, "visit_detail", None))
            for _ in range(int(rng.integers(0, 6))):
                time = start + int(rng.integers(-40, 60)) * HOUR_US
                known = time + int(rng.integers(0, 30)) * HOUR_US if rng.random() < 0.5 else None
                linked = visit if rng.random() < 0.8 else int(rng.integers(0, 9))
                rows.append((subject, time, "DX//1", None, linked, "condition_occurrence", known))
        if rng.random() < 0.3:
            rows.append((subject, clock, "MEDS_DEATH", None, None, "death", None))
    names = ("subject_id", "time", "code", "end_time", "visit_id", "table", "available_time")
    kinds = [pa.int64(), pa.int64(), pa.string(), pa.int64(), pa.int64(), pa.string(), pa.int64()]
    table = pa.table(
        {
            name: pa.array(column, kind).cast(pa.timestamp("us") if name.endswith("time") else kind)
            for name, kind, column in zip(names, kinds, zip(*rows, strict=True), strict=True)
        }
    )
    (folder / "data").mkdir(parents=True)
    pq.write_table(table, folder / "data" / "0.parquet")
    return folder


CONFIG = IngestConfig(text_min_subjects=3, text_top_k=4)
DIGESTS = {
    ("faulty", 0): "1f242f6266e53c2d",
    ("faulty", 1): "841e0332ae42caa2",
    ("visits", 0): "5cababb40a00e8a1",
    ("visits", 1): "5bb18698f9e7feb7",
}
WRITERS = {"faulty": write_faulty, "visits": write_visits}


def _ledger(prepared: PreparedEvents) -> pa.Table:
    """The ledger with `<file>:<row>` for a key and the kind of file for a table."""
    rows = read_ledger(prepared.path / "ledger").to_pylist()
    for row in rows:
        row["key"] = f"{row['table']}:{row['key']}"
        row["table"] = "data" if row["table"].startswith("data/") else "metadata/codes"
    return pa.Table.from_pylist(rows)


def _digest(table: pa.Table) -> str:
    """Of a table's values, whatever holds them."""
    rows = sorted(map(repr, zip(*(column.to_pylist() for column in table.columns), strict=True)))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _events(prepared: PreparedEvents) -> pa.Table:
    return pa.concat_tables(list(prepared.batches()))


def _shuffled(source: Path, out: Path, seed: int) -> Path:
    """The same rows: those of a subject in another order, subjects too, and in one file."""
    rng = np.random.default_rng(seed)
    table = pa.concat_tables([pq.read_table(f) for f in sorted((source / "data").iterdir())])
    table = table.take(pa.array(rng.permutation(len(table))))
    subject = table["subject_id"].to_numpy()
    place = dict(zip(np.unique(subject), rng.permutation(len(np.unique(subject))), strict=True))
    order = np.argsort([place[s] for s in subject], kind="stable")
    (out / "data").mkdir(parents=True)
    pq.write_table(table.take(pa.array(order)), out / "data" / "all.parquet", row_group_size=97)
    return out


@pytest.mark.parametrize(("kind", "seed"), list(DIGESTS))
def test_faulty_rows_become_what_the_rules_say(tmp_path: Path, kind: str, seed: int) -> None:
    source = WRITERS[kind](tmp_path / "meds", seed)
    prepared = prepare(source, tmp_path / "work", config=CONFIG)
    ledger = _ledger(prepared)
    files = sorted((source / "data").iterdir())
    keys = [f"data/{f.name}:{i}" for f in files for i in range(pq.read_metadata(f).num_rows)]
    assert ledger["key"].to_pylist() == keys
    both = hashlib.sha256((_digest(_events(prepared)) + _digest(ledger)).encode()).hexdigest()
    assert both[:16] == DIGESTS[kind, seed]
    rules = set(ledger["rule"].to_pylist()) | {
        c for cs in ledger["changes"].to_pylist() for c in cs
    }
    assert len(rules) > (15 if kind == "faulty" else 4)
    report = prepared.report["tables"]["data"]
    assert report["records"] == len(keys)
    assert report["kept"] == ledger["disposition"].to_pylist().count("kept")


@pytest.mark.parametrize("kind", list(WRITERS))
def test_neither_order_nor_files_nor_threads_change_events(tmp_path: Path, kind: str) -> None:
    source = WRITERS[kind](tmp_path / "meds", 5)
    expected = _events(prepare(source, tmp_path / "first", config=CONFIG))
    other = _shuffled(source, tmp_path / "shuffled", 1)
    for name, where, threads in (("second", source, 7), ("third", other, 2)):
        found = _events(prepare(where, tmp_path / name, config=CONFIG, threads=threads))
        assert found.equals(expected)
