"""The ledger of an OMOP source: clinical records from files of numbers, other tables from SQL.

Ordered by table, then by key: integers by value, in runs of records that fared alike; other keys by
their text. A table in which any key is text takes the way of SQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chronoward._core import RECORD_CHANGES, RECORD_REMOVALS
from chronoward.data import ledger
from chronoward.data.meds_rows import NULL_US
from chronoward.data.rules import CHANGING, REMOVING, Rule
from chronoward.data.workspace import quote_text
from chronoward.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.data.record_read import ReadTable, RecordReader
    from chronoward.data.workspace import Workspace

    Ints = NDArray[np.int64]

_GONE = np.array(
    [0, *(REMOVING.index(Rule.named(name)) + 1 for name in RECORD_REMOVALS[1:])], np.uint8
)
_BIT = [1 << CHANGING.index(Rule.named(name)) for name in RECORD_CHANGES]
_SLICE = 1 << 20


class RecordFates:
    """What became of each record, by its place.

    Args:
        reader: has read all tables.
        scratch: folder for the changes.
    """

    def __init__(self, reader: RecordReader, scratch: Path) -> None:
        self._reader = reader
        n = reader.n_rows
        with (scratch / "changes").open("xb") as handle:
            ledger_zeros = np.zeros(min(n, _SLICE), np.uint32)
            for begin in range(0, n, _SLICE):  # written, so that a full disk is an error now
                ledger_zeros[: n - begin].tofile(handle)
        self._gone = _mapped(scratch / "gone", np.uint8, n)
        self._changes = _mapped(scratch / "changes", np.uint32, n)
        self._keys = _mapped(scratch / "keys", np.int64, n)

    def note(
        self, place: Ints | slice, gone: NDArray[np.uint8], changes: NDArray[np.uint32]
    ) -> None:
        """Takes fates of records (numbers of `RECORD_REMOVALS`, bits of `RECORD_CHANGES`)."""
        self._gone[place], self._changes[place] = gone, changes

    def keys(self, place: Ints | slice) -> Ints:
        """Keys of records; one that is text is `NULL_US`."""
        return np.array(self._keys[place])

    def of(self, table: ReadTable) -> tuple[Ints, NDArray[np.uint8], NDArray[np.uint32]]:
        """Keys and fates of a table's records; a key that is text is `NULL_US`."""
        part = slice(table.first, table.first + table.n_rows)
        return self._keys[part], self._gone[part], self._changes[part]


def _ascends(values: Ints) -> bool:
    return bool((values[1:] > values[:-1]).all())


def _mapped(path: Path, dtype: type[Any], n: int) -> NDArray[Any]:
    return np.memmap(path, dtype, "r+", shape=(n,)) if n else np.zeros(0, dtype)


def text_key_orders(work: Workspace, reader: RecordReader, fates: RecordFates) -> dict[int, Ints]:
    """By place of each table with keys that are text: the rank of each record's key."""
    orders: dict[int, Ints] = {}
    for number, table in enumerate(reader.tables):
        if not table.n_text_keys:
            continue
        _make_keys(work, reader, table, fates)
        found = work.table(
            f"""SELECT row_number() OVER (ORDER BY TRY_CAST(key AS HUGEINT) NULLS LAST, key, place)
            AS rank, place FROM {_keys_name(table)} ORDER BY place"""
        )
        orders[number] = found["rank"].to_numpy()
    return orders


def _keys_name(table: ReadTable) -> str:
    return f"key_of_{table.name}"


def _make_keys(work: Workspace, reader: RecordReader, table: ReadTable, fates: RecordFates) -> None:
    """Makes (place, key) of a table's records."""
    keys = fates.of(table)[0]
    whole = np.flatnonzero(keys != NULL_US)
    given = pa.table({"place": whole + table.first, "key": pa.array(keys[whole])})
    work.connection.register("whole_keys", given)
    file = quote_text(str(reader.text_keys(table.name)))
    work.run(
        f"""CREATE TABLE {_keys_name(table)} AS SELECT place, key FROM read_parquet({file})
        UNION ALL SELECT place, key::VARCHAR FROM whole_keys"""
    )
    work.connection.unregister("whole_keys")


def enter_text_keys(work: Workspace, reader: RecordReader, fates: RecordFates) -> None:
    """Enters the records of tables with keys that are text into the table `ledger`."""
    for table in reader.tables:
        if not table.n_text_keys:
            continue
        _, gone, changes = fates.of(table)
        place = np.arange(table.first, table.first + table.n_rows)
        rows = pa.table({"place": place, "gone": _GONE[gone], "changes": _bits(changes)})
        work.connection.register("fate", rows)
        work.run(
            f"""INSERT INTO ledger SELECT {quote_text(table.name)}, k.key, f.gone, f.changes
            FROM {_keys_name(table)} k JOIN fate f ON k.place = f.place"""
        )
        work.connection.unregister("fate")
        work.drop(_keys_name(table))


