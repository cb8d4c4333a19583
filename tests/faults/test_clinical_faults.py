"""Cases 32 to 48: times, values and ids that cannot be, and what becomes of them."""

from __future__ import annotations

import itertools
import subprocess
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from tests.data.omop_rows import (
    condition,
    death,
    measurement,
    period,
    person,
    visit,
    write_omop,
)
from tests.faults.sources import (
    SUBJECT,
    TIME_US,
    accepted,
    codes_of,
    events_of,
    refused,
    rows_of_meds,
    write_meds,
)

from chronoward.data import IngestConfig, prepare
from chronoward.errors import DataError, StateError
from chronoward.tokenize import tokenize
from chronoward.tokenizer import Tokenizer, TokenizerSpec, fit

if TYPE_CHECKING:
    from pathlib import Path

NOON = "2020-01-05 12:00:00"


def _omop(folder: Path, **tables: list[dict[str, Any]]) -> Path:
    return write_omop(folder, {"person": [person()]} | tables)


def _times(*times: datetime | None, codes: str = "ABCDEFGHIJ", **columns: Any) -> pa.Table:
    made = {
        "subject_id": pa.array([SUBJECT] * len(times)),
        "time": pa.array(times, TIME_US),
        "code": pa.array(list(codes[: len(times)])),
    }
    return pa.table(made | columns)


def _microseconds(*values: int) -> pa.Array:
    return pa.array(values, pa.int64()).cast(TIME_US)


@pytest.mark.parametrize("date", ["2020-02-30", "2021-02-29", "2020-13-01", "yesterday"])
def test_case_32_a_date_that_is_none_is_quarantined_and_counted(tmp_path: Path, date: str) -> None:
    rows = [condition(1, NOON), condition(2, NOON, condition_start_date=date)]
    rows[1]["condition_start_datetime"] = date
    prepared = accepted(_omop(tmp_path / "a", condition_occurrence=rows))
    assert prepared.report["tables"]["condition_occurrence"]["unparsable_time"] == 1
    with pytest.raises(DataError, match="strict: faulty records were found"):
        tokenize(tmp_path / "a", tmp_path / "tokens", strict=True)
    assert not (tmp_path / "tokens" / "store.json").exists()


@pytest.mark.parametrize("date", ["0001-01-01", "1900-01-01", "9999-12-31"])
def test_case_33_sentinel_dates_are_quarantined_and_counted(tmp_path: Path, date: str) -> None:
    rows = [condition(1, NOON), condition(2, date)]
    visits = [visit(1, "2020-01-05", date)]
    source = _omop(tmp_path / "a", condition_occurrence=rows, visit_occurrence=visits)
    rules = accepted(source).report["rules"]
    assert (rules["sentinel_time"], rules["sentinel_end"]) == (1, 1)
    times = [datetime(2020, 1, 1), datetime.fromisoformat(date)]
    meds = accepted(write_meds(tmp_path / "b", _times(*times)))
    assert meds.report["rules"] == {"sentinel_time": 1}


def test_case_33_dates_after_2262_do_not_overflow(tmp_path: Path) -> None:
    dates = ["2262-04-11", "2262-04-12", "2300-01-01"]
    rows = [condition(i, f"{date} 12:00:00") for i, date in enumerate(dates)]
    config = IngestConfig(calendar="real")
    prepared = accepted(_omop(tmp_path / "a", condition_occurrence=rows), config)
    found = [row["time"] for row in events_of(prepared) if row["code"] == "OMOP/316139"]
    assert [str(time.date()) for time in found] == dates


