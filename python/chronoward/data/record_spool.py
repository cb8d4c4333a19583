"""Clinical records on disk as numbers: spooled as they come, taken subject by subject in order.

Subjects in ascending order are cut into ranges, a file each; the records of a range are written
together and put in order when they are taken first, so memory holds one range at a time. Who takes
them for the last time gives a range's file back as soon as it is read: what is written meanwhile
has its room, on the disk and in the system's memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward.ahead import Behind
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
    **dict.fromkeys(("place", "moment", "day", "end_at", "end_day", "visit_ref"), np.int64),
    **dict.fromkeys(("concept", "source_concept", "type", "status"), np.int32),
    **dict.fromkeys(("value_concept", "operator", "source_value", "text", "unit"), np.int32),
    "number": np.float64,
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
        place: int64 (n_rows,), each row's place among all records; a slice where they lie together.
        columns: what `_core.OmopMending` reads but for `table` and `order`, (n_rows,) each; those
            that none of them has are missing.
    """

    begin: int
    end: int
    offsets: Ints
    place: Ints | slice
    columns: Columns


@dataclass(frozen=True)
class _Block:
    """Rows on disk, column after column.

    Attributes:
        path: of the file.
        offset: of the first byte.
        n_rows: how many.
        names: of the columns.
        constants: columns that have one number, which are not in the file.
        place: of the first row, where the places of the others follow; else a column has them.
        subjects: the first row's and the last one's, where rows are in order of subject.
    """

    path: Path
    offset: int
    n_rows: int
    names: tuple[str, ...]
    constants: dict[str, Any]
    place: int | None
    subjects: tuple[int, int] | None


