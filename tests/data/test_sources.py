"""However the same records are held, the same events, code table and report come of them."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronoward.data import PreparedEvents, prepare, recognize

from .omop_rows import person, visit, write_omop
from .trap_clinic import TABLES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Made by one thread from equal records, these are equal to the byte.
RESULTS = ("events/0.arrow", "codes.parquet", "observation.parquet", "ingest_report.json")


def _results(prepared: PreparedEvents) -> dict[str, bytes]:
    return {name: (prepared.path / name).read_bytes() for name in RESULTS}


# ---- OMOP ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def omop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clinic of traps as plain CSV."""
    return write_omop(tmp_path_factory.mktemp("forms") / "omop", TABLES)


@pytest.fixture(scope="module")
def expected(omop: Path) -> dict[str, bytes]:
    return _results(prepare(omop, omop.parent / "work"))


def _tables(omop: Path) -> dict[str, list[list[str]]]:
    found = {}
    for file in sorted(omop.glob("*.csv")):
        with file.open(newline="") as handle:
            found[file.stem] = list(csv.reader(handle))
    return found


def _write(path: Path, rows: list[list[str]], delimiter: str = ",", end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="", encoding="utf-8") as handle:
        csv.writer(handle, delimiter=delimiter, lineterminator=end).writerows(rows)


def _arrow(rows: list[list[str]]) -> pa.Table:
    header, *body = rows
    columns = zip(*body, strict=True) if body else [[] for _ in header]
    texts = [[text or None for text in column] for column in columns]
    return pa.table({n: pa.array(c, pa.string()) for n, c in zip(header, texts, strict=True)})


def _gzipped(folder: Path, name: str, rows: list[list[str]]) -> None:
    _write(folder / f"{name}.csv.gz", rows)


def _tabbed(folder: Path, name: str, rows: list[list[str]]) -> None:
    _write(folder / f"{name}.tsv", rows, "\t")


def _tabbed_and_gzipped(folder: Path, name: str, rows: list[list[str]]) -> None:
    _write(folder / f"{name}.tsv.gz", rows, "\t")


def _semicolons_and_windows_line_ends(folder: Path, name: str, rows: list[list[str]]) -> None:
    _write(folder / f"{name}.csv", rows, ";", "\r\n")


def _byte_order_mark(folder: Path, name: str, rows: list[list[str]]) -> None:
    _write(folder / f"{name}.csv", [["\ufeff" + rows[0][0], *rows[0][1:]], *rows[1:]])


def _capitals(folder: Path, name: str, rows: list[list[str]]) -> None:
    _write(folder / f"{name.upper()}.CSV", [[c.upper() for c in rows[0]], *rows[1:]])


def _mixed_case(folder: Path, name: str, rows: list[list[str]]) -> None:
    _write(folder / f"{name.title()}.csv", [[c.title() for c in rows[0]], *rows[1:]])


def _parts(folder: Path, name: str, rows: list[list[str]]) -> None:
    """Three parts in a folder of the table's name, the columns of the second one turned around."""
    for part in range(3):
        mine = [rows[0], *rows[1 + part :: 3]]
        turned = [row[::-1] for row in mine] if part == 1 else mine
        _write(folder / name / f"part-{part}.csv", turned)


def _nested_parts(folder: Path, name: str, rows: list[list[str]]) -> None:
    for part in range(2):
        path = folder / name.upper() / f"year={2000 + part}" / "0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(_arrow([rows[0], *rows[1 + part :: 2]]), path)


def _parquet(folder: Path, name: str, rows: list[list[str]]) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(_arrow(rows), folder / f"{name}.parquet")


def _dictionaries_in_parquet(folder: Path, name: str, rows: list[list[str]]) -> None:
    folder.mkdir(exist_ok=True)
    table = _arrow(rows)
    coded = [column.cast(pa.large_string()).dictionary_encode() for column in table.columns]
    pq.write_table(pa.table(coded, table.column_names), folder / f"{name.title()}.parquet")


@pytest.mark.parametrize(
    "form",
    [
        _gzipped,
        _tabbed,
        _tabbed_and_gzipped,
        _semicolons_and_windows_line_ends,
        _byte_order_mark,
        _capitals,
        _mixed_case,
        _parts,
        _nested_parts,
        _parquet,
        _dictionaries_in_parquet,
    ],
)
def test_omop_tables_give_the_same_bytes_in_every_form(
    omop: Path,
    expected: dict[str, bytes],
    tmp_path: Path,
    form: Callable[[Path, str, list[list[str]]], None],
) -> None:
    for name, rows in _tables(omop).items():
        form(tmp_path / "omop", name, rows)
    assert recognize(tmp_path / "omop") == "omop"
    assert _results(prepare(tmp_path / "omop", tmp_path / "work")) == expected


