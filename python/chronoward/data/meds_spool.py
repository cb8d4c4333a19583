"""A MEDS source on disk as numbers: read once, then taken subject by subject in ascending order.

Each column of a shard is a `.npy` file, mapped, so memory does not grow with the data. Columns that
a shard does not have are not written. Shards may hold subjects in any order; what is taken is in
ascending order of the subject's id.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward.data.meds import check_one_home, check_runs, check_schema
from chronoward.data.meds_rows import NONE, NULL_US, MedsRows, Numberings, read_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
_PIECE_ROWS = 1 << 20
_ROW_FIELDS = tuple(f.name for f in fields(MedsRows) if f.name not in ("subject_id", "has_subject"))
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
        columns: what `MedsMending.mend` reads of rows, (n_rows,) each.
        shard: int32 (n_rows,), the file each row is from.
        row: int64 (n_rows,), its place there.
    """

    subject_id: Ints
    offsets: Ints
    columns: dict[str, NDArray[Any]]
    shard: NDArray[np.int32]
    row: Ints


class MedsSpool:
    """Reads the shards of a source into a folder.

    Args:
        files: Parquet files, in order.
        folder: new; for the columns.

    Raises:
        DataError: a column is missing or of the wrong type, times with a zone, or a subject whose
            rows are not together.
        FormatError: a damaged file.
    """

    def __init__(self, files: list[Path], folder: Path) -> None:
        self.files = files
        self.numberings = Numberings()
        self._folder = folder
        folder.mkdir(parents=True, mode=0o700)
        self.n_rows: list[int] = []
        self._has: list[set[str]] = []
        runs: list[tuple[Ints, Ints, NDArray[np.bool_]]] = []
        names = [check_schema(file) for file in files]
        for number, file in enumerate(files):
            runs.append(self._spool(number, file, names[number]))
            check_runs(file, *runs[-1])
        check_one_home(files, [(subject, known) for subject, _, known in runs])
        self._index(runs)

    def _spool(
        self, number: int, file: Path, names: dict[str, str]
    ) -> tuple[Ints, Ints, NDArray[np.bool_]]:
        """Writes a shard's columns; its runs of one subject: ids, first rows, whether known."""
        kept = [n for n in _ROW_FIELDS if n not in _ABSENT or _ABSENT[n][0] in names]
        self._has.append(set(kept))
        sinks = {n: (self._folder / f"{number}.{n}").open("wb") for n in kept}
        subjects, firsts, knowns = [], [], []
        n, last = 0, (0, False, True)  # id, is known, is the file's first row
        try:
            for rows in read_pieces(file, names, self.numberings):
                for name, sink in sinks.items():
                    getattr(rows, name).tofile(sink)
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
        path = self._folder / f"{shard}.{name}"
        if not self.n_rows[shard]:
            return np.zeros(0, _DTYPES[name])
        return np.memmap(path, _DTYPES[name], mode="r")

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
            yield self._take(np.arange(begin, end))
            begin = end

    def _take(self, subjects: Ints) -> SubjectRows:
        first, shard = self._first[subjects], self._shard[subjects]
        lengths = self._last[subjects] - first
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        n = int(offsets[-1])
        row = np.arange(n) - np.repeat(offsets[:-1] - first, lengths)
        of_row = np.repeat(shard, lengths)
        shards = np.unique(shard).tolist()
        is_slice = len(shards) == 1 and bool((first[1:] == first[:-1] + lengths[:-1]).all())
        columns = {}
        for name in _ROW_FIELDS:
            if is_slice:
                column = self._column(shards[0], name)
                if column is not None:
                    columns[name] = np.ascontiguousarray(column[first[0] : first[0] + n])
                    continue
            columns[name] = self._gather(name, shards, of_row, row)
        return SubjectRows(self.subject_id[subjects], offsets, columns, of_row, row)

    def _gather(
        self, name: str, shards: list[int], shard: NDArray[np.int32], row: Ints
    ) -> NDArray[Any]:
        absent = self.numberings.tables.of("") if name == "table" else _ABSENT.get(name, ("", 0))[1]
        out = np.full(len(row), absent, _DTYPES[name])
        for number in shards:
            column = self._column(number, name)
            if column is not None:
                mine = slice(None) if len(shards) == 1 else shard == number
                out[mine] = column[row[mine]]
        return out
