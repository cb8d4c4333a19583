"""A quick look counts what a scan can see, and its counts are those of the traps that were laid."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import duckdb
import pyarrow.parquet as pq
import pytest

from chronoward import tokenize
from chronoward.data import MedsTables
from chronoward.data.config import IngestConfig
from chronoward.data.ingest import ingest
from chronoward.data.look_source import look
from chronoward.data.simulate import simulate
from chronoward.errors import DataError

from .omop_rows import condition, person, visit, write_omop

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.data.look import SourceLook


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("look") / "omop"
    simulate(folder, 400, 5)
    return folder


@pytest.fixture(scope="module")
def seen(clinic: Path) -> SourceLook:
    return look(clinic)


def _sum(seen: SourceLook, *endings: str) -> int:
    return sum(trap.n for trap in seen.traps if trap.what.endswith(endings))


def test_counts_are_those_of_the_traps_that_the_simulator_laid(
    clinic: Path, seen: SourceLook
) -> None:
    laid = json.loads((clinic / "traps.json").read_text())["rules"]
    assert _sum(seen, "without a year of birth") == laid["birth_unknown"]
    assert _sum(seen, "deaths without a time of day") == laid["death_date_only"]
    assert _sum(seen, "visits without an end") == laid["missing_visit_end"]
    assert _sum(seen, "outside of inpatient") == laid["visit_inpatient_by_length"]
    assert _sum(seen, "a year that means unknown") == laid["sentinel_time"]
    assert _sum(seen, "no date") == laid["missing_time"] + laid["unparsable_time"]
    assert _sum(seen, "no concept (id 0)") == laid["unmapped"]
    assert _sum(seen, "local concepts (over 2,000,000,000)") == laid["local_concept"]
    assert _sum(seen, "start of their visit") == laid["stamped_diagnosis"]


def test_rows_columns_and_mapping_are_those_of_the_files(clinic: Path, seen: SourceLook) -> None:
    tables = {table.name: table for table in seen.tables}
    for name in ("person", "condition_occurrence", "measurement", "visit_detail"):
        scan = f"read_csv('{clinic / name}.csv', all_varchar = true)"
        ((n,),) = duckdb.sql(f"SELECT count(*) FROM {scan}").fetchall()
        columns = duckdb.sql(f"SELECT * FROM {scan} LIMIT 0").columns
        assert (tables[name].n_rows, tables[name].n_columns) == (n, len(columns))
    unmapped = _sum(seen, "condition_occurrence: no concept (id 0)")
    conditions = tables["condition_occurrence"]
    assert conditions.n_rows is not None
    assert conditions.mapped == pytest.approx(1 - unmapped / conditions.n_rows)
    assert tables["concept"].n_rows is None  # nothing is read only to be counted
    assert seen.calendar == "real"
    assert seen.follow_up_years is not None
    assert 0 < seen.follow_up_years[0] < seen.follow_up_years[1] < seen.follow_up_years[2] < 20


def test_estimates_are_near_what_tokenize_makes(
    clinic: Path, seen: SourceLook, tmp_path: Path
) -> None:
    store = tokenize(clinic, tmp_path / "tokens")
    n_tokens = sum(split["n_tokens"] for split in store.manifest["splits"].values())
    assert seen.n_tokens == pytest.approx(n_tokens, rel=0.15)
    size = sum(path.stat().st_size for path in (tmp_path / "tokens").rglob("*.arrow"))
    assert seen.store_bytes == pytest.approx(size, rel=0.25)
    assert 0 < seen.tokenize_seconds < 60


def test_every_way_of_holding_the_tables_looks_the_same(
    clinic: Path, seen: SourceLook, tmp_path: Path
) -> None:
    (tmp_path / "parquet").mkdir()
    with duckdb.connect(str(tmp_path / "omop.duckdb")) as database:
        for file in clinic.glob("*.csv"):
            database.sql(f"CREATE TABLE {file.stem} AS FROM read_csv('{file}', all_varchar = true)")
            database.sql(f"COPY {file.stem} TO '{tmp_path}/parquet/{file.stem}.parquet'")
    for source in (tmp_path / "parquet", tmp_path / "omop.duckdb"):
        other = look(source)
        assert other.traps == seen.traps
        assert other.n_tokens == seen.n_tokens
        assert {t.name for t in other.tables} == {t.name for t in seen.tables}


def test_a_look_at_meds_counts_rows_visits_deaths_and_splits(
    clinic: Path, seen: SourceLook, tmp_path: Path
) -> None:
    ingest(clinic, tmp_path / "meds", config=IngestConfig())
    meds = look(tmp_path / "meds")
    files = sorted((tmp_path / "meds" / "data").rglob("*.parquet"))
    n_rows = sum(pq.read_metadata(file).num_rows for file in files)
    (table,) = meds.tables
    assert (meds.form, table.n_rows, table.mapped) == ("meds", n_rows, 1.0)
    assert meds.n_subjects == seen.n_subjects
    assert meds.n_visits == pytest.approx(seen.n_visits, rel=0.02)
    assert meds.n_tokens == pytest.approx(seen.n_tokens, rel=0.15)
    assert meds.follow_up_from == "observation periods"
    assert any(note.startswith("splits: held_out") for note in meds.notes)
    tables = {file.parent.name: pq.read_table(file) for file in files}
    in_memory = look(
        MedsTables(tables, codes=pq.read_table(tmp_path / "meds/metadata/codes.parquet"))
    )
    assert in_memory.traps == meds.traps
    assert in_memory.n_tokens == meds.n_tokens


def test_a_source_with_little_in_it_is_looked_at_too(tmp_path: Path) -> None:
    bare = look(write_omop(tmp_path / "bare", {"person": [person()]}))
    assert (bare.n_subjects, bare.n_records, bare.follow_up_years) == (1, 0, None)
    assert len(bare.notes) == 5
    rows = {
        "person": [person(1), person(2)],
        "visit_occurrence": [visit(7, "2120-01-05 10:00:00", "2120-01-05 11:00:00")],
        "condition_occurrence": [condition(3, "2120-01-05 10:30:00", 7)],
    }
    seen = look(write_omop(tmp_path / "shifted", rows))
    assert seen.calendar == "shifted"
    assert seen.follow_up_from == "first to last visit"
    with pytest.raises(DataError, match="required column"):
        look(write_omop(tmp_path / "faulty", {"person": [{"person_id": 1}]}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "subjects", "calendar"),
    [
        ("mimic-iv-demo-omop", 100, "shifted"),
        ("mimic-iv-demo-meds", 100, "shifted"),
        ("gibleed-omop", 2694, "real"),
    ],
)
def test_real_data_are_looked_at(test_data: Path, name: str, subjects: int, calendar: str) -> None:
    seen = look(test_data / name)
    assert (seen.n_subjects, seen.calendar) == (subjects, calendar)
    assert seen.n_records > 10_000
    assert seen.traps