def _bits(changes: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Bits of `RECORD_CHANGES` as those of `CHANGING`."""
    masks, which = np.unique(changes, return_inverse=True)
    return np.array([_mask(mask) for mask in masks.tolist()], np.uint64)[which]


def _mask(mask: int) -> int:
    return sum(bit for place, bit in enumerate(_BIT) if mask >> place & 1)


def write_ledger(
    work: Workspace, reader: RecordReader, fates: RecordFates, folder: Path
) -> dict[str, dict[str, int]]:
    """Writes `ledger/<n>.parquet` of the table `ledger` and of the records with integer keys.

    Returns:
        Per table with integer keys: records, kept, and the number of records by rule.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    of_numbers = {t.name: t for t in reader.tables if t.n_rows and not t.n_text_keys}
    of_sql = {row[0] for row in work.rows("SELECT DISTINCT tbl FROM ledger")}
    parts, counts = _Parts(folder), dict[str, dict[str, int]]()
    for name in sorted(of_numbers.keys() | of_sql):
        pieces = _of_numbers(of_numbers[name], fates) if name in of_numbers else _of_sql(work, name)
        for piece in pieces:
            parts.add(name, piece)
            if name in of_numbers:
                _count(counts.setdefault(name, {"records": 0, "kept": 0}), piece)
    parts.finish()
    return counts


@dataclass(frozen=True, eq=False)
class _Lines:
    """Lines of a table, (n,) each: first key as text, records, number of the rule in `REMOVING`
    from 1, bits of `CHANGING`."""

    key: pa.Array
    n_records: Ints
    gone: NDArray[np.uint8]
    changes: NDArray[np.uint64]


def _of_sql(work: Workspace, name: str) -> Iterator[_Lines]:
    sql = f"""SELECT key, gone, changes FROM ledger WHERE tbl = {quote_text(name)}
        ORDER BY key, gone, changes"""
    for batch in work.stream(sql):
        gone, changes = (batch[c].to_numpy(zero_copy_only=False) for c in ("gone", "changes"))
        yield _Lines(batch["key"], np.ones(len(gone), np.int64), gone, changes)


def _of_numbers(table: ReadTable, fates: RecordFates) -> Iterator[_Lines]:
    keys, gone, changes = fates.of(table)
    is_ordered = all(
        _ascends(keys[max(begin - 1, 0) : begin + _SLICE]) for begin in range(0, len(keys), _SLICE)
    )
    order = None if is_ordered else np.lexsort((changes, gone, keys))
    for begin in range(0, len(keys), _SLICE):
        part = slice(begin, begin + _SLICE) if order is None else order[begin : begin + _SLICE]
        key, fate, change = (np.asarray(keys[part]), gone[part], changes[part])
        first, n_records = ledger.runs_of(fate, change, key)
        texts = pa.array(key[first]).cast(pa.string())
        yield _Lines(texts, n_records, _GONE[fate[first]], _bits(change[first]))


def _count(counts: dict[str, int], lines: _Lines) -> None:
    """Adds lines to a table's counts."""
    counts["records"] += int(lines.n_records.sum())
    for number in np.unique(lines.gone).tolist():
        name = REMOVING[number - 1].value if number else "kept"
        counts[name] = counts.get(name, 0) + int(lines.n_records[lines.gone == number].sum())
    masks, which = np.unique(lines.changes, return_inverse=True)
    n_of = np.bincount(which, lines.n_records, len(masks)).astype(np.int64)
    for mask, n in zip(masks.tolist(), n_of.tolist(), strict=True):
        for rule in _named(mask):
            counts[rule] = counts.get(rule, 0) + n


def _named(mask: int) -> list[str]:
    """Names of the bits of `CHANGING`."""
    return [rule.value for place, rule in enumerate(CHANGING) if mask >> place & 1]


class _Parts:
    """Ledger lines as Parquet files of `ledger.PART_RECORDS`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0
        rules = ["kept", *(rule.value for rule in REMOVING)]
        self._rules = pa.array(rules)
        self._effects = pa.array(["kept", *(str(rule.effect) for rule in REMOVING)])

    def add(self, table: str, lines: _Lines) -> None:
        masks, which = np.unique(lines.changes, return_inverse=True)
        lists = pa.array([_named(mask) for mask in masks.tolist()], pa.list_(pa.string()))
        number = pa.array(lines.gone.astype(np.int32))
        rule = pa.array(lines.gone.astype(np.int32), mask=lines.gone == 0)
        columns = [
            pa.array([table]).take(pa.array(np.zeros(len(number), np.int32))),
            lines.key,
            pa.array(lines.n_records),
            self._effects.take(number),
            self._rules.take(rule),
            lists.take(pa.array(which)),
        ]
        names = ledger.ledger_schema().names
        self._waiting.append(pa.Table.from_arrays(columns, names))
        self._n_waiting += len(number)
        while self._n_waiting >= ledger.PART_RECORDS:
            self._write(ledger.PART_RECORDS)

    def _write(self, n: int) -> None:
        schema = ledger.ledger_schema()
        joined: pa.Table = pa.concat_tables(
            [schema.empty_table(), *(table.cast(schema) for table in self._waiting)]
        )
        part = joined.slice(0, n).combine_chunks()  # pages do not depend on how rows came
        with atomic_path(self._folder / f"{self._number}.parquet") as path:
            pq.write_table(
                part,
                path,
                compression="zstd",
                row_group_size=_SLICE,
                use_dictionary=["table", "disposition", "rule", "changes.list.element"],
                column_encoding={"key": "DELTA_BYTE_ARRAY"},
            )
        self._number += 1
        self._waiting = [joined.slice(n)] if len(joined) > n else []
        self._n_waiting = sum(map(len, self._waiting))

    def finish(self) -> None:
        """Writes what waits."""
        if self._n_waiting or not self._number:
            self._write(ledger.PART_RECORDS)