@pytest.mark.parametrize("date", ["infinity", "-infinity", "12020-01-01", "2020-01-01 (BC)"])
def test_case_33_dates_outside_of_the_calendar_are_quarantined_in_every_table(
    tmp_path: Path, date: str
) -> None:
    row = condition(2, NOON) | {"condition_start_date": date, "condition_start_datetime": None}
    stay = visit(2, NOON, NOON) | {"visit_start_date": date, "visit_start_datetime": None}
    late = visit(1, NOON, NOON) | {"visit_end_date": date, "visit_end_datetime": None}
    source = _omop(
        tmp_path / "a",
        condition_occurrence=[condition(1, NOON), row],
        visit_occurrence=[late, stay],
        death=[death(1, "2021-01-01") | {"death_date": date}],
        observation_period=[period(1, 1, "2019-01-01", date)],
    )
    tables = accepted(source, IngestConfig(calendar="real")).report["tables"]
    assert tables["condition_occurrence"]["unparsable_time"] == 1
    assert tables["visit_occurrence"]["unparsable_time"] == 1
    assert tables["visit_occurrence"]["sentinel_end"] == 1
    assert tables["death"]["unparsable_time"] == 1
    assert tables["observation_period"]["period_invalid"] == 1


def test_case_33_meds_times_outside_of_the_calendar_are_quarantined(tmp_path: Path) -> None:
    far = _microseconds(0, 2**61, -(2**61), 253_402_300_800_000_000)
    prepared = accepted(write_meds(tmp_path / "a", _times(*[None] * 4, time=far)))
    assert prepared.report["rules"] == {"sentinel_time": 3}
    ends = _microseconds(2**61, 5, 5, 5)
    start = _microseconds(0, 1, 2, 3)
    prepared = accepted(write_meds(tmp_path / "b", _times(*[None] * 4, time=start, end_time=ends)))
    assert prepared.report["rules"] == {"sentinel_end": 1}


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_case_33_a_time_beyond_64_bits_of_microseconds_is_a_data_error(
    tmp_path: Path, unit: str
) -> None:
    far = 2**62 // 1000 + 5 if unit == "s" else 2**62 + 5  # Parquet knows no seconds
    time = pa.array([0, far, 1], pa.int64()).cast(pa.timestamp(unit))
    meds = write_meds(tmp_path / "a", _times(*[None] * 3, time=time), version="2.6")
    refused(meds, DataError, r"0\.parquet: column time: a time beyond 146,000 years")
    known = _times(*[datetime(2020, 1, 1)] * 2, available_time=_microseconds(0, 2**60))
    refused(write_meds(tmp_path / "b", known), DataError, r"available_time, row 1: outside of the")


def test_case_34_events_outside_of_a_life_or_the_extract_are_quarantined(tmp_path: Path) -> None:
    rows = [
        condition(1, NOON),
        condition(2, "1940-01-01"),
        condition(3, "2021-06-01"),
        condition(4, "2020-12-31"),
    ]
    source = _omop(
        tmp_path / "a", condition_occurrence=rows, death=[death(1, "2020-06-01 08:00:00")]
    )
    config = IngestConfig(extract_date="2021-01-01", calendar="real")
    prepared = accepted(source, config)
    counts = prepared.report["tables"]["condition_occurrence"]
    found = [counts[rule] for rule in ("before_birth", "after_death", "future_date", "kept")]
    assert found == [1, 1, 1, 1]
    assert codes_of(prepared).count("OMOP/316139") == 1
    born = [datetime(1990, 1, 1), datetime(1980, 1, 1), datetime(2020, 1, 1), datetime(2021, 1, 1)]
    codes = pa.array(["MEDS_BIRTH", "A", "MEDS_DEATH", "B"])
    meds = accepted(write_meds(tmp_path / "b", _times(*born, code=codes)))
    assert {r: meds.report["rules"][r] for r in ("before_birth", "after_death")} == {
        "before_birth": 1,
        "after_death": 1,
    }


def test_case_35_an_end_before_its_start_is_nulled_and_counted(tmp_path: Path) -> None:
    stays = [visit(1, "2020-01-05 12:00:00", "2020-01-04 12:00:00")]
    prepared = accepted(_omop(tmp_path / "a", visit_occurrence=stays))
    assert prepared.report["rules"]["end_before_start"] == 1
    table = _times(datetime(2020, 1, 2), end_time=pa.array([datetime(2020, 1, 1)], TIME_US))
    meds = accepted(write_meds(tmp_path / "b", table))
    assert meds.report["rules"] == {"end_before_start": 1}