class RecordSpool:
    """Records of known subjects, written once.

    Args:
        folder: new; for the files.
        n_subjects: subjects are places below it.
        n_rows: how many are expected; memory depends on it, nothing else.
    """

    def __init__(self, folder: Path, n_subjects: int, n_rows: int) -> None:
        folder.mkdir(parents=True, mode=0o700)
        self._folder = folder
        n_ranges = max(1, min(n_subjects, -(-n_rows * _FINE // PART_ROWS)))
        self._borders = np.linspace(0, n_subjects, n_ranges + 1).astype(np.int64)
        self._blocks: list[list[_Block]] = [[] for _ in range(n_ranges)]
        self._pending: list[Columns] = []
        self._n_pending = 0
        self.behind = Behind()
        """Writes; whoever adds leaves it as a `with` block before the folder is given up."""
        self._parts: list[tuple[int, int, list[_Block]]] | None = None

    def add(self, columns: Columns) -> None:
        """Takes rows; `subject`, `place` and what `RecordRows` has, columns of nulls left out."""
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
        pending, self._pending, self._n_pending = self._pending, [], 0
        self.behind.wait()  # so that memory holds two of them at most
        self.behind.do(self._store, pending)

    def _store(self, pending: list[Columns]) -> None:
        rows = {name: np.concatenate([part[name] for part in pending]) for name in pending[0]}
        if bool((rows["subject"][1:] < rows["subject"][:-1]).any()):
            home = np.searchsorted(self._borders, rows["subject"], side="right")
            order = np.argsort(home, kind="stable")
            home, rows = home[order], {name: column[order] for name, column in rows.items()}
            cuts = np.searchsorted(home, np.arange(1, len(self._blocks) + 2))
        else:
            cuts = np.searchsorted(rows["subject"], self._borders)
        for place in np.flatnonzero(cuts[1:] > cuts[:-1]).tolist():
            part = slice(int(cuts[place]), int(cuts[place + 1]))
            path = self._folder / f"records.{place}"
            self._blocks[place].append(_write(path, {n: c[part] for n, c in rows.items()}))

    def finish(self) -> None:
        """Joins ranges to parts; called once, after the last row."""
        with self.behind:
            self._flush()
        self._parts = []
        begin, n, blocks = 0, 0, list[_Block]()
        for place, mine in enumerate(self._blocks):
            n_mine = sum(block.n_rows for block in mine)
            if n and n + n_mine > PART_ROWS:
                self._parts.append((begin, int(self._borders[place]), _ordered(blocks)))
                begin, n, blocks = int(self._borders[place]), 0, []
            n, blocks = n + n_mine, [*blocks, *mine]
        self._parts.append((begin, int(self._borders[-1]), _ordered(blocks)))
        self._blocks = []

    def parts(self, *, last: bool = False) -> Iterator[RecordRows]:
        """Yields the records of all subjects, whole subjects in ascending order.

        Args:
            last: nobody takes them again: files are removed as they are read.
        """
        assert self._parts is not None  # after `finish`
        for begin, end, blocks in self._parts:
            columns = _read(blocks) if blocks else _no_rows()
            if last:
                _remove(blocks)
            subject = columns.pop("subject")
            offsets = np.searchsorted(subject, np.arange(begin, end + 1)).astype(np.int64)
            place: Ints | slice | None = columns.pop("place", None)
            if place is None:
                first = _first_place(blocks) or 0
                place = slice(first, first + len(subject))
            yield RecordRows(begin, end, offsets, place, columns)


def _write(path: Path, rows: Columns) -> _Block:
    """Appends rows to a file."""
    subject, place = rows["subject"], rows["place"]
    is_ordered = not bool((subject[1:] < subject[:-1]).any())
    follows = _follow(place)
    written: Columns = {}
    constants: dict[str, Any] = {}
    for name, column in rows.items():
        if follows and name == "place":
            continue
        bits = column.view(f"u{column.itemsize}")  # tells 0 and -0 apart
        if bool((bits == bits[0]).all()):
            constants[name] = column[0]
        else:
            written[name] = np.ascontiguousarray(column, _DTYPES[name])
    with path.open("ab") as file:
        offset = file.tell()
        for column in written.values():
            column.tofile(file)
    return _Block(
        path,
        offset,
        len(subject),
        tuple(written),
        constants,
        int(place[0]) if follows else None,
        (int(subject[0]), int(subject[-1])) if is_ordered else None,
    )


def _read(blocks: list[_Block]) -> Columns:
    """The rows of some blocks; `place` is left out where the places of all follow."""
    n = sum(block.n_rows for block in blocks)
    names = {name for block in blocks for name in (*block.names, *block.constants)}
    if _first_place(blocks) is None:
        names.add("place")
    rows = {name: np.empty(n, _DTYPES[name]) for name in sorted(names)}
    begin = 0
    for block in blocks:
        part = slice(begin, begin + block.n_rows)
        begin += block.n_rows
        with block.path.open("rb") as file:
            file.seek(block.offset)
            for name in block.names:
                file.readinto(rows[name][part].data)
        for name in names.difference(block.names):
            if name == "place" and block.place is not None:
                rows[name][part] = _range(block.place, block.n_rows)
            else:
                rows[name][part] = block.constants.get(name, _NULLS.get(name))
    return rows


def _ordered(blocks: list[_Block]) -> list[_Block]:
    """Some blocks' rows in order of subject, as blocks."""
    if all(block.subjects for block in blocks):
        bounds = [subject for block in blocks for subject in block.subjects or ()]
        if bounds == sorted(bounds):
            return blocks
    rows = _read(blocks)
    _remove(blocks)
    if "place" not in rows:
        rows["place"] = _range(_first_place(blocks) or 0, len(rows["subject"]))
    order = np.argsort(rows["subject"], kind="stable")
    return [_write(blocks[0].path, {name: column[order] for name, column in rows.items()})]


def _remove(blocks: list[_Block]) -> None:
    """Removes the files of blocks; all blocks of a file are among them."""
    for path in {block.path for block in blocks}:
        path.unlink()


def _follow(place: Ints) -> bool:
    """Whether places rise by one."""
    return int(place[-1]) - int(place[0]) == len(place) - 1 and bool((np.diff(place) == 1).all())


def _first_place(blocks: list[_Block]) -> int | None:
    """The place of the first row of some blocks, where those of all others follow."""
    for before, block in pairwise(blocks):
        if before.place is None or block.place != before.place + before.n_rows:
            return None
    return blocks[0].place if blocks else None


def _range(first: int, n: int) -> Ints:
    return np.arange(first, first + n, dtype=np.int64)


def _no_rows() -> Columns:
    return {name: np.zeros(0, _DTYPES[name]) for name in ("subject", "flags")}
