from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronoward.data import IngestConfig, PreparedEvents, prepare, read_ledger
from chronoward.schema import Role

from .omop_rows import events_of

if TYPE_CHECKING:
    from pathlib import Path

Event = tuple[int, datetime | None, str, float | None, str | None]
DAY = datetime(2020, 1, 5)


def _at(hours: float) -> datetime:
    return DAY + timedelta(hours=hours)


EVENTS: list[Event] = [
    (1, None, "GENDER//F", None, None),
    (1, None, "GENDER//M", None, None),
    (1, None, "RACE//WHITE", None, None),
    (1, datetime(1950, 1, 1), "MEDS_BIRTH", None, None),
    (1, datetime(1951, 1, 1), "MEDS_BIRTH", None, None),
    (1, _at(-8), "ED_REGISTRATION", None, None),
    (1, _at(-7), "LAB//1", 5.5, None),
    (1, _at(-2), "ED_OUT", None, None),
    (1, _at(0), "HOSPITAL_ADMISSION//EW EMER.//ER", None, None),
    (1, _at(5), "ICU_ADMISSION//MICU", None, None),
    (1, _at(6), "LAB//1", None, "<3"),
    (1, _at(6), "LAB//1", None, "<3"),
    (1, _at(20), "ICU_DISCHARGE//MICU", None, None),
    (1, _at(50), "DIAGNOSIS//ICD//10//I50", None, None),
    (1, _at(50), "HOSPITAL_DISCHARGE//HOME", None, None),
    (1, _at(900), "LAB//1", float("nan"), None),
    (1, datetime(2021, 3, 1), "MEDS_DEATH", None, None),
    (1, datetime(2021, 3, 1, 9), "LAB//1", 1.0, None),
    (1, datetime(2021, 3, 2, 9), "LAB//1", 1.0, None),
    (2, datetime(1960, 1, 1), "MEDS_BIRTH", None, None),
    (2, _at(3), "LAB//1", 4.0, None),
]


def _write(file: Path, events: list[Event], *, narrow: bool = True, **other: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unit = "us" if narrow else "ns"
    number = pa.float32() if narrow else pa.float64()
    codes = pa.array([event[2] for event in events])
    columns = {
        "subject_id": pa.array([event[0] for event in events], pa.int64()),
        "time": pa.array([event[1] for event in events], pa.timestamp(unit)),
        "code": codes if narrow else codes.cast(pa.large_string()).dictionary_encode(),
        "numeric_value": pa.array([event[3] for event in events], number),
        "text_value": pa.array([event[4] for event in events], pa.large_string()),
    }
    pq.write_table(pa.table(columns | other), file)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedEvents:
    folder = tmp_path_factory.mktemp("meds")
    _write(folder / "source" / "data" / "train" / "0.parquet", EVENTS)
    return prepare(folder / "source", folder / "work")


def _rows(prepared: PreparedEvents, *roles: Role) -> list[dict[str, Any]]:
    rows = [row for table in prepared.batches() for row in table.to_pylist()]
    return [row for row in rows if row["role"] in roles]


def test_visits_come_from_code_patterns(prepared: PreparedEvents) -> None:
    stay = _rows(prepared, Role.VISIT)[0]
    assert (stay["code"], stay["time"], stay["end_time"]) == ("Visit/IP", _at(-8), _at(50))
    assert [row["code"] for row in _rows(prepared, Role.DETAIL)] == ["Visit/ER", "Visit/MICU"]
    (left,) = _rows(prepared, Role.DISCHARGE)
    assert (left["code"], left["time"]) == ("Discharge/HOME", _at(50))
    codes = {row["code"] for row in _rows(prepared, Role.CODE)}
    assert codes == {
        "DIAGNOSIS//ICD//10//I50",
        "HOSPITAL_ADMISSION//EW EMER.//ER",
        "ICU_ADMISSION//MICU",
        "ICU_DISCHARGE//MICU",
        "LAB//1",
    }
    assert prepared.has_visits


def test_prefixes_are_stripped(prepared: PreparedEvents) -> None:
    assert [row["code"] for row in _rows(prepared, Role.SEX, Role.RACE)] == [
        "Gender/F",
        "Race/WHITE",
    ]


def test_the_ledger_counts_every_row(prepared: PreparedEvents) -> None:
    assert prepared.report["rules"] == {
        "after_death": 1,
        "artificial_visit": 3,
        "birth_duplicate": 1,
        "death_date_only": 1,
        "exact_duplicate": 1,
        "static_duplicate": 1,
        "value_bounded": 1,
        "value_not_finite": 1,
    }
    ledger = read_ledger(prepared.path / "ledger")
    assert ledger["key"].to_pylist() == list(range(len(EVENTS)))
    assert set(ledger["table"].to_pylist()) == {"data/train/0.parquet"}


def test_a_death_of_a_day_is_at_its_end(prepared: PreparedEvents) -> None:
    (row,) = _rows(prepared, Role.DEATH)
    assert row["time"] == datetime(2021, 3, 1, 23, 59, 59)


def test_permuted_rows_other_types_and_other_shards_give_the_same_events(
    prepared: PreparedEvents, tmp_path: Path
) -> None:
    shuffled = [EVENTS[i] for i in np.random.default_rng(3).permutation(len(EVENTS))]
    for subject, name in ((1, "data/b/x.parquet"), (2, "data/a/deep/er.parquet")):
        own = [event for event in shuffled if event[0] == subject]
        _write(tmp_path / "source" / name, own, narrow=False)
    again = prepare(tmp_path / "source", tmp_path / "work", threads=2)
    assert events_of(again).equals(events_of(prepared))
    assert again.report["rules"] == prepared.report["rules"]
    assert again.splits is not None


def test_permuted_rows_in_a_shard_give_the_same_events_and_report(
    prepared: PreparedEvents, tmp_path: Path
) -> None:
    subjects = [event for event in EVENTS if event[0] == 2], EVENTS[:19][::-1]
    _write(tmp_path / "source/data/train/0.parquet", [e for part in subjects for e in part])
    again = prepare(tmp_path / "source", tmp_path / "work")
    for name in ("events/0.arrow", "codes.parquet", "observation.parquet", "ingest_report.json"):
        assert (again.path / name).read_bytes() == (prepared.path / name).read_bytes()


def test_a_source_without_visits_says_so(tmp_path: Path) -> None:
    file = tmp_path / "source" / "data" / "0.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(
        pa.table(
            {
                "subject_id": [1],
                "time": pa.array([DAY], pa.timestamp("s")),
                "code": ["A"],
                "end_time": ["somebody's own"],
            }
        ),
        file,
    )
    prepared = prepare(tmp_path / "source", tmp_path / "work")
    assert not prepared.has_visits
    assert [row["visit_id"] for row in _rows(prepared, Role.CODE)] == [None]


