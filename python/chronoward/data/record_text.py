"""Records of delimited text, read by the core: plain values at once, the rest as SQL says.

What is not written plainly ("007", "7.0", "1/2/2020") is cast by the very expressions that SQL
reads a table with, once a distinct text. Files that not every reader of CSV takes to be the same
are left to SQL as a whole (`IrregularTextError`): it reads them, or says what is wrong.
"""

from __future__ import annotations

import gzip
import unicodedata
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from chronoward._core import read_csv
from chronoward.data.meds_rows import NONE, NULL_US
from chronoward.data.meds_tables import DAY_US
from chronoward.data.omop_tables import CLINICAL, Columns
from chronoward.data.record_numbers import as_us, number_distinct, numbers_of
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

    from numpy.typing import NDArray

    from chronoward.data.meds_rows import Numbering
    from chronoward.data.record_numbers import RecordNumberings
    from chronoward.data.source import SourceTable, TextLayout
    from chronoward.data.workspace import Workspace

    Read = tuple[list[dict[str, Any]], int, int]

_SKIP, _INTEGER, _ID, _TIME, _NUMBER, _TEXT = range(6)  # csrc/core/csv_piece.hpp
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
        for columns, n in _pieces(layout, kinds, threads):
            by_role = {
                roles[name][0]: (name, column)
                for name, column in zip(layout.names, columns, strict=True)
                if name in roles
            }
            yield _Piece(work, table, by_role, n).records(person, numberings)


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
        "day": (spec.day, _TIME),
        "end_at": (spec.end_at, _TIME),
        "end_day": (spec.end_day, _TIME),
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


