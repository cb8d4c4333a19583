"""Every record of real sources is in the ledger, once, under a named rule, and nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import pyarrow.parquet as pq
import pytest

from chronoward.data import PreparedEvents, Rule, prepare
from chronoward.data.omop_tables import DICTIONARIES

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
        f"SELECT \"table\" || ':' || key AS key "
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
        ledger = (
            f"SELECT key FROM read_parquet('{prepared.path}/ledger/*.parquet') "
            f"WHERE \"table\" = '{table}'"
        )
        assert _unmatched(rows, ledger) == [0, 0], table
        n = duckdb.execute(f"SELECT count(*) FROM {scan}").fetchall()[0][0]
        assert n == prepared.report["tables"].get(table, {"records": 0})["records"], table
        entered.add(table)
    assert set(prepared.report["tables"]) <= entered
    _check_rules(prepared)


def _check_rules(prepared: PreparedEvents) -> None:
    """Whatever was removed names its rule, and the rule's effect is the disposition."""
    ledger = pq.read_table(prepared.path / "ledger", columns=["disposition", "rule"])
    found = ledger.group_by(["disposition", "rule"]).aggregate([]).to_pylist()
    for row in found:
        if row["disposition"] == "kept":
            assert row["rule"] is None
        else:
            assert Rule.named(row["rule"]).effect == row["disposition"]
