"""A MEDS source on disk as numbers: read once, then taken subject by subject in ascending order.

Each column of a shard is a file of its bare numbers, mapped, so memory does not grow with the data.
Columns that a shard does not have are not written. Shards may hold subjects in any order; what is
taken is in ascending order of the subject's id.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward.ahead import ahead
from chronoward.data.meds import check_one_home, check_runs, check_schema
from chronoward.data.meds_rows import NONE, NULL_US, Numberings, decoded, number_rows
from chronoward.data.parquet_file import readable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

# Columns that may be missing in a shard, by their name in MEDS; what their rows hold then.
_ABSENT: dict[str, tuple[str, Any]] = {
    "end_time": ("end_time", NULL_US),
    "available": ("available_time", NULL_US),
    "text": ("text_value", NONE),
    "unit": ("unit", NONE),
    "number": ("numeric_value", 0.0),
    "has_number": ("numeric_value", 0),
    "visit_ref": ("visit_id", NULL_US),
    "table": ("table", None),
}
_PIECE_ROWS = 1 << 18
_DTYPES = {
    **dict.fromkeys(("time", "end_time", "available", "visit_ref"), np.int64),
    **dict.fromkeys(("code", "text", "unit"), np.int32),
    "number": np.float64,
    "has_number": np.uint8,
    "table": np.uint16,
}


@dataclass(frozen=True, eq=False)
class SubjectRows:
    """Rows of whole subjects, in ascending order of their ids.

    Attributes:
        subject_id: int64 (n_subjects,).
        offsets: int64 (n_subjects + 1,), into the rows.
        columns: what `MedsMending` reads of rows, (n_rows,) each; those that no shard of them has
            are missing.
        shard: int32 (n_subjects,), the file each subject is in.
        first: int64 (n_subjects,), its first row there.
    """

    subject_id: Ints
    offsets: Ints
    columns: dict[str, NDArray[Any]]
    shard: NDArray[np.int32]
    first: Ints

    def places(self) -> tuple[NDArray[np.int32], Ints]:
        """The file of each row and its place there."""
        lengths = np.diff(self.offsets)
        row = np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1] - self.first, lengths)
        return np.repeat(self.shard, lengths), row


class MedsSpool:
    """Reads the shards of a source into a folder.

    Args:
        files: Parquet files, in order.
        folder: new; for the columns.
        threads: that reading may use.

    Raises:
        DataError: a column is missing or of the wrong type, times with a zone, or a subject whose
            rows are not together.
        FormatError: a damaged file.
    """

    def __init__(self, files: list[Path], folder: Path, threads: int = 1) -> None:
        self.files = files
        self.numberings = Numberings()
        self._folder = folder
        folder.mkdir(parents=True, mode=0o700)
        self.n_rows: list[int] = []
        self._has: list[set[str]] = []
        runs: list[tuple[Ints, Ints, NDArray[np.bool_]]] = []
        self.names = [check_schema(file) for file in files]
        pieces = ahead(_decoded(files, self.names), threads)  # across files: many have one piece
        for number, mine in groupby(pieces, key=itemgetter(0)):
            tables = (table for _, table in mine if table is not None)
            runs.append(self._spool(number, files[number], self.names[number], tables))
            check_runs(files[number], *runs[-1])
        check_one_home(files, [(subject, known) for subject, _, known in runs])
        self._index(runs)

    def _spool(
        self, number: int, file: Path, names: dict[str, str], tables: Iterator[pa.Table]
    ) -> tuple[Ints, Ints, NDArray[np.bool_]]:
        """Writes a shard's columns; its runs of one subject: ids, first rows, whether known."""
        kept = [n for n in _DTYPES if n not in _ABSENT or _ABSENT[n][0] in names]
        self._has.append(set(kept))
        sinks = {n: (self._folder / f"{number}.{n}").open("wb") for n in kept}
        subjects, firsts, knowns = [], [], []
        n, last = 0, (0, False, True)  # id, is known, is the file's first row
        try:
            for table in tables:
                with readable(file):
                    rows = number_rows(table, names, self.numberings, file, n)
                for name, sink in sinks.items():
                    rows.columns[name].tofile(sink)
                if not len(rows):
                    continue
                is_new = np.ones(len(rows), np.bool_)
                is_new[1:] = (rows.subject_id[1:] != rows.subject_id[:-1]) | (
                    rows.has_subject[1:] != rows.has_subject[:-1]
                )
                same = rows.subject_id[0] == last[0] and rows.has_subject[0] == last[1]
                is_new[0] = last[2] or not same
                place = np.flatnonzero(is_new)
                subjects.append(rows.subject_id[place])
                firsts.append(place + n)
                knowns.append(rows.has_subject[place])
                last = (int(rows.subject_id[-1]), bool(rows.has_subject[-1]), False)
                n += len(rows)
        finally:
            for sink in sinks.values():
                sink.close()
        self.n_rows.append(n)
        none = np.zeros(0, np.int64)
        return (
            np.concatenate([none, *subjects]),
            np.concatenate([none, *firsts]),
            np.concatenate([np.zeros(0, np.bool_), *knowns]),
        )

    def _index(self, runs: list[tuple[Ints, Ints, NDArray[np.bool_]]]) -> None:
        subject, first, last, shard, known = [], [], [], [], []
        for number, (ids, rows, is_known) in enumerate(runs):
            subject.append(ids)
            first.append(rows)
            last.append(np.append(rows[1:], self.n_rows[number])[: len(rows)])
            shard.append(np.full(len(ids), number, np.int32))
            known.append(is_known)
        joined = [np.concatenate(parts) for parts in (subject, first, last, shard, known)]
        is_known = joined[4]
        order = np.flatnonzero(is_known)[np.argsort(joined[0][is_known], kind="stable")]
        self.subject_id, self._first, self._last, self._shard = (c[order] for c in joined[:4])
        self.orphans = [  # (shard, first row, end) of rows without a subject
            (int(joined[3][i]), int(joined[1][i]), int(joined[2][i]))
            for i in np.flatnonzero(~is_known)
        ]

    def _column(self, shard: int, name: str) -> NDArray[Any] | None:
        if name not in self._has[shard]:
            return None
        if not self.n_rows[shard]:
            return np.zeros(0, _DTYPES[name])
        path = self._folder / f"{shard}.{name}"
        return np.asarray(np.memmap(path, _DTYPES[name], mode="r"))

    def times(self) -> Iterator[Ints]:
        """Yields the times of all rows, a piece of a shard at a time."""
        for shard, n in enumerate(self.n_rows):
            column = self._column(shard, "time")
            assert column is not None  # every shard has it
            for begin in range(0, n, _PIECE_ROWS):
                yield np.asarray(column[begin : begin + _PIECE_ROWS])

    def batches(self, max_rows: int = _PIECE_ROWS) -> Iterator[SubjectRows]:
        """Yields whole subjects, ascending: as many as fit into `max_rows`, at least one."""
        lengths = self._last - self._first
        total = np.concatenate([[0], np.cumsum(lengths)])
        begin = 0
        while begin < len(lengths):
            fits = int(np.searchsorted(total, total[begin] + max_rows, side="right")) - 1
            end = max(fits, begin + 1)
            yield self._take(begin, end)
            begin = end

    def _take(self, begin: int, end: int) -> SubjectRows:
        first, shard = self._first[begin:end], self._shard[begin:end]
        lengths = self._last[begin:end] - first
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        shards = np.unique(shard).tolist()
        rows = SubjectRows(self.subject_id[begin:end], offsets, {}, shard, first)
        is_slice = len(shards) == 1 and bool((first[1:] == first[:-1] + lengths[:-1]).all())
        homes = [] if is_slice else _by_shard(shards, *rows.places())
        for name in _DTYPES:
            if not any(name in self._has[number] for number in shards):
                continue
            if is_slice:
                column = self._column(shards[0], name)
                assert column is not None  # it has it
                rows.columns[name] = column[first[0] : first[0] + offsets[-1]]
            else:
                rows.columns[name] = self._gather(name, int(offsets[-1]), homes)
        return rows

    def _gather(self, name: str, n: int, homes: list[tuple[int, Ints, Ints]]) -> NDArray[Any]:
        absent = self.numberings.tables.of("") if name == "table" else _ABSENT.get(name, ("", 0))[1]
        out = np.full(n, absent, _DTYPES[name])
        for shard, place, row in homes:
            column = self._column(shard, name)
            if column is not None:
                out[place] = column[row]
        return out


def _decoded(
    files: list[Path], names: list[dict[str, str]]
) -> Iterator[tuple[int, pa.Table | None]]:
    """Yields the pieces of all files, with the file's number; None of a file without rows."""
    for number, file in enumerate(files):
        table = None
        for table in decoded(file, names[number]):
            yield number, table
        if table is None:
            yield number, None


def _by_shard(
    shards: list[int], of_row: NDArray[np.int32], row: Ints
) -> list[tuple[int, Ints, Ints]]:
    """Of each shard: the places of its rows among all rows, and the rows."""
    order = np.argsort(of_row, kind="stable")
    bounds = np.searchsorted(of_row[order], [*shards, shards[-1] + 1])
    places = [order[low:high] for low, high in pairwise(bounds)]
    return [(shard, place, row[place]) for shard, place in zip(shards, places, strict=True)]
