"""The ledger: what became of every source record and by which rules.

`gone` and `changes` of the record tables are unpacked here, once. Columns:

| column | OMOP | MEDS |
|---|---|---|
| table | the table | the file, such as `data/train/0.parquet` |
| key | the primary key as text, else `<table>:<row>` | the row in the file, from 0 (int64) |
| n_records | this many keys from `key` on (an integer where it is not 1) share the line | rows |
| disposition | kept, dropped, merged or quarantined | |
| rule | of a removed record | |
| changes | rules that changed a kept one | |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chronoward.data.rules import CHANGING, REMOVING, Rule
from chronoward.data.workspace import quote_text
from chronoward.files import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.data.workspace import Workspace

    Ints = NDArray[np.int64]

PART_RECORDS = 1 << 22
_TEXTS = ["table", "disposition", "rule", "changes.list.element"]
_CHANGING_PLACE = {rule.value: place for place, rule in enumerate(CHANGING)}


def ledger_schema() -> pa.Schema:
    """Arrow schema of the ledger."""
    return pa.schema(
        [
            pa.field("table", pa.string(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            pa.field("n_records", pa.int64(), nullable=False),
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


def runs_of(
    gone: NDArray[np.uint8], changes: NDArray[np.uint32], key: Ints | None = None
) -> tuple[Ints, Ints]:
    """Runs of records that fared alike, with keys that rise by one.

    Args:
        gone: (n,) at least one.
        changes: (n,).
        key: (n,), ascending; None: the places.

    Returns:
        The place of each run's first record, and how many records it has.
    """
    differs = (gone[1:] != gone[:-1]) | (changes[1:] != changes[:-1])
    if key is not None:
        differs |= key[1:] != key[:-1] + 1
    first = np.concatenate([np.zeros(1, np.int64), np.flatnonzero(differs) + 1])
    return first, np.diff(first, append=len(gone))


def row_ledger_schema() -> pa.Schema:
    """Arrow schema of the ledger of a source whose records are rows of files."""
    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            pa.field("table", text, nullable=False),
            pa.field("key", pa.int64(), nullable=False),
            pa.field("n_records", pa.int64(), nullable=False),
            pa.field("disposition", text, nullable=False),
            pa.field("rule", text),
            pa.field("changes", pa.list_(pa.string()), nullable=False),
        ]
    )


class RowLedger:
    """A ledger of records that are rows of files, in their order; a line a run of equal fates.

    Args:
        folder: for `<n>.parquet`; made.
        removals: names of removing rules by number, 0 for a kept record.
        changes: names of changing rules by bit.
    """

    def __init__(self, folder: Path, removals: tuple[str, ...], changes: tuple[str, ...]) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._changes = changes
        self._rules = pa.array(removals, pa.string())
        effects = [str(Rule.named(name).effect) if name else "kept" for name in removals]
        self._effects = pa.array(sorted(set(effects)), pa.string())
        place = {effect: i for i, effect in enumerate(self._effects.to_pylist())}
        self._effect_of = np.array([place[effect] for effect in effects], np.int32)
        self._counts: dict[str, dict[str, int]] = {}
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0
        self._n_parts = 0

    def add(
        self, table: str, file: str, gone: NDArray[np.uint8], changes: NDArray[np.uint32]
    ) -> None:
        """Enters a file's rows, all of them in order.

        Args:
            table: under which they are counted.
            file: as the ledger names it.
            gone: numbers of removing rules.
            changes: bits of changing rules, 0 where gone.
        """
        counts = self._counts.setdefault(table, {"records": 0, "kept": 0})
        for begin in range(0, len(gone), PART_RECORDS):
            part = slice(begin, begin + PART_RECORDS)
            self._enter(counts, file, begin, np.asarray(gone[part]), np.asarray(changes[part]))

    def _enter(
        self,
        counts: dict[str, int],
        file: str,
        begin: int,
        gone: NDArray[np.uint8],
        changes: NDArray[np.uint32],
    ) -> None:
        first, n_records = runs_of(gone, changes)
        gone, changes = gone[first], changes[first]
        counts["records"] += int(n_records.sum())
        for number in np.unique(gone).tolist():
            name = self._rules[number].as_py() or "kept"
            counts[name] = counts.get(name, 0) + int(n_records[gone == number].sum())
        changed = np.flatnonzero(changes)
        masks, which = np.unique(changes[changed], return_inverse=True)
        named = [self._named(mask) for mask in masks.tolist()]
        for i, names in enumerate(named):
            for name in names:
                counts[name] = counts.get(name, 0) + int(n_records[changed[which == i]].sum())
        lengths = np.zeros(len(gone) + 1, np.int32)
        lengths[changed + 1] = np.array([len(names) for names in named], np.int32)[which]
        lists = pa.array(named, pa.list_(pa.string())).take(pa.array(which))
        columns = [
            pa.DictionaryArray.from_arrays(
                pa.array(np.zeros(len(gone), np.int32)), pa.array([file])
            ),
            pa.array(begin + first),
            pa.array(n_records),
            pa.DictionaryArray.from_arrays(pa.array(self._effect_of[gone]), self._effects),
            pa.DictionaryArray.from_arrays(
                pa.array(gone.astype(np.int32), mask=gone == 0), self._rules
            ),
            pa.ListArray.from_arrays(pa.array(np.cumsum(lengths, dtype=np.int32)), lists.flatten()),
        ]
        self._waiting.append(pa.Table.from_arrays(columns, schema=row_ledger_schema()))
        self._n_waiting += len(first)
        if self._n_waiting >= PART_RECORDS:  # a part takes many files
            self._write()

    def _named(self, mask: int) -> list[str]:
        named = [name for bit, name in enumerate(self._changes) if mask >> bit & 1]
        return sorted(named, key=_CHANGING_PLACE.__getitem__)

    def _write(self) -> None:
        table = pa.concat_tables([row_ledger_schema().empty_table(), *self._waiting])
        _write_part(table.unify_dictionaries(), self._folder / f"{self._n_parts}.parquet")
        self._n_parts += 1
        self._waiting, self._n_waiting = [], 0

    def finish(self) -> dict[str, dict[str, int]]:
        """Per table: records, kept, and the number of records by rule."""
        if self._waiting or not self._n_parts:
            self._write()
        return self._counts


def read_ledger(folder: Path) -> pa.Table:
    """The ledger with one line a record, in its order.

    Args:
        folder: `ledger/` of a token store or of prepared events.

    Returns:
        As `row_ledger_schema` or `ledger_schema`, without `n_records`.

    Raises:
        OSError: there is no ledger.
    """
    runs = pq.read_table(folder)
    n_records = runs["n_records"].to_numpy()
    place = np.repeat(np.arange(len(runs)), n_records)
    records = runs.drop_columns(["n_records"]).take(pa.array(place))
    within = np.arange(len(place)) - np.repeat(np.cumsum(n_records) - n_records, n_records)
    field = records.schema.field("key")
    key = records["key"]
    if field.type == pa.int64():
        key = pa.array(key.to_numpy() + within)
    else:  # keys beside runs may be any text
        in_run = pa.array(np.repeat(n_records > 1, n_records))
        whole = pc.if_else(in_run, key, None).cast(pa.int64()).fill_null(0).to_numpy()
        key = pc.if_else(in_run, pa.array(whole + within).cast(pa.string()), key)
    return records.set_column(1, field, key)


def _write_part(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(
            table.combine_chunks(),
            temporary,
            compression="zstd",
            row_group_size=1 << 20,
            use_dictionary=_TEXTS,
            column_encoding={"key": "DELTA_BINARY_PACKED"},
        )
