"""MEDS shards as flat columns: codes, texts, units and tables become numbers, once each.

What a number stands for is looked at in Python (`meds_tables`); rows are looked at in C++.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chronoward.data.parquet_file import (
    END_US,
    FIRST_US,
    MAX_FIELD_BYTES,
    as_microseconds,
    readable,
)
from chronoward.errors import DataError, FormatError, LimitError
from chronoward.nulls import without_nulls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

NULL_US = -(2**63)
NONE = -1


@dataclass
class Numbering:
    """Distinct texts in the order in which they came."""

    texts: list[str] = field(default_factory=list)
    _number: dict[str, int] = field(default_factory=dict)
    _known: pa.Array = field(default_factory=lambda: pa.array([], pa.large_string()))

    def of(self, text: str) -> int:
        """The number of a text, a new one where it is new."""
        found = self._number.get(text)
        if found is None:
            found = self._number[text] = len(self.texts)
            self.texts.append(text)
        return found

    def of_column(self, column: pa.ChunkedArray, *, trim: bool) -> NDArray[np.int32]:
        """Numbers of a column, -1 for null and empty.

        Args:
            column: text, dictionary-encoded or not.
            trim: blanks around a text do not count.

        Raises:
            DataError: a NUL byte: two-byte characters, or damage.
            LimitError: a text is longer than `MAX_FIELD_BYTES`.
            pa.ArrowInvalid: the column is corrupt or not UTF-8.
        """
        parts = []
        for chunk in column.chunks:
            if not pa.types.is_dictionary(chunk.type):
                chunk = pc.dictionary_encode(chunk)
            longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
            if longest > MAX_FIELD_BYTES:
                message = f"a text of {longest:,} bytes, over the limit of {MAX_FIELD_BYTES:,}"
                raise LimitError(message)
            chunk.validate(full=True)  # indices point into the dictionary, its text is UTF-8
            values = chunk.dictionary.cast(pa.large_string())
            if pc.any(pc.match_substring(values, "\0")).as_py():
                message = "a NUL byte"
                raise DataError(message)
            number = self._of_all(pc.utf8_trim(values, " ") if trim else values)
            number = np.append(number, np.int32(NONE))
            parts.append(number[without_nulls(chunk.indices, np.int32(len(values)))])
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def _of_all(self, values: pa.LargeStringArray) -> NDArray[np.int32]:
        """Numbers of distinct texts, -1 for null and empty."""
        if 4 * len(values) < len(self.texts):  # looking them up by themselves costs less
            return np.array([self.of(v) if v else NONE for v in values.to_pylist()], np.int32)
        if len(self._known) != len(self.texts):
            self._known = pa.array(self.texts, pa.large_string())
        number = without_nulls(pc.index_in(values, self._known), np.int32(NONE)).copy()
        for place in np.flatnonzero(number == NONE).tolist():
            text = values[place].as_py()
            number[place] = self.of(text) if text else NONE
        return number


@dataclass
class Numberings:
    """What the numbers of a source's rows stand for."""

    codes: Numbering = field(default_factory=Numbering)
    texts: Numbering = field(default_factory=Numbering)
    units: Numbering = field(default_factory=Numbering)
    tables: Numbering = field(default_factory=Numbering)


@dataclass(frozen=True, eq=False)
class MedsRows:
    """Rows of one shard, (n,) each.

    Attributes:
        subject_id: int64, 0 for null.
        has_subject: bool.
        columns: what `chronoward._core.MedsMending` reads of them, by its names; those that the
            shard does not have are missing.
    """

    subject_id: NDArray[np.int64]
    has_subject: NDArray[np.bool_]
    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.subject_id)


