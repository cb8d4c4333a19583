"""MEDS shards as flat columns: codes, texts, units and tables become numbers, once each.

What a number stands for is looked at in Python (`meds_tables`); rows are looked at in C++.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chronoward.errors import FormatError

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
        """
        parts = []
        for chunk in column.chunks:
            if not pa.types.is_dictionary(chunk.type):
                chunk = pc.dictionary_encode(chunk)
            values = chunk.dictionary.to_pylist()
            if trim:
                values = [None if value is None else value.strip(" ") for value in values]
            number = np.array([self.of(v) if v else NONE for v in values] + [NONE], np.int32)
            indices = chunk.indices.fill_null(len(values)) if chunk.null_count else chunk.indices
            parts.append(number[indices.to_numpy()])
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)


@dataclass
class Numberings:
    """What the numbers of a source's rows stand for."""

    codes: Numbering = field(default_factory=Numbering)
    texts: Numbering = field(default_factory=Numbering)
    units: Numbering = field(default_factory=Numbering)
    tables: Numbering = field(default_factory=Numbering)


@dataclass(frozen=True, eq=False)
class MedsRows:
    """Rows of one shard, (n,) each, as `chronoward._core.MedsMending.mend` reads them."""

    subject_id: NDArray[np.int64]
    has_subject: NDArray[np.bool_]
    time: NDArray[np.int64]
    end_time: NDArray[np.int64]
    available: NDArray[np.int64]
    code: NDArray[np.int32]
    text: NDArray[np.int32]
    unit: NDArray[np.int32]
    number: NDArray[np.float64]
    has_number: NDArray[np.uint8]
    visit_ref: NDArray[np.int64]
    table: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.subject_id)


def _times(table: pa.Table, name: str | None) -> NDArray[np.int64]:
    if name is None:
        return np.full(len(table), NULL_US)
    column = table[name].cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    return np.ascontiguousarray(column.fill_null(NULL_US).to_numpy(), np.int64)


def _integers(table: pa.Table, name: str | None) -> NDArray[np.int64]:
    if name is None:
        return np.full(len(table), NULL_US)
    return np.ascontiguousarray(
        table[name].cast(pa.int64()).fill_null(NULL_US).to_numpy(), np.int64
    )


def number_rows(table: pa.Table, names: dict[str, str], numberings: Numberings) -> MedsRows:
    """A piece of a shard as numbers.

    Args:
        table: columns as the file has them.
        names: column as MEDS names it → as the file does (`chronoward.data.meds.check_schema`).
        numberings: grow with what is new.
    """
    n = len(table)

    def texts(column: str, numbering: Numbering, *, trim: bool) -> NDArray[np.int32]:
        if column not in names:
            return np.full(n, NONE, np.int32)
        return numbering.of_column(table[names[column]], trim=trim)

    subject = table[names["subject_id"]].cast(pa.int64())
    number, has_number = np.zeros(n), np.zeros(n, np.uint8)
    if "numeric_value" in names:
        column = table[names["numeric_value"]].cast(pa.float64())
        has_number = np.ascontiguousarray(pc.is_valid(column).to_numpy(), np.uint8)
        number = np.ascontiguousarray(column.fill_null(0.0).to_numpy(), np.float64)
    source_table = texts("table", numberings.tables, trim=True)
    source_table = np.where(source_table == NONE, numberings.tables.of(""), source_table)
    return MedsRows(
        subject_id=np.ascontiguousarray(subject.fill_null(0).to_numpy(), np.int64),
        has_subject=np.asarray(pc.is_valid(subject).to_numpy()),
        time=_times(table, names["time"]),
        end_time=_times(table, names.get("end_time")),
        available=_times(table, names.get("available_time")),
        code=texts("code", numberings.codes, trim=False),
        text=texts("text_value", numberings.texts, trim=True),
        unit=texts("unit", numberings.units, trim=True),
        number=number,
        has_number=has_number,
        visit_ref=_integers(table, names.get("visit_id")),
        table=source_table.astype(np.uint16),
    )


def read_pieces(
    file: Path, names: dict[str, str], numberings: Numberings, piece_rows: int = 1 << 20
) -> Iterator[MedsRows]:
    """Reads a shard piece by piece.

    Args:
        file: Parquet.
        names: column as MEDS names it → as the file does.
        numberings: grow with what is new.
        piece_rows: rows of a piece, at most.

    Raises:
        FormatError: the file cannot be decoded.
    """
    wanted = [names[c] for c in ("code", "text_value", "unit", "table") if c in names]
    columns = sorted(set(names.values()))
    try:
        with pq.ParquetFile(file, read_dictionary=wanted) as parquet:
            for batch in parquet.iter_batches(piece_rows, columns=columns):
                yield number_rows(pa.Table.from_batches([batch]), names, numberings)
    except (pa.ArrowInvalid, OSError) as error:
        message = f"{file} cannot be read: {str(error).splitlines()[0]}"
        raise FormatError(message) from None
