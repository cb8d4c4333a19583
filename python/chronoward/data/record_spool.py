"""Clinical records on disk as numbers: spooled as they come, taken subject by subject in order.

Subjects in ascending order are cut into ranges; the records of a range are written together and put
in order when they are taken first, so memory holds one range at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward.data.meds_rows import NONE, NULL_US

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Columns = dict[str, NDArray[Any]]

PART_ROWS = 1 << 20
"""Rows of a part, more or less."""
_FINE = 4  # ranges that make a part, so that uneven ones can be joined
_PENDING_ROWS = 1 << 20
_DTYPES: dict[str, Any] = {
    **dict.fromkeys(("place", "order", "moment", "day", "end_at", "end_day"), np.int64),
    "visit_ref": np.int64,
    **dict.fromkeys(("concept", "source_concept", "type", "status"), np.int32),
    **dict.fromkeys(("value_concept", "operator", "source_value", "text", "unit"), np.int32),
    "number": np.float64,
    "table": np.uint16,
    "flags": np.uint8,
    "subject": np.int32,
}
_NULLS: dict[str, Any] = {
    **dict.fromkeys(("moment", "day", "end_at", "end_day", "visit_ref"), NULL_US),
    **dict.fromkeys(("concept", "source_concept", "type", "status"), NONE),
    **dict.fromkeys(("value_concept", "operator", "source_value", "text", "unit"), NONE),
    "number": 0.0,
    "flags": 0,
}


@dataclass(frozen=True, eq=False)
class RecordRows:
    """Records of consecutive subjects.

    Attributes:
        begin, end: the subjects, by their place among all.
        offsets: int64 (end - begin + 1,), into the rows.
        columns: what `_core.OmopMending` reads, (n_rows,) each, and `place`, the row's place among
            all records; those that none of them has are missing.
    """

    begin: int
    end: int
    offsets: Ints
    columns: Columns


@dataclass(frozen=True)
class _Block:
    """Rows on disk, column after column."""

    offset: int
    n_rows: int
    names: tuple[str, ...]


class RecordSpool:
    """Records of known subjects, written once.

    Args:
        folder: new; for the file.
        n_subjects: subjects are places below it.
        n_rows: how many are expected; memory depends on it, nothing else.
    """

    def __init__(self, folder: Path, n_subjects: int, n_rows: int) -> None:
        folder.mkdir(parents=True, mode=0o700)
        self._path = folder / "records"
        self._n_bytes = 0
        n_ranges = max(1, min(n_subjects, -(-n_rows * _FINE // PART_ROWS)))
        self._borders = np.linspace(0, n_subjects, n_ranges + 1).astype(np.int64)
        self._blocks: list[list[_Block]] = [[] for _ in range(n_ranges)]
        self._pending: list[Columns] = []
        self._n_pending = 0
        self._parts: list[tuple[int, int, _Block | None]] | None = None

    def add(self, columns: Columns) -> None:
        """Takes rows; `subject` and what `RecordRows` has, columns of nulls left out."""
        if not len(columns["subject"]):
            return
        if self._pending and set(self._pending[0]) != set(columns):
            self._flush()
        self._pending.append(columns)
        self._n_pending += len(columns["subject"])
        if self._n_pending >= _PENDING_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        rows = {
            name: np.concatenate([part[name] for part in self._pending])
            for name in self._pending[0]
        }
        self._pending, self._n_pending = [], 0
        if bool((rows["subject"][1:] < rows["subject"][:-1]).any()):
            home = np.searchsorted(self._borders, rows["subject"], side="right")
            order = np.argsort(home, kind="stable")
            home, rows = home[order], {name: column[order] for name, column in rows.items()}
            cuts = np.searchsorted(home, np.arange(1, len(self._blocks) + 2))
        else:
            cuts = np.searchsorted(rows["subject"], self._borders)
        for place in np.flatnonzero(cuts[1:] > cuts[:-1]).tolist():
            part = slice(int(cuts[place]), int(cuts[place + 1]))
            self._blocks[place].append(self._write({n: c[part] for n, c in rows.items()}))

    def _write(self, rows: Columns) -> _Block:
        block = _Block(self._n_bytes, len(rows["subject"]), tuple(rows))
        with self._path.open("ab") as file:
            for name, column in rows.items():
                written = np.ascontiguousarray(column, _DTYPES[name])
                written.tofile(file)
                self._n_bytes += written.nbytes
        return block

    def _read(self, block: _Block) -> Columns:
        columns, offset = {}, block.offset
        for name in block.names:
            dtype = np.dtype(_DTYPES[name])
            columns[name] = np.fromfile(self._path, dtype, block.n_rows, offset=offset)
            offset += block.n_rows * dtype.itemsize
        return columns

    def finish(self) -> None:
        """Joins ranges to parts; called once, after the last row."""
        self._flush()
        self._parts = []
        begin, n, blocks = 0, 0, list[_Block]()
        for place, mine in enumerate(self._blocks):
            n_mine = sum(block.n_rows for block in mine)
            if n and n + n_mine > PART_ROWS:
                self._parts.append((begin, int(self._borders[place]), self._join(blocks)))
                begin, n, blocks = int(self._borders[place]), 0, []
            n, blocks = n + n_mine, [*blocks, *mine]
        self._parts.append((begin, int(self._borders[-1]), self._join(blocks)))
        self._blocks = []

    def _join(self, blocks: list[_Block]) -> _Block | None:
        """The rows of some blocks as one, in order of subject; None for no rows."""
        if not blocks:
            return None
        found = [self._read(block) for block in blocks]
        names = [name for name in _DTYPES if any(name in block for block in found)]
        rows = {
            name: np.concatenate(
                [
                    block[name]
                    if name in block
                    else np.full(len(block["subject"]), _NULLS[name], _DTYPES[name])
                    for block in found
                ]
            )
            for name in names
        }
        subject = rows["subject"]
        if bool((subject[1:] < subject[:-1]).any()):
            order = np.argsort(subject, kind="stable")
            rows = {name: column[order] for name, column in rows.items()}
        elif len(blocks) == 1:
            return blocks[0]
        return self._write(rows)

    def parts(self) -> Iterator[RecordRows]:
        """Yields the records of all subjects, whole subjects in ascending order."""
        assert self._parts is not None  # after `finish`
        for begin, end, block in self._parts:
            columns = _no_rows() if block is None else self._read(block)
            subject = columns.pop("subject")
            offsets = np.searchsorted(subject, np.arange(begin, end + 1)).astype(np.int64)
            yield RecordRows(begin, end, offsets, columns)


def _no_rows() -> Columns:
    names = ("subject", "place", "order", "table", "flags")
    return {name: np.zeros(0, _DTYPES[name]) for name in names}