def _pieces(
    layout: TextLayout, kinds: NDArray[np.uint8], threads: int
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Columns of a file's blocks and their numbers of rows, in order."""
    opener = gzip.open if layout.file.name.lower().endswith(".gz") else open
    waiting: deque[Any] = deque()
    try:
        with opener(layout.file, "rb") as file, ThreadPoolExecutor(max(threads - 1, 1)) as pool:
            rest, ends_with_return = _after_header(file)
            is_over = False
            while not is_over:
                block = rest + file.read(_BLOCK_BYTES)
                is_over = len(block) == len(rest)
                given = (layout.delimiter, kinds, ends_with_return)
                if is_over or b'"' in block:
                    columns, n, n_bytes = _read(block, *given, is_over)
                    rest = block[n_bytes:]
                    while waiting:
                        yield waiting.popleft().result()[:2]
                    yield columns, n
                else:
                    cut = block.rfind(b"\n") + 1
                    rest = block[cut:]
                    waiting.append(pool.submit(_read, block[:cut], *given, False))
                if len(rest) > MAX_LINE_BYTES:
                    raise IrregularTextError
                while len(waiting) > threads:
                    yield waiting.popleft().result()[:2]
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise IrregularTextError from None


def _after_header(file: Any) -> tuple[bytes, bool]:
    """What follows the header in the first block, and whether lines end with CR LF."""
    block = file.read(_BLOCK_BYTES)
    header, found, rest = block.partition(b"\n")
    if not found or header.count(b'"') % 2 or b"\r" in header[:-1]:
        raise IrregularTextError
    return rest, header.endswith(b"\r")


def _read(
    block: bytes,
    delimiter: str,
    kinds: NDArray[np.uint8],
    ends_with_return: bool,
    is_last: bool,
) -> Read:
    try:
        found: Read = read_csv(
            block,
            delimiter=delimiter,
            kinds=kinds,
            ends_with_return=ends_with_return,
            max_line_bytes=MAX_LINE_BYTES,
            is_last=is_last,
        )
        if not block.isascii():
            block[: found[2]].decode()
    except (DataError, UnicodeDecodeError):
        raise IrregularTextError from None
    return found


class _Piece:
    """Some rows of a table as the core has read them."""

    def __init__(
        self,
        work: Workspace,
        table: SourceTable,
        by_role: dict[str, tuple[str, dict[str, Any]]],
        n: int,
    ) -> None:
        self._work, self._by_role, self._n = work, by_role, n
        self._cast = Columns(table)

    def records(self, person: str, numberings: RecordNumberings) -> ReadRecords:
        """The rows as every reader gives them."""
        subject = self._integers("subject", person)
        has_subject = subject != NULL_US
        rows, texts = self._unread("key", self._cast.text(self._by_role["key"][0]))
        is_text = texts.is_valid().to_numpy(zero_copy_only=False)
        return ReadRecords(
            subject=np.where(has_subject, subject, 0),
            has_subject=has_subject,
            key=self._by_role["key"][1]["integers"],
            text_key_row=rows[is_text],
            text_keys=texts.filter(pa.array(is_text)),
            columns=self._columns(numberings),
        )

    def _columns(self, numberings: RecordNumberings) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {}
        flags = np.zeros(self._n, np.uint8)
        for name in ID_COLUMNS:
            if name in self._by_role:
                found[name] = self._ids(name, numberings)
        if "source_value" in self._by_role:
            found["source_value"] = self._texts("source_value", numberings.source_values)
        for name in ("text0", "text1"):
            if name in self._by_role:
                text = self._texts(name, numberings.texts, is_value=True)
                before = found.get("text", np.full(self._n, NONE, np.int32))
                found["text"] = np.where(before == NONE, text, before)
        unit = self._ids("unit", numberings) if "unit" in self._by_role else None
        has_text = "unit_text" in self._by_role
        unit_text = self._texts("unit_text", numberings.unit_texts) if has_text else None
        if unit is not None or unit_text is not None:
            found["unit"] = numberings.number_units(unit, unit_text)
        if "visit_ref" in self._by_role:
            found["visit_ref"] = self._integers(
                "visit_ref", self._cast.reference("visit_occurrence_id")
            )
        if "number" in self._by_role:
            found["number"] = self._numbers(flags)
        self._times(found, flags)
        return found | {"flags": flags}

    def _unread(self, role: str, sql: str) -> tuple[NDArray[np.int64], pa.Array]:
        """Rows whose value is not written plainly, and what SQL makes of them."""
        name, column = self._by_role[role]
        texts = column["unread_texts"]
        if not texts:
            return column["unread_row"], pa.array([], pa.string())
        given = pa.table({"place": np.arange(len(texts)), name: pa.array(texts, pa.string())})
        self._work.connection.register("unread", given)
        made = self._work.table(f"SELECT {sql} AS value FROM unread ORDER BY place")
        self._work.connection.unregister("unread")
        return column["unread_row"], made["value"].combine_chunks().take(pa.array(column["unread"]))

    def _integers(self, role: str, sql: str) -> NDArray[np.int64]:
        values: NDArray[np.int64] = self._by_role[role][1]["integers"]
        if len(self._by_role[role][1]["unread_row"]):
            rows, found = self._unread(role, sql)
            values[rows] = found.fill_null(NULL_US).to_numpy(zero_copy_only=False)
        return values

    def _ids(self, role: str, numberings: RecordNumberings) -> NDArray[np.int32]:
        name, column = self._by_role[role]
        known = [numberings.ids.of(value) for value in column["ids"].tolist()]
        numbers = numbers_of(known, column["index"])
        if len(column["unread_row"]):
            rows, found = self._unread(role, self._cast.integer(name))
            numbers[rows] = numberings.ids.of_column(found)
        return numbers

    def _texts(
        self, role: str, numbering: Numbering, *, is_value: bool = False
    ) -> NDArray[np.int32]:
        column = self._by_role[role][1]
        texts: list[str] = column["texts"]
        if not "".join(texts).isascii():
            texts = [_stripped(text) for text in texts]
        known = number_distinct(texts, numbering, is_value=is_value)
        return numbers_of(known, column["index"])

    def _numbers(self, flags: NDArray[np.uint8]) -> NDArray[np.float64]:
        name, column = self._by_role["number"]
        values: NDArray[np.float64] = column["numbers"]
        has_number = ~np.isnan(values)
        if len(column["unread_row"]):
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
        name = self._by_role[role][0]
        _, found = self._unread(role, self._cast.failed(name, cast))
        return np.asarray(found.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)

    def _times(self, found: dict[str, NDArray[Any]], flags: NDArray[np.uint8]) -> None:
        """Adds the time columns, and flags for those that are written but are none."""
        bad = {name: np.zeros(self._n, np.bool_) for name in TIME_COLUMNS}
        missing = {name: np.ones(self._n, np.bool_) for name in TIME_COLUMNS}
        for role in TIME_COLUMNS:
            if role not in self._by_role:
                continue
            name, column = self._by_role[role]
            us: NDArray[np.int64] = column["integers"]
            if len(column["unread_row"]):
                cast = self._cast.time(name)
                rows, times = self._unread(role, cast)
                us[rows] = as_us(times)
                bad[role][rows] = self._failed(role, cast)
            missing[role] = us == NULL_US
            if role in ("day", "end_day"):
                us = np.where(missing[role], us, us - us % DAY_US)
            found[role] = us
        start = (bad["moment"] | bad["day"]) & missing["moment"] & missing["day"]
        end = (bad["end_day"] & missing["end_at"]) | (bad["end_at"] & missing["end_day"])
        flags |= start * np.uint8(START_BAD) | end * np.uint8(END_BAD)


def _stripped(text: str) -> str:
    """Without blanks of any script at its ends, as SQL's TRIM has it; the core saw to spaces."""
    while text and not text[0].isascii() and unicodedata.category(text[0]) == "Zs":
        text = text[1:].lstrip(" ")
    while text and not text[-1].isascii() and unicodedata.category(text[-1]) == "Zs":
        text = text[:-1].rstrip(" ")
    return text
