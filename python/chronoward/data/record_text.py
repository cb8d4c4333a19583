"""Records of delimited text, read by the core: plain values at once, the rest as SQL says.

What is not written plainly ("007", "7.0", "1/2/2020") is cast by the very expressions that SQL
reads a table with, once a distinct text. Files that not every reader of CSV takes to be the same
are left to SQL as a whole (`IrregularTextError`): it reads them, or says what is wrong.
"""

from __future__ import annotations

import gzip
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from chronoward._core import CsvPiece, TextNumbering, read_csv
from chronoward.data.meds_rows import NONE, NULL_US
from chronoward.data.omop_tables import CLINICAL, Columns
from chronoward.data.record_numbers import as_us, number_ids
from chronoward.data.record_rows import (
    END_BAD,
    HAS_NUMBER,
    ID_COLUMNS,
    NUMBER_BAD,
    START_BAD,
    TIME_COLUMNS,
    ReadRecords,
)
from chronoward.data.workspace import MAX_LINE_BYTES
from chronoward.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from io import BufferedIOBase

    from numpy.typing import NDArray

    from chronoward.data.record_numbers import RecordNumberings
    from chronoward.data.source import SourceTable, TextLayout
    from chronoward.data.workspace import Workspace

    Place = tuple[str, int]

_SKIP, _INTEGER, _ID, _TIME, _DAY, _NUMBER, _TEXT = range(7)  # csrc/core/csv_layout.hpp
_BLOCK_BYTES = 8 << 20


class IrregularTextError(Exception):
    """A file that the core does not read; SQL decides about it."""


def is_plain(table: SourceTable, person: str) -> bool:
    """Whether a table may be read here: text, with a key, and person ids that are numbers."""
    return (
        bool(table.layouts) and CLINICAL[table.name].key in table.columns and "hash(" not in person
    )


def read_as_text(
    work: Workspace,
    table: SourceTable,
    person: str,
    numberings: RecordNumberings,
    threads: int,
) -> Iterator[ReadRecords]:
    """Yields a clinical table's records.

    Args:
        work: the database, for casts.
        table: the source table (see `is_plain`).
        person: SQL expression of the subject's id.
        numberings: grow with what is new.
        threads: that read; nothing depends on them.

    Raises:
        IrregularTextError: SQL has to read the table.
    """
    roles = _roles(table)
    for layout in table.layouts:
        kinds = np.array([roles.get(name, ("", _SKIP))[1] for name in layout.names], np.uint8)
        places = {roles[n][0]: (n, i) for i, n in enumerate(layout.names) if n in roles}
        for piece in _pieces(layout, kinds, threads):
            yield _Rows(work, table, places, piece).records(person, numberings)


def _roles(table: SourceTable) -> dict[str, tuple[str, int]]:
    """By column: what it is here, and what the core reads it as."""
    spec = CLINICAL[table.name]
    found = {
        "subject": ("person_id", _INTEGER),
        "key": (spec.key, _INTEGER),
        "visit_ref": ("visit_occurrence_id", _INTEGER),
        "concept": (spec.concept, _ID),
        "source_concept": (spec.source_concept, _ID),
        "type": (spec.type, _ID),
        "status": (spec.status, _ID),
        "value_concept": (spec.value_concept, _ID),
        "operator": (spec.operator, _ID),
        "unit": (spec.unit, _ID),
        "moment": (spec.at, _TIME),
        "day": (spec.day, _DAY),
        "end_at": (spec.end_at, _TIME),
        "end_day": (spec.end_day, _DAY),
        "number": (spec.number, _NUMBER),
        "source_value": (spec.source_value, _TEXT),
        "unit_text": (spec.unit_text, _TEXT),
        **{f"text{k}": (column, _TEXT) for k, column in enumerate(spec.text)},
    }
    return {
        column: (role, kind)
        for role, (column, kind) in found.items()
        if column is not None and column in table.columns
    }


