"""The ledger: one row a source record, what became of it and by which rules.

`gone` and `changes` of the record tables are unpacked here, once. Columns: table, key (primary key,
or `<file>:<row>`), disposition (kept, dropped, merged, quarantined), rule (of a removed record) and
changes (rules that changed a kept one).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from chronoward.data.rules import CHANGING, REMOVING
from chronoward.data.workspace import quote_text
from chronoward.files import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.data.workspace import Workspace

PART_RECORDS = 1 << 22


def ledger_schema() -> pa.Schema:
    """Arrow schema of the ledger."""
    return pa.schema(
        [
            pa.field("table", pa.string(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            pa.field("disposition", pa.string(), nullable=False),
            pa.field("rule", pa.string()),
            pa.field("changes", pa.list_(pa.string()), nullable=False),
        ]
    )


def make_ledger(work: Workspace) -> None:
    """Creates the empty `ledger` (tbl is a name here)."""
    work.run("CREATE TABLE ledger (tbl VARCHAR, key VARCHAR, gone UTINYINT, changes UBIGINT)")


def enter(work: Workspace, tables: tuple[str, ...], relation: str) -> None:
    """Enters the records of a table with columns tbl (number), key, gone, changes."""
    names = " ".join(f"WHEN {i} THEN {quote_text(name)}" for i, name in enumerate(tables))
    work.run(f"INSERT INTO ledger SELECT CASE tbl {names} END, key, gone, changes FROM {relation}")


def count(work: Workspace) -> dict[str, dict[str, int]]:
    """Per table: records, kept, and the number of records for each rule."""
    tables: dict[str, dict[str, int]] = {}
    rows = work.rows("SELECT tbl, gone, changes, count(*) FROM ledger GROUP BY ALL ORDER BY ALL")
    for table, gone, changes, n in rows:
        counts = tables.setdefault(table, {"records": 0, "kept": 0})
        counts["records"] += n
        if gone:
            rule = REMOVING[gone - 1].value
            counts[rule] = counts.get(rule, 0) + n
            continue
        counts["kept"] += n
        for bit, changing in enumerate(CHANGING):
            if changes >> bit & 1:
                counts[changing.value] = counts.get(changing.value, 0) + n
    return tables


def total(tables: dict[str, dict[str, int]]) -> dict[str, int]:
    """Sum over tables of each rule's records."""
    rules: dict[str, int] = {}
    for counts in tables.values():
        for name, n in counts.items():
            if name not in ("records", "kept"):
                rules[name] = rules.get(name, 0) + n
    return dict(sorted(rules.items()))


def write(work: Workspace, folder: Path) -> None:
    """Writes `ledger/<n>.parquet`, ordered by table and key."""
    folder.mkdir(mode=0o700, exist_ok=True)
    gone = " ".join(f"WHEN {i + 1} THEN {quote_text(rule)}" for i, rule in enumerate(REMOVING))
    effect = " ".join(
        f"WHEN {i + 1} THEN {quote_text(rule.effect)}" for i, rule in enumerate(REMOVING)
    )
    combinations = work.rows("SELECT DISTINCT changes FROM ledger WHERE changes <> 0")
    lists = " ".join(
        f"WHEN {mask}::UBIGINT THEN [{', '.join(quote_text(name) for name in _names(mask))}]"
        for (mask,) in combinations
    )
    changes = f"CASE changes {lists} ELSE []::VARCHAR[] END" if lists else "[]::VARCHAR[]"
    stream = work.stream(
        f"""SELECT tbl AS "table", key, CASE gone {effect} ELSE 'kept' END AS disposition,
        CASE gone {gone} END AS rule, {changes} AS changes
        FROM (SELECT * FROM ledger ORDER BY tbl, key, gone, changes)"""
    )
    schema, number, waiting, n_waiting = ledger_schema(), 0, list[Any](), 0
    for batch in stream:
        waiting.append(pa.Table.from_batches([batch]).cast(schema))
        n_waiting += batch.num_rows
        while n_waiting >= PART_RECORDS:
            table = pa.concat_tables(waiting)
            _write_part(table.slice(0, PART_RECORDS), folder / f"{number}.parquet")
            number += 1
            waiting, n_waiting = [table.slice(PART_RECORDS)], n_waiting - PART_RECORDS
    if n_waiting or not number:
        table = pa.concat_tables(waiting) if waiting else schema.empty_table()
        _write_part(table, folder / f"{number}.parquet")


def _names(mask: int) -> list[str]:
    return [rule.value for bit, rule in enumerate(CHANGING) if mask >> bit & 1]


def _write_part(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(
            table.combine_chunks(), temporary, compression="zstd", row_group_size=1 << 18
        )
