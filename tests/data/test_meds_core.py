"""MEDS rows mended by the core are those of the SQL: events, values and ledger, on faulty data."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronoward._core import CHANGES, REMOVALS
from chronoward.data import IngestConfig, prepare
from chronoward.data.meds import _check_schema, data_files
from chronoward.data.meds_rows import NULL_US, MedsRows, Numbering, Numberings, read_rows
from chronoward.data.meds_tables import make_mending
from chronoward.data.meds_values import CodeEvents, ValueRules
from chronoward.schema import Role

if TYPE_CHECKING:
    from collections.abc import Callable
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


class Mended:
    """A source through the core: events as tuples, the ledger by key."""

    def __init__(self, source: Path, config: IngestConfig) -> None:
        self.source = source
        self.numberings, self.events = Numberings(), Numbering()
        files = data_files(source)
        self.shards = [(f, read_rows(f, _check_schema(f), self.numberings)) for f in files]
        self.mending = make_mending(
            self.numberings, self.events, config, future_us=None, inpatient_codes=set()
        )
        facts = self._run(is_explicit=True)[1]
        is_explicit, is_disjoint = bool(facts[0]), not facts[1]
        is_midnight = False
        if not is_explicit:
            facts = self._run(is_explicit=False)[1]
        if not is_explicit or not is_disjoint:
            is_midnight = bool(facts[2] and facts[3] / facts[2] >= config.midnight_share)
        has_visits = is_explicit or bool(
            self._run(is_explicit=False, is_midnight_date=is_midnight)[1][4]
        )
        self.made, _ = self._run(
            is_explicit=is_explicit,
            is_disjoint=is_disjoint,
            has_visits=has_visits,
            is_midnight_date=is_midnight,
        )
        self._resolve(config)

    def _run(self, **facts: bool) -> tuple[list[dict[str, Any]], np.ndarray]:
        names = ("is_explicit", "is_disjoint", "has_visits", "is_midnight_date")
        self.mending.set_facts(**{name: facts.get(name, False) for name in names})
        made = [self._mend(rows) for _, rows in self.shards]
        return made, sum(m["facts"] for m in made)

    def _mend(self, rows: MedsRows) -> dict[str, Any]:
        starts = np.flatnonzero(np.diff(rows.subject_id, prepend=rows.subject_id[0] - 1))
        names = ("time", "end_time", "available", "code", "text", "unit", "number", "has_number")
        out = self.mending.mend(
            offsets=np.append(starts, len(rows)).astype(np.int64),
            is_excluded=np.zeros(len(starts), np.uint8),
            **{name: getattr(rows, name) for name in (*names, "visit_ref", "table")},
            n_threads=2,
        )
        return {**out, "subject_id": rows.subject_id[starts]}

    def _resolve(self, config: IngestConfig) -> None:
        rules = ValueRules(self.events, self.numberings.units, self.numberings.texts, config)
        shards = []
        n_before = 0
        for made in self.made:
            place = np.flatnonzero(made["role"] == Role.CODE)
            names = ("table", "code", "unit", "text", "number")
            columns = {name: made[name][place] for name in names}
            shards.append((place, CodeEvents(made["subject"][place] + n_before, **columns)))
            n_before += len(made["subject_id"])
            rules.count(shards[-1][1])
        rules.finish()
        for made, (place, events) in zip(self.made, shards, strict=True):
            found = rules.resolve(events)
            np.bitwise_or.at(made["changes"], made["row"][place], found.changes)
            made["number"] = np.full(len(made["role"]), np.nan, np.float32)
            made["unit"] = np.full(len(made["role"]), -1)
            made["text"] = np.full(len(made["role"]), -1)
            for name in ("number", "unit", "text"):
                made[name][place] = getattr(found, name)
        self.units = rules.units

    def event_counts(self) -> Counter[tuple[Any, ...]]:
        units, texts = [*self.units.texts, None], [*self.numberings.texts.texts, None]
        tables, found = self.numberings.tables.texts, Counter()
        for made in self.made:
            names = ("available", "time", "role", "table", "code", "visit_id", "end_time")
            columns = [made[name].tolist() for name in (*names, "number", "unit", "text")]
            subjects = made["subject_id"][made["subject"]].tolist()
            for subject, (a, t, role, tbl, code, visit, end, number, unit, text) in zip(
                subjects, zip(*columns, strict=True), strict=True
            ):
                value = None if number != number else number
                key = (subject, a, t, role, tables[tbl], self.events.texts[code], visit, end)
                found[*key, value, units[unit], texts[text]] += 1
        return found

    def fates(self) -> dict[str, tuple[str | None, frozenset[str]]]:
        found = {}
        for (file, _), made in zip(self.shards, self.made, strict=True):
            name = file.relative_to(self.source)
            for i, (gone, bits) in enumerate(
                zip(made["gone"].tolist(), made["changes"].tolist(), strict=True)
            ):
                changes = frozenset(c for b, c in enumerate(CHANGES) if bits >> b & 1)
                found[f"{name}:{i}"] = (REMOVALS[gone] or None, changes)
        return found


def _expected(
    source: Path, work: Path, config: IngestConfig
) -> tuple[Counter[tuple[Any, ...]], dict[str, tuple[str | None, frozenset[str]]]]:
    prepared = prepare(source, work, config=config)

    def us(column: pa.ChunkedArray) -> list[int]:
        return column.cast(pa.int64()).fill_null(NULL_US).to_pylist()

    events: Counter[tuple[Any, ...]] = Counter()
    for table in prepared.batches():
        plain = [table[n].to_pylist() for n in ("subject_id", "role", "table", "code")]
        times = [us(table[n]) for n in ("available_time", "time", "visit_id", "end_time")]
        values = [table[n].to_pylist() for n in ("numeric_value", "unit", "text_value")]
        for s, role, tbl, code, a, t, visit, end, *rest in zip(
            *plain, *times, *values, strict=True
        ):
            events[s, a, t, role, tbl, code, visit, end, *rest] += 1
    ledger = pa.concat_tables([pq.read_table(f) for f in (work / "ledger").glob("*.parquet")])
    rows = ledger.filter(pa.compute.equal(ledger["table"], "data")).to_pylist()
    return events, {row["key"]: (row["rule"], frozenset(row["changes"])) for row in rows}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("write", [write_faulty, write_visits])
def test_rows_become_what_the_sql_makes_of_them(
    tmp_path: Path, write: Callable[[Path, int], Path], seed: int
) -> None:
    config = IngestConfig(text_min_subjects=3, text_top_k=4)
    source = write(tmp_path / "meds", seed)
    events, fates = _expected(source, tmp_path / "work", config)
    made = Mended(source, config)
    found = made.fates()
    assert set(found) == set(fates)
    wrong = {key: (found[key], fates[key]) for key in fates if found[key] != fates[key]}
    assert not wrong, list(wrong.items())[:5]
    mine = made.event_counts()
    assert not (mine - events), list((mine - events).items())[:5]
    assert not (events - mine), list((events - mine).items())[:5]
    seen = {rule for rule, _ in fates.values()} | {c for _, cs in fates.values() for c in cs}
    assert len(seen) > (15 if write is write_faulty else 4)