def _pieces(layout: TextLayout, kinds: NDArray[np.uint8], threads: int) -> Iterator[CsvPiece]:
    """The rows of a file, block by block, in order.

    Blocks are read into a few arrays by turns: new memory for each would have to be cleared first.
    """
    opener = gzip.open if layout.file.name.lower().endswith(".gz") else open
    waiting: deque[tuple[Future[CsvPiece], bytearray]] = deque()
    free = [bytearray(_BLOCK_BYTES) for _ in range(threads + 1)]
    try:
        with opener(layout.file, "rb") as file, ThreadPoolExecutor(threads) as pool:
            rest, ends_with_return = _after_header(file)
            is_over = False
            while not is_over:
                if not free:
                    piece, block = waiting.popleft()
                    yield piece.result()
                    free.append(block)
                block = free.pop()
                n_bytes, is_over = _fill(block, rest, file)
                cut = n_bytes if is_over else _last_line_end(block, n_bytes)
                rest = bytes(memoryview(block)[cut:n_bytes])
                if len(rest) > MAX_LINE_BYTES:
                    raise IrregularTextError
                given = (block, cut, layout.delimiter, kinds, ends_with_return, is_over)
                waiting.append((pool.submit(_read, *given), block))
            for piece, _ in waiting:
                yield piece.result()
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise IrregularTextError from None


def _fill(block: bytearray, rest: bytes, file: BufferedIOBase) -> tuple[int, bool]:
    """Fills a block with what was left and what follows; its bytes, and whether the file ends."""
    if len(block) < len(rest) + _BLOCK_BYTES:
        block.extend(bytes(len(rest) + _BLOCK_BYTES - len(block)))
    block[: len(rest)] = rest
    n = len(rest)
    end = n + _BLOCK_BYTES
    with memoryview(block) as room:
        while n < end and (more := file.readinto(room[n:end])):
            n += more
    return n, n < end


def _last_line_end(block: bytearray, n_bytes: int) -> int:
    """Behind the last line end that no quotes are around; 0 where there is none.

    A block begins with a row, so quotes are even in number where one ends. Where they are not,
    because a quote stands inside a field, the core refuses the block that has it.
    """
    cut = block.rfind(b"\n", 0, n_bytes) + 1
    if block.find(b'"', 0, cut) < 0:  # faster than counting none
        return cut
    is_open = block.count(b'"', 0, cut) % 2
    while cut and is_open:
        before = block.rfind(b"\n", 0, cut - 1) + 1
        is_open ^= block.count(b'"', before, cut) % 2
        cut = before
    return cut


def _after_header(file: BufferedIOBase) -> tuple[bytes, bool]:
    """What follows the header in the first block, and whether lines end with CR LF."""
    block = file.read(_BLOCK_BYTES)
    header, found, rest = block.partition(b"\n")
    if not found or header.count(b'"') % 2 or b"\r" in header[:-1]:
        raise IrregularTextError
    return rest, header.endswith(b"\r")


def _read(
    block: bytearray,
    n_bytes: int,
    delimiter: str,
    kinds: NDArray[np.uint8],
    ends_with_return: bool,
    is_last: bool,
) -> CsvPiece:
    try:
        found = read_csv(
            block,
            delimiter=delimiter,
            kinds=kinds,
            ends_with_return=ends_with_return,
            max_line_bytes=MAX_LINE_BYTES,
            n_bytes=n_bytes,
            is_last=is_last,
        )
        if not found.is_ascii:
            block[:n_bytes].decode()
    except (DataError, UnicodeDecodeError):
        raise IrregularTextError from None
    if found.n_bytes < n_bytes:  # the last line end was in a field
        raise IrregularTextError
    return found


