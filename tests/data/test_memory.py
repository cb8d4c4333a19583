from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronoward import fit, tokenize
from chronoward.data import MedsTables, prepare, recognize
from chronoward.data.config import IngestConfig
from chronoward.data.ingest import ingest
from chronoward.data.origin import as_source
from chronoward.errors import ConfigError, DataError, StateError

if TYPE_CHECKING:
    from pathlib import Path

SPLITS = {"train": range(20), "tuning": range(20, 22), "held_out": range(22, 24)}


def _events(subjects: range, unit: str = "us", number: Any = None, code: Any = None) -> pa.Table:
    rows = [
        (subject, time, name, value)
        for subject in subjects
        for time, name, value in (
            (None, "GENDER//F", None),
            (datetime(1960, 1, 1), "MEDS_BIRTH", None),
            (datetime(2020, 1, 5, 10, subject % 60), "LAB//1", 5.5 + subject),
            (datetime(2020, 3, 5, 10), "DIAGNOSIS//I50", None),
        )
    ]
    columns = list(zip(*rows, strict=True))
    codes = pa.array(columns[2], pa.string())
    return pa.table(
        {
            "subject_id": pa.array(columns[0], pa.int64()),
            "time": pa.array(columns[1], pa.timestamp(unit)),
            "code": codes if code is None else codes.cast(code),
            "numeric_value": pa.array(columns[3], number or pa.float32()),
        }
    )


def _write(folder: Path, tables: dict[str, pa.Table]) -> Path:
    for name, table in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / name)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


CODES = pa.table({"code": ["LAB//1"], "description": ["creatinine"], "parent_codes": [["LOINC/1"]]})


def test_tables_by_split_give_the_store_of_their_files(tmp_path: Path) -> None:
    tables = {split: _events(subjects) for split, subjects in SPLITS.items()}
    files = {f"data/{split}/0.parquet": table for split, table in tables.items()}
    folder = _write(tmp_path / "meds", {**files, "metadata/codes.parquet": CODES})
    tokenize(folder, tmp_path / "a")
    tokenize(MedsTables(tables, codes=CODES), tmp_path / "b")
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    assert len(_files(tmp_path / "a")) > 5


def test_one_table_with_splits_beside_it_gives_the_store_of_its_files(tmp_path: Path) -> None:
    table = _events(range(24))
    splits = pa.table(
        {
            "subject_id": [s for subjects in SPLITS.values() for s in subjects],
            "split": [name for name, subjects in SPLITS.items() for _ in subjects],
        }
    )
    folder = _write(
        tmp_path / "meds",
        {"data/0.parquet": table, "metadata/subject_splits.parquet": splits},
    )
    tokenize(folder, tmp_path / "a")
    store = tokenize(MedsTables(table, subject_splits=splits), tmp_path / "b")
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    assert store.manifest["splits"]["train"]["n_subjects"] == 20


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize(
    "code", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()]
)
def test_tables_are_read_as_tolerantly_as_files(
    tmp_path: Path, unit: str, code: pa.DataType
) -> None:
    plain = prepare(_events(range(5)), tmp_path / "a")
    other = prepare(_events(range(5), unit, pa.float64(), code), tmp_path / "b")
    assert [t.to_pylist() for t in plain.batches()] == [t.to_pylist() for t in other.batches()]


def test_plain_tables_are_sources_of_every_entry(tmp_path: Path) -> None:
    table = _events(range(24))
    assert recognize(table) == recognize({"train": table}) == "meds"
    whole = fit({"train": table}, tmp_path / "whole.json")
    prepared = prepare(table.slice(0, 8), tmp_path / "work")
    assert (prepared.n_subjects, prepared.splits) == (2, None)
    assert not (tmp_path / "work" / "source_copy").exists()
    ingest(table, tmp_path / "meds", config=IngestConfig())
    again = fit(tmp_path / "meds", tmp_path / "again.json")
    assert whole.stat().st_size > 0
    assert again.stat().st_size > 0


def test_other_tables_do_not_resume_a_finished_folder(tmp_path: Path) -> None:
    prepare(_events(range(3)), tmp_path / "work")
    assert prepare(_events(range(3)), tmp_path / "work").n_subjects == 3
    with pytest.raises(StateError, match="another source"):
        prepare(_events(range(4)), tmp_path / "work")


def test_faulty_tables_are_refused(tmp_path: Path) -> None:
    table = _events(range(3))
    with pytest.raises(DataError, match="required column code is missing"):
        prepare(table.drop_columns("code"), tmp_path / "work")
    assert not (tmp_path / "work" / "source_copy").exists()
    with pytest.raises(ConfigError, match="name of a split"):
        MedsTables({"../train": table})
    with pytest.raises(ConfigError, match=r"expected a pyarrow\.Table"):
        MedsTables({"train": [1]})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="no tables"):
        as_source({})
    with pytest.raises(ConfigError, match="read as meds, not as omop"):
        prepare(table, tmp_path / "work", as_="omop")
    with pytest.raises(ConfigError, match="got int"):
        as_source(3)  # type: ignore[arg-type]
