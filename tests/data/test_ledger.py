"""Every record of real sources is in the ledger, once, under a named rule, and nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from chronoward.data import PreparedEvents, Rule, prepare, read_ledger
from chronoward.data.ledger import RowLedger
from chronoward.data.omop_tables import DICTIONARIES

from .omop_rows import person, write_omop

if TYPE_CHECKING:
    from pathlib import Path


def _unmatched(source: str, ledger: str) -> list[int]:
    """Records of the source without a ledger row, and ledger rows without a record."""
    connection = duckdb.connect()
    return [
        connection.execute(
            f"SELECT count(*) FROM ({a}) a ANTI JOIN ({b}) b USING (key)"
        ).fetchall()[0][0]
        for a, b in ((source, ledger), (ledger, source))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mimic-iv-demo-meds", "cinc2012-a-meds", "synthea-ma-meds"])
def test_every_row_of_a_meds_source_is_in_the_ledger(
    test_data: Path, tmp_path: Path, name: str
) -> None:
    source = test_data / name
    prepared = prepare(source, tmp_path / "work", threads=2)
    files = sorted((source / "data").rglob("*.parquet"))
    rows = " UNION ALL ".join(
        f"SELECT '{file.relative_to(source)}:' || range AS key "
        f"FROM range({pq.ParquetFile(file).metadata.num_rows})"
        for file in files
    )
    ledger = (
        "SELECT \"table\" || ':' || unnest(range(key, key + n_records)) AS key "
        f"FROM read_parquet('{prepared.path}/ledger/*.parquet')"
        " WHERE \"table\" <> 'metadata/codes.parquet'"
    )
    assert _unmatched(rows, ledger) == [0, 0]
    _check_rules(prepared)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mimic-iv-demo-omop", "gibleed-omop"])
def test_every_record_of_an_omop_source_is_in_the_ledger(
    test_data: Path, tmp_path: Path, name: str
) -> None:
    """A table without a key of its own is entered by `<table>:<row>`, from 1."""
    source = test_data / name
    prepared = prepare(source, tmp_path / "work", threads=2)
    entered = set()
    for file in sorted(source.iterdir()):
        table, kind = file.stem, file.suffix
        if kind not in (".csv", ".parquet") or table in DICTIONARIES:
            continue
        scan = f"read_csv('{file}', all_varchar = true)" if kind == ".csv" else f"'{file}'"
        columns = {row[0] for row in duckdb.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()}
        own = "person_id" if table == "death" else f"{table}_id"
        key = own if own in columns else f"'{table}:' || row_number() OVER ()"
        rows = f"SELECT ({key})::VARCHAR AS key FROM {scan}"
        assert _unmatched(rows, _lines_of(prepared, table)) == [0, 0], table
        n = duckdb.execute(f"SELECT count(*) FROM {scan}").fetchall()[0][0]
        assert n == prepared.report["tables"].get(table, {"records": 0})["records"], table
        entered.add(table)
    assert set(prepared.report["tables"]) <= entered
    _check_rules(prepared)


def _lines_of(prepared: PreparedEvents, table: str) -> str:
    """SQL of the keys of a table's records in an OMOP source's ledger."""
    run = "unnest(range(key::BIGINT, key::BIGINT + n_records))::VARCHAR AS key"
    ledger = f"read_parquet('{prepared.path}/ledger/*.parquet') WHERE \"table\" = '{table}'"
    return (
        f"SELECT {run} FROM {ledger} AND n_records > 1 UNION ALL "
        f"SELECT key FROM {ledger} AND n_records = 1"
    )


def _check_rules(prepared: PreparedEvents) -> None:
    """Whatever was removed names its rule, and the rule's effect is the disposition."""
    ledger = pq.read_table(prepared.path / "ledger", columns=["disposition", "rule"])
    found = ledger.group_by(["disposition", "rule"]).aggregate([]).to_pylist()
    for row in found:
        if row["disposition"] == "kept":
            assert row["rule"] is None
        else:
            assert Rule.named(row["rule"]).effect == row["disposition"]


def test_rows_that_fared_alike_share_a_line(tmp_path: Path) -> None:
    removals = ("", Rule.EXACT_DUPLICATE.value, Rule.AFTER_DEATH.value)
    book = RowLedger(tmp_path / "ledger", removals, (Rule.VALUE_BOUNDED.value,))
    gone = np.array([0, 0, 1, 1, 1, 0, 2], np.uint8)
    changes = np.array([0, 1, 0, 0, 0, 0, 0], np.uint32)
    book.add("data", "data/a.parquet", gone, changes)
    book.add("data", "data/none.parquet", gone[:0], changes[:0])
    book.add("data", "data/b.parquet", np.zeros(1000, np.uint8), np.zeros(1000, np.uint32))
    assert book.finish() == {
        "data": {
            "records": 1007,
            "kept": 1003,
            "exact_duplicate": 3,
            "after_death": 1,
            "value_bounded": 1,
        }
    }
    lines = pq.read_table(tmp_path / "ledger")
    assert lines["key"].to_pylist() == [0, 1, 2, 5, 6, 0]
    assert lines["n_records"].to_pylist() == [1, 1, 3, 1, 1, 1000]
    records = read_ledger(tmp_path / "ledger")
    assert records["key"].to_pylist() == [*range(7), *range(1000)]
    wanted = [None, None, *["exact_duplicate"] * 3, None, "after_death", *[None] * 1000]
    assert records["rule"].to_pylist() == wanted
    assert records["changes"].to_pylist() == [[], ["value_bounded"], *[[]] * 1005]


def test_records_with_consecutive_keys_that_fared_alike_share_a_line(tmp_path: Path) -> None:
    """Whatever the order of a table's rows; a key that is there twice is two lines."""
    keys = [7, 10, 8, 9, 9, 12, 5]
    rows = [
        {
            "measurement_id": key,
            "person_id": 2 if key == 8 else 1,
            "measurement_concept_id": 3,
            "measurement_date": f"2001-01-{place + 1:02d}",
        }
        for place, key in enumerate(keys)
    ]
    source = write_omop(tmp_path / "source", {"person": [person()], "measurement": rows})
    prepared = prepare(source, tmp_path / "work")
    lines = pq.read_table(prepared.path / "ledger")
    mine = lines.filter(pc.equal(lines["table"], "measurement"))
    found = list(zip(*(mine[c].to_pylist() for c in ("key", "n_records", "rule")), strict=True))
    gone = "unknown_person"
    assert found == [
        *(("5", 1, None), ("7", 1, None), ("8", 1, gone), ("9", 1, None), ("9", 2, None)),
        ("12", 1, None),
    ]
    records = read_ledger(prepared.path / "ledger")
    assert records["key"].to_pylist() == ["5", "7", "8", "9", "9", "10", "12", "1"]
    assert prepared.report["tables"]["measurement"] == {
        "records": 7, "kept": 6, gone: 1, **{
            rule: n for rule, n in prepared.report["tables"]["measurement"].items() if n == 6
        },
    }  # fmt: skip