@pytest.mark.parametrize("schema", ["main", "CDM"])
def test_a_duckdb_file_gives_the_same_bytes(
    omop: Path, expected: dict[str, bytes], tmp_path: Path, schema: str
) -> None:
    with duckdb.connect(str(tmp_path / "omop.duckdb")) as database:
        database.sql(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        for file in omop.glob("*.csv"):
            scan = f"read_csv('{file}', all_varchar = true, header = true)"
            database.sql(f'CREATE TABLE "{schema}"."{file.stem.upper()}" AS FROM {scan}')
    assert recognize(tmp_path / "omop.duckdb") == "omop"
    assert _results(prepare(tmp_path / "omop.duckdb", tmp_path / "work")) == expected


def test_the_column_names_of_cdm_5_3_give_the_same_events(tmp_path: Path) -> None:
    stay = visit(7, "2020-01-05 10:00:00", "2020-01-08 11:00:00")
    del stay["discharged_to_concept_id"]
    for version, column in (("5.3", "discharge_to"), ("5.4", "discharged_to")):
        rows = {
            "person": [person()],
            "visit_occurrence": [stay | {f"{column}_concept_id": 8536}],
        }
        prepare(write_omop(tmp_path / version, rows), tmp_path / f"work{version}")
    old, new = (PreparedEvents.open(tmp_path / f"work{version}") for version in ("5.3", "5.4"))
    assert _results(old) == _results(new)
    assert "Discharge/8536" in old.codes["code"].to_pylist()


# ---- MEDS ---------------------------------------------------------------------------------------

DAY = datetime(2020, 1, 5)


def _meds(n_subjects: int) -> pa.Table:
    rows: list[tuple[Any, ...]] = []
    for subject in range(n_subjects):
        rows += [
            (subject, None, "GENDER//F", None, None),
            (subject, datetime(1960, 1, 1), "MEDS_BIRTH", None, None),
            (subject, DAY, "HOSPITAL_ADMISSION//ER", None, None),
            (subject, DAY + timedelta(hours=subject % 24), "LAB//1", subject / 2, None),
            (subject, DAY + timedelta(hours=25), "LAB//2", None, "<5"),
            (subject, DAY + timedelta(hours=50), "HOSPITAL_DISCHARGE//HOME", None, None),
        ]
    columns = list(zip(*rows, strict=True))
    kinds = (pa.int64(), pa.timestamp("us"), pa.string(), pa.float32(), pa.large_string())
    names = ("subject_id", "time", "code", "numeric_value", "text_value")
    return pa.table({n: pa.array(c, k) for n, c, k in zip(names, columns, kinds, strict=True)})


def _shards(folder: Path, table: pa.Table, n: int, name: Callable[[int], str]) -> Path:
    """Writes the table's subjects as n shards."""
    home = table["subject_id"].to_numpy() % n
    for shard in range(n):
        path = folder / name(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.filter(pa.array(home == shard)), path)
    return folder


def _events(prepared: PreparedEvents) -> dict[str, bytes]:
    """The results but for the report, which names the shards' folders as splits or not."""
    return {name: content for name, content in _results(prepared).items() if "report" not in name}


@pytest.fixture(scope="module")
def meds(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, dict[str, bytes]]:
    """40 subjects, and what comes of them in one shard."""
    folder = tmp_path_factory.mktemp("meds")
    table = _meds(40)
    source = _shards(folder / "source", table, 1, lambda _: "data/0.parquet")
    return table, _events(prepare(source, folder / "work"))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("code", ["string", "large_string", "dictionary"])
@pytest.mark.parametrize("number", [pa.float32(), pa.float64()])
def test_meds_columns_of_every_type_give_the_same_events(
    meds: tuple[pa.Table, dict[str, bytes]],
    tmp_path: Path,
    unit: str,
    code: str,
    number: pa.DataType,
) -> None:
    table, expected = meds
    kinds = {"string": pa.string(), "large_string": pa.large_string()}
    codes = table["code"]
    columns = {
        "subject_id": table["subject_id"],
        "time": table["time"].cast(pa.timestamp(unit)),
        "code": codes.dictionary_encode() if code == "dictionary" else codes.cast(kinds[code]),
        "numeric_value": table["numeric_value"].cast(number),
        "text_value": table["text_value"].cast(kinds.get(code, pa.string())),
    }
    source = _shards(tmp_path / "source", pa.table(columns), 1, lambda _: "data/0.parquet")
    assert _events(prepare(source, tmp_path / "work")) == expected


@pytest.mark.parametrize(
    "name",
    [
        lambda shard: f"data/{shard}.parquet",
        lambda shard: f"data/train/{shard}.parquet",
        lambda shard: f"data/a/{shard % 3}/deep/er/{shard}.parquet",
        lambda shard: f"data/{'tuning' if shard else 'train'}/year=2020/part-{shard}.parquet",
    ],
)
def test_meds_shards_nest_as_they_like(
    meds: tuple[pa.Table, dict[str, bytes]], tmp_path: Path, name: Callable[[int], str]
) -> None:
    table, expected = meds
    source = _shards(tmp_path / "source", table, 7, name)
    assert recognize(source) == "meds"
    assert _events(prepare(source, tmp_path / "work")) == expected


def test_a_dataset_of_meds_0_3_gives_the_events_of_one_of_0_4(
    meds: tuple[pa.Table, dict[str, bytes]], tmp_path: Path
) -> None:
    """0.3 knew no text_value, took extra columns freely, and named fewer codes."""
    table, _ = meds
    plain = table.drop_columns("text_value")
    splits = pa.table({"subject_id": range(40), "split": ["train"] * 30 + ["held_out"] * 10})
    codes = pa.table({"code": ["LAB//1"], "description": ["creatinine"]})
    for version, data in (
        ("0.3", plain.append_column("provider", pa.array(["x"] * len(plain)))),
        ("0.4", plain.append_column("text_value", pa.nulls(len(plain), pa.large_string()))),
    ):
        source = _shards(tmp_path / version, data, 2, lambda i: f"data/{i}.parquet")
        (source / "metadata").mkdir()
        pq.write_table(splits, source / "metadata" / "subject_splits.parquet")
        pq.write_table(codes, source / "metadata" / "codes.parquet")
        (source / "metadata" / "dataset.json").write_text(f'{{"meds_version": "{version}.0"}}')
        prepare(source, tmp_path / f"work{version}")
    old, new = (PreparedEvents.open(tmp_path / f"work{version}") for version in ("0.3", "0.4"))
    assert old.report.pop("columns_not_read") == {"data": ["provider"]}
    first, second = _results(old), _results(new)
    for results in (first, second):
        report = json.loads(results.pop("ingest_report.json"))
        results["report"] = json.dumps({**report, "columns_not_read": {}}).encode()
    assert first == second
    assert old.splits is not None
    assert old.splits["split"].to_pylist() == ["train"] * 30 + ["held_out"] * 10


def test_columns_that_may_be_missing_may_be_missing(tmp_path: Path) -> None:
    table = _meds(12).select(["code", "time", "subject_id"])
    source = _shards(tmp_path / "source", table, 1, lambda _: "data/0.parquet")
    prepared = prepare(source, tmp_path / "work")
    assert prepared.n_subjects == 12
    (events,) = prepared.batches()
    assert events["numeric_value"].null_count == len(events)


@pytest.mark.slow
def test_thousands_of_tiny_shards_give_the_events_of_one_giant_shard(tmp_path: Path) -> None:
    table = _meds(2000)
    one = _shards(tmp_path / "one", table, 1, lambda _: "data/0.parquet")
    order = np.random.default_rng(1).permutation(2000)
    many = _shards(tmp_path / "many", table, 2000, lambda i: f"data/{i % 9}/{order[i]}.parquet")
    giant = prepare(one, tmp_path / "work1")
    tiny = prepare(many, tmp_path / "work2")
    assert _events(tiny) == _events(giant)
    assert tiny.report["rules"] == giant.report["rules"]


@pytest.mark.slow
def test_a_giant_shard_is_read_in_pieces(tmp_path: Path) -> None:
    """More than a piece in one row group, with subjects across its borders."""
    table = _meds(200_000)
    (tmp_path / "source" / "data").mkdir(parents=True)
    pq.write_table(table, tmp_path / "source" / "data" / "0.parquet", row_group_size=len(table))
    prepared = prepare(tmp_path / "source", tmp_path / "work")
    assert prepared.n_subjects == 200_000
    assert prepared.report["tables"]["data"]["records"] == len(table) == 1_200_000


def test_ids_may_be_text_in_one_table_and_numbers_in_another(omop: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for file in omop.glob("*.csv"):
        if file.stem == "person":
            (mixed / file.name).write_bytes(file.read_bytes())
        else:
            to = mixed / f"{file.stem}.parquet"
            duckdb.sql(f"COPY (SELECT * FROM read_csv('{file}')) TO '{to}'")
    plain, other = (prepare(source, tmp_path / f"work_{source.name}") for source in (omop, mixed))
    assert other.n_subjects == plain.n_subjects
    assert [t["subject_id"].unique() for t in other.batches()] == [
        t["subject_id"].unique() for t in plain.batches()
    ]