class _Rows:
    """Some rows of a table as the core has read them.

    Args:
        work: the database, for casts.
        table: the source table.
        places: by role: the column's name, and its place in the piece.
        piece: the rows.
    """

    def __init__(
        self, work: Workspace, table: SourceTable, places: dict[str, Place], piece: CsvPiece
    ) -> None:
        self._work, self._places, self._piece, self._n = work, places, piece, piece.n_rows
        self._cast = Columns(table)

    def records(self, person: str, numberings: RecordNumberings) -> ReadRecords:
        """The rows as every reader gives them."""
        rows, texts = self._unread("key", self._cast.text(self._places["key"][0]))
        is_text = texts.is_valid().to_numpy(zero_copy_only=False)
        return ReadRecords(
            subject=self._integers("subject", person),
            key=self._piece.integers(self._places["key"][1]),
            text_key_row=rows[is_text],
            text_keys=texts.filter(pa.array(is_text)),
            columns=self._columns(numberings),
        )

    def _columns(self, numberings: RecordNumberings) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {}
        flags = np.zeros(self._n, np.uint8)
        for name in ID_COLUMNS:
            if name in self._places:
                found[name] = self._ids(name, numberings)
        if "source_value" in self._places:
            found["source_value"] = self._texts("source_value", numberings.source_values)
        for name in ("text0", "text1"):
            if name in self._places:
                text = self._texts(name, numberings.texts, is_value=True)
                before = found.get("text")
                found["text"] = text if before is None else np.where(before == NONE, text, before)
        unit = self._ids("unit", numberings) if "unit" in self._places else None
        has_text = "unit_text" in self._places
        unit_text = self._texts("unit_text", numberings.unit_texts) if has_text else None
        if unit is not None or unit_text is not None:
            found["unit"] = numberings.number_units(unit, unit_text)
        if "visit_ref" in self._places:
            found["visit_ref"] = self._integers(
                "visit_ref", self._cast.reference("visit_occurrence_id")
            )
        if "number" in self._places:
            found["number"] = self._numbers(flags)
        self._times(found, flags)
        return found | {"flags": flags}

    def _n_unread(self, role: str) -> int:
        return self._piece.n_unread(self._places[role][1])

    def _unread(self, role: str, sql: str) -> tuple[NDArray[np.int64], pa.Array]:
        """Rows whose value is not written plainly, and what SQL makes of them."""
        name, place = self._places[role]
        rows, which, texts = self._piece.unread(place)
        if not texts:
            return rows, pa.array([], pa.string())
        given = pa.table({"place": np.arange(len(texts)), name: pa.array(texts, pa.string())})
        self._work.connection.register("unread", given)
        made = self._work.table(f"SELECT {sql} AS value FROM unread ORDER BY place")
        self._work.connection.unregister("unread")
        return rows, made["value"].combine_chunks().take(pa.array(which))

    def _integers(self, role: str, sql: str) -> NDArray[np.int64]:
        values = self._piece.integers(self._places[role][1])
        if self._n_unread(role):
            rows, found = self._unread(role, sql)
            values[rows] = found.fill_null(NULL_US).to_numpy(zero_copy_only=False)
        return values

    def _ids(self, role: str, numberings: RecordNumberings) -> NDArray[np.int32]:
        name, place = self._places[role]
        numbers = self._piece.ids(place, numberings.ids)
        if self._n_unread(role):
            rows, found = self._unread(role, self._cast.integer(name))
            numbers[rows] = number_ids(found, numberings.ids)
        return numbers

    def _texts(
        self, role: str, numbering: TextNumbering, *, is_value: bool = False
    ) -> NDArray[np.int32]:
        return self._piece.texts(self._places[role][1], numbering, is_value=is_value)

    def _numbers(self, flags: NDArray[np.uint8]) -> NDArray[np.float64]:
        name, place = self._places["number"]
        values = self._piece.numbers(place)
        has_number = ~np.isnan(values)
        if self._n_unread("number"):
            rows, found = self._unread("number", self._cast.number(name))
            is_known = found.is_valid().to_numpy(zero_copy_only=False)
            values[rows] = found.fill_null(0.0).to_numpy(zero_copy_only=False)
            has_number[rows] = is_known
            flags[rows] |= self._failed("number", self._cast.number(name)) * np.uint8(NUMBER_BAD)
        values[~has_number] = 0.0
        flags |= has_number * np.uint8(HAS_NUMBER)
        return values

    def _failed(self, role: str, cast: str) -> NDArray[np.bool_]:
        """Of the rows that are not written plainly: whether something is written nevertheless."""
        name = self._places[role][0]
        _, found = self._unread(role, self._cast.failed(name, cast))
        return np.asarray(found.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)

    def _times(self, found: dict[str, NDArray[Any]], flags: NDArray[np.uint8]) -> None:
        """Adds the time columns, and flags for those that are written but are none."""
        bad: dict[str, NDArray[np.bool_]] = {}
        for role in TIME_COLUMNS:
            if role not in self._places:
                continue
            name, place = self._places[role]
            us = found[role] = self._piece.integers(place)
            if not self._n_unread(role):
                continue
            day = role in ("day", "end_day")
            rows, times = self._unread(role, self._cast.day(name) if day else self._cast.time(name))
            us[rows] = as_us(times)
            bad[role] = np.zeros(self._n, np.bool_)
            bad[role][rows] = self._failed(role, self._cast.time(name))
        for one, other, flag in (("moment", "day", START_BAD), ("end_at", "end_day", END_BAD)):
            if one in bad or other in bad:
                none = np.zeros(self._n, np.bool_)
                written = bad.get(one, none) | bad.get(other, none)
                missing = [found[role] == NULL_US for role in (one, other) if role in found]
                flags |= (written & np.logical_and.reduce(missing)) * np.uint8(flag)