def test_case_36_a_life_without_birth_is_kept_and_counted(tmp_path: Path) -> None:
    source = write_omop(
        tmp_path / "a",
        {
            "person": [person(year_of_birth=None, month_of_birth=None, day_of_birth=None)],
            "condition_occurrence": [condition(1, NOON)],
        },
    )
    prepared = accepted(source)
    assert prepared.report["rules"]["birth_unknown"] == 1
    assert codes_of(prepared) == ["OMOP/316139"]


def test_case_37_the_first_birth_and_death_stay_whatever_the_order(tmp_path: Path) -> None:
    times = [datetime(1951, 1, 1), datetime(1950, 1, 1), datetime(2001, 1, 1), datetime(2000, 1, 1)]
    codes = ["MEDS_BIRTH", "MEDS_BIRTH", "MEDS_DEATH", "MEDS_DEATH", "GENDER//M", "GENDER//F"]
    expected = None
    for number, order in enumerate(([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 2, 4, 1])):
        table = _times(*times, None, None, code=pa.array(codes)).take(order)
        prepared = accepted(write_meds(tmp_path / str(number), table))
        rules = prepared.report["rules"]
        assert [rules[f"{n}_duplicate"] for n in ("birth", "death", "static")] == [1, 1, 1]
        found = [(row["code"], row["time"]) for row in events_of(prepared)]
        assert expected in (None, found)
        expected = found
    assert expected is not None
    assert ("MEDS_BIRTH", datetime(1950, 1, 1)) in expected


def test_case_38_events_of_one_instant_in_any_order_give_the_same_table(tmp_path: Path) -> None:
    rows = _times(*[datetime(2020, 1, 1)] * 4, numeric_value=pa.array([2.0, None, 1.0, 1.0]))
    tables = []
    for number, order in enumerate(itertools.permutations(range(4))):
        if number % 5 == 0:
            prepared = accepted(write_meds(tmp_path / str(number), rows.take(list(order))))
            tables.append(events_of(prepared))
    assert len(tables) == 5
    assert all(table == tables[0] for table in tables)


def test_case_39_times_are_local_and_without_leaps_so_ages_are_exact(tmp_path: Path) -> None:
    # 2020-03-29 02:30 does not exist in Berlin; 23:59:60 in no calendar of ours
    rows = [
        condition(1, "2020-03-29 02:30:00"),
        condition(2, NOON, condition_start_datetime="2016-12-31 23:59:60"),
    ]
    prepared = accepted(
        write_omop(
            tmp_path / "a",
            {
                "person": [person(year_of_birth=1952, month_of_birth=2, day_of_birth=29)],
                "condition_occurrence": rows,
            },
        )
    )
    events = events_of(prepared)
    (birth,) = [row["time"] for row in events if row["code"] == "MEDS_BIRTH"]
    assert birth == datetime(1952, 2, 29)
    times = [row["time"] for row in events if row["code"] == "OMOP/316139"]
    assert times == [datetime(2020, 1, 5), datetime(2020, 3, 29, 2, 30)]
    assert times[1] - birth == timedelta(days=68 * 365 + 17 + 29, hours=2, minutes=30)


def test_case_39_a_29th_of_february_in_a_common_year_is_the_28th(tmp_path: Path) -> None:
    born = person(year_of_birth=1951, month_of_birth=2, day_of_birth=29)
    prepared = accepted(write_omop(tmp_path / "a", {"person": [born]}))
    (birth,) = [row["time"] for row in events_of(prepared) if row["code"] == "MEDS_BIRTH"]
    assert birth == datetime(1951, 2, 28)