@dataclass(frozen=True)
class _Piece:
    """Some rows of a shard, and what messages say of them."""

    file: Path
    first_row: int
    table: pa.Table
    names: dict[str, str]

    def times(self, name: str) -> NDArray[np.int64]:
        column = self.table[self.names[name]]
        us = as_microseconds(column, self.file, self.names[name])
        values = without_nulls(us, np.int64(NULL_US))
        if name == "available_time":  # ours: no rule of the source's records is about it
            is_outside = (values != NULL_US) & ((values < FIRST_US) | (values >= END_US))
            if is_outside.any():
                row = self.first_row + int(np.argmax(is_outside))
                message = f"{self.file}: column {name}, row {row}: outside of the years 1 to 9999"
                raise DataError(message)
        return values

    def integers(self, name: str) -> pa.ChunkedArray:
        """A column of ids as int64 with nulls."""
        column = self.table[self.names[name]]
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:  # its message holds the id
            limit = pa.scalar(np.iinfo(np.int64).max, pa.uint64())
            row = self.first_row + pc.index(pc.greater(column, limit), True).as_py()
            message = f"{self.file}: column {self.names[name]}, row {row}: an id beyond 2^63"
            raise DataError(message) from None

    def texts(self, name: str, numbering: Numbering, *, trim: bool) -> NDArray[np.int32]:
        column = self.table[self.names[name]]
        if pa.types.is_null(column.type):
            column = column.cast(pa.string())
        where = f"{self.file}: column {self.names[name]}"
        try:
            return numbering.of_column(column, trim=trim)
        except (DataError, LimitError) as error:
            message = f"{where}: {error}"
            raise type(error)(message) from None
        except pa.ArrowInvalid:
            message = f"{where}: corrupt, or not UTF-8"
            raise FormatError(message) from None


def number_rows(
    table: pa.Table, names: dict[str, str], numberings: Numberings, file: Path, first_row: int
) -> MedsRows:
    """A piece of a shard as numbers.

    Args:
        table: columns as the file has them.
        names: column as MEDS names it → as the file does (`chronoward.data.meds.check_schema`).
        numberings: grow with what is new.
        file: named in messages.
        first_row: of the piece.

    Raises:
        DataError: an id beyond 64 bits, or a time beyond 62 bits of microseconds.
        FormatError: a text column is corrupt.
        LimitError: a text is too long.
    """
    piece = _Piece(file, first_row, table, names)
    subject = piece.integers("subject_id")
    columns: dict[str, NDArray[Any]] = {
        "time": piece.times("time"),
        "code": piece.texts("code", numberings.codes, trim=False),
    }
    if "end_time" in names:
        columns["end_time"] = piece.times("end_time")
    if "available_time" in names:
        columns["available"] = piece.times("available_time")
    if "text_value" in names:
        columns["text"] = piece.texts("text_value", numberings.texts, trim=True)
    if "unit" in names:
        columns["unit"] = piece.texts("unit", numberings.units, trim=True)
    if "numeric_value" in names:
        number = table[names["numeric_value"]].cast(pa.float64(), safe=False)
        columns["number"] = without_nulls(number, np.float64(0))
        columns["has_number"] = np.ascontiguousarray(pc.is_valid(number).to_numpy(), np.uint8)
    if "visit_id" in names:
        columns["visit_ref"] = without_nulls(piece.integers("visit_id"), np.int64(NULL_US))
    if "table" in names:
        found = piece.texts("table", numberings.tables, trim=True)
        found = np.where(found == NONE, numberings.tables.of(""), found)
        columns["table"] = found.astype(np.uint16)
    return MedsRows(
        subject_id=without_nulls(subject, np.int64(0)),
        has_subject=np.asarray(pc.is_valid(subject).to_numpy()),
        columns=columns,
    )


def decoded(file: Path, names: dict[str, str], piece_rows: int = 1 << 18) -> Iterator[pa.Table]:
    """Decodes a shard piece by piece.

    Args:
        file: Parquet.
        names: column as MEDS names it → as the file does; no other is read.
        piece_rows: rows of a piece, at most; Arrow's allocator maps blocks above 16 MB anew each
            time, which is dear.

    Raises:
        FormatError: the file cannot be decoded, or a page does not match its checksum.
    """
    wanted = [names[c] for c in ("code", "text_value", "unit", "table") if c in names]
    columns, n_rows = sorted(set(names.values())), 0
    with (
        readable(file),
        pq.ParquetFile(file, read_dictionary=wanted, page_checksum_verification=True) as parquet,
    ):
        for batch in parquet.iter_batches(piece_rows, columns=columns):
            n_rows += len(batch)
            yield pa.Table.from_batches([batch])
        if n_rows != parquet.metadata.num_rows:  # Arrow stops at a column that ends early
            message = f"{file}: {n_rows} rows can be read, {parquet.metadata.num_rows} are stated"
            raise FormatError(message)