def test_excluded_subjects_are_left_out_and_counted(tmp_path: Path) -> None:
    _write(tmp_path / "source" / "data" / "0.parquet", EVENTS)
    prepared = prepare(
        tmp_path / "source", tmp_path / "work", exclude_subjects=[1], config=IngestConfig()
    )
    assert prepared.n_subjects == 1
    assert prepared.report["rules"]["excluded_subject"] == 19
    assert prepared.report["excluded"]["subjects"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "subjects", "visits", "calendar"),
    [
        ("mimic-iv-demo-omop", 100, True, "shifted"),
        ("mimic-iv-demo-meds", 100, True, "shifted"),
        ("gibleed-omop", 2694, True, "real"),
        ("cinc2012-a-meds", 4000, False, None),
    ],
)
def test_real_data_are_prepared(
    test_data: Path, tmp_path: Path, name: str, subjects: int, visits: bool, calendar: str | None
) -> None:
    prepared = prepare(test_data / name, tmp_path / "work", threads=2)
    assert (prepared.n_subjects, prepared.has_visits) == (subjects, visits)
    assert calendar in (None, prepared.calendar)
    ledger = pq.read_table(prepared.path / "ledger", columns=["n_records"])
    assert sum(ledger["n_records"].to_pylist()) == sum(
        t["records"] for t in prepared.report["tables"].values()
    )


def test_code_metadata_of_another_type_are_nulled_and_counted(tmp_path: Path) -> None:
    source = tmp_path / "source"
    _write(source / "data" / "train" / "0.parquet", EVENTS)
    (source / "metadata").mkdir()
    codes = {"code": ["LAB//1", "X"], "description": ["lab", None], "parent_codes": [7, None]}
    pq.write_table(pa.table(codes), source / "metadata" / "codes.parquet")
    prepared = prepare(source, tmp_path / "work")
    assert prepared.report["rules"]["metadata_nulled"] == 1
    counts = prepared.report["tables"]["metadata/codes"]
    assert counts == {"records": 2, "kept": 2, "metadata_nulled": 1}
    described = dict(
        zip(
            prepared.codes["code"].to_pylist(),
            prepared.codes["description"].to_pylist(),
            strict=True,
        )
    )
    assert described["LAB//1"] == "lab"