_MANY = """
import resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from chronoward.tokenize import tokenize
folder = Path(sys.argv[1])
(folder / "meds" / "data").mkdir(parents=True)
n = 1_000_000
for subject, rows in ((1, n), (2, 40)):
    time = np.arange(rows, dtype=np.int64) * 600_000_000
    table = pa.table({
        "subject_id": np.full(rows, subject), "time": pa.array(time).cast(pa.timestamp("us")),
        "code": pa.array(np.arange(rows) % 50).cast(pa.string()),
    })
    pq.write_table(table, folder / "meds" / "data" / f"{subject}.parquet")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
from chronoward.tokenizer import TokenizerSpec
spec = TokenizerSpec(preset="events", min_subjects=1)
store = tokenize(folder / "meds", folder / "tokens", spec=spec)
n_tokens = sum(store.split(name).n_tokens for name in ("train", "tuning", "held_out"))
print(n_tokens, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_case_40_a_life_of_a_million_events_fits_the_memory_bound(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _MANY, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    n_tokens, kib = map(int, done.stdout.split())
    assert n_tokens > 1_000_000
    assert kib < 1 << 20  # 1 GiB for the largest life


def test_case_41_a_life_of_one_event_or_of_static_facts_only_is_kept(tmp_path: Path) -> None:
    table = pa.table(
        {
            "subject_id": [1, 2, 2],
            "time": pa.array([datetime(2020, 1, 1), None, None], TIME_US),
            "code": ["A", "GENDER//F", "RACE//X"],
        }
    )
    source = write_meds(tmp_path / "a", table)
    assert accepted(source).n_subjects == 2
    spec = TokenizerSpec(preset="events", min_subjects=1)
    store = tokenize(source, tmp_path / "tokens", spec=spec)
    assert sum(len(store.split(name)) for name in ("train", "tuning", "held_out")) == 2


def _fitted(folder: Path, values: list[float | None]) -> Tokenizer:
    n = len(values)
    table = pa.table(
        {
            "subject_id": np.arange(n),
            "time": pa.array([datetime(2020, 1, 1)] * n, TIME_US),
            "code": ["LAB"] * n,
            "numeric_value": pa.array(values, pa.float64()),
        }
    )
    prepared = prepare(write_meds(folder / "meds", table), folder / "work")
    spec = TokenizerSpec(preset="events", min_subjects=1)
    return fit(prepared.batches(), prepared.codes, spec, prepared.observation)


def _tokenized_with(folder: Path, codes: list[str], tokenizer: Tokenizer) -> dict[str, Any]:
    folder.mkdir()
    tokenizer.save(folder / "tokenizer.json")
    n = len(codes)
    table = pa.table(
        {
            "subject_id": np.arange(n) // 10,
            "time": pa.array([datetime(2020, 1, 1 + i % 10) for i in range(n)], TIME_US),
            "code": codes,
        }
    )
    store = tokenize(
        write_meds(folder / "meds", table),
        folder / "tokens",
        tokenizer=folder / "tokenizer.json",
        split="hash",
    )
    counts: dict[str, Any] = store.manifest["counts"]
    return counts


def test_case_42_unknown_codes_are_dropped_and_counted(tmp_path: Path) -> None:
    tokenizer = _fitted(tmp_path, [1.0, 2.0, 3.0])
    counts = _tokenized_with(tmp_path / "a", ["LAB"] * 90 + ["NEW"] * 10, tokenizer)
    assert counts["unknown_code"] == 10


def test_case_42_a_source_most_of_whose_codes_are_unknown_is_a_data_error(tmp_path: Path) -> None:
    tokenizer = _fitted(tmp_path, [1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="100 of 100 events have codes that the given tokenizer"):
        _tokenized_with(tmp_path / "a", [f"NEW{i}" for i in range(100)], tokenizer)
    assert not (tmp_path / "a" / "tokens").exists()


def test_case_43_values_that_are_no_number_are_nulled_and_counted(tmp_path: Path) -> None:
    values = pa.array([np.nan, np.inf, -np.inf, 1e308, -0.0, -5.0], pa.float64())
    times = [datetime(2020, 1, i) for i in range(1, 7)]
    prepared = accepted(
        write_meds(tmp_path / "a", _times(*times, codes="XXXXXX", numeric_value=values))
    )
    assert prepared.report["rules"] == {"value_not_finite": 4}
    found = [row["numeric_value"] for row in events_of(prepared)]
    assert found == [None] * 4 + [0.0, -5.0]
    assert not np.signbit(found[4])


def test_case_43_a_negative_value_falls_into_the_lowest_bin(tmp_path: Path) -> None:
    tokenizer = _fitted(tmp_path, [float(i) for i in range(100)])
    (entry,) = [entry for entry in tokenizer.codes if entry.code == "LAB"]
    assert np.searchsorted(entry.edges, -5.0, side="right") == 0


def test_case_44_units_of_one_quantity_are_converted_and_counted(tmp_path: Path) -> None:
    rows = [
        measurement(1, NOON, value_as_number=90, unit_source_value="mg/dL"),
        measurement(2, "2020-01-06", value_as_number=5, unit_source_value="mmol/L"),
    ]
    concept = {
        "concept_id": 3004501,
        "concept_name": "Glucose",
        "domain_id": "Measurement",
        "vocabulary_id": "LOINC",
        "concept_class_id": "Lab Test",
        "standard_concept": "S",
        "concept_code": "2345-7",
    }
    prepared = accepted(_omop(tmp_path / "a", measurement=rows, concept=[concept]))
    assert prepared.report["rules"]["unit_converted"] == 1
    labs = [row for row in events_of(prepared) if row["code"] == "LOINC/2345-7"]
    assert len({row["unit"] for row in labs}) == 1


@pytest.mark.parametrize(
    ("policy", "expected", "rule"),
    [
        ("standard", [], "unmapped_dropped"),
        ("source", ["Source/x"], "unmapped"),
        ("standard_then_source", ["Source/x"], "unmapped"),
    ],
)
def test_case_45_concept_0_is_dropped_or_kept_by_its_source_as_configured_and_counted(
    tmp_path: Path, policy: Any, expected: list[str], rule: str
) -> None:
    rows = [condition(1, NOON, condition_concept_id=0, condition_source_value="x")]
    config = IngestConfig(concept_policy=policy)
    prepared = accepted(_omop(tmp_path / "a", condition_occurrence=rows), config)
    assert codes_of(prepared) == expected
    assert prepared.report["rules"][rule] == 1


def test_case_46_equal_values_make_a_single_bin(tmp_path: Path) -> None:
    tokenizer = _fitted(tmp_path, [7.0] * 50)
    (entry,) = [entry for entry in tokenizer.codes if entry.code == "LAB"]
    assert entry.n_bins == 1
    assert entry.edges == ()


def test_case_47_a_subject_in_two_splits_is_a_state_error(tmp_path: Path) -> None:
    meds = write_meds(tmp_path / "a", rows_of_meds())
    splits = pa.table({"subject_id": [SUBJECT, SUBJECT], "split": ["train", "held_out"]})
    write_meds(meds, splits, "metadata/subject_splits.parquet")
    refused(meds, StateError, r"subject_splits\.parquet: 1 subjects are in two splits")


def test_case_48_negative_ids_are_read_and_ids_beyond_64_bits_refused(tmp_path: Path) -> None:
    ids = pa.array([-SUBJECT, -SUBJECT, 2**63 - 1], pa.int64())
    prepared = accepted(write_meds(tmp_path / "a", rows_of_meds(subject_id=ids)))
    assert {row["subject_id"] for row in events_of(prepared)} == {-SUBJECT, 2**63 - 1}
    beyond = pa.array([1, 2**63 + SUBJECT, 2**63 + SUBJECT], pa.uint64())
    for column in ("subject_id", "visit_id"):
        meds = write_meds(tmp_path / column, rows_of_meds(**{column: beyond}))
        message = refused(meds, DataError, rf"0\.parquet: column {column}, row 1: an id beyond")
        assert str(2**63 + SUBJECT) not in message
