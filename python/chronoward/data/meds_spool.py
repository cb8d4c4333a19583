"""A MEDS source on disk as numbers: read once, then taken subject by subject in ascending order.

Each column is a file of its bare numbers, shard after shard, mapped, so memory does not grow with
the data. Columns that no shard has are not written. Shards may hold subjects in any order; what is
taken is in ascending order of the subject's id.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward._core import copy_rows
from chronoward.ahead import ahead
from chronoward.data.meds import check_one_home, check_runs, check_schema
from chronoward.data.meds_rows import NONE, NULL_US, Numberings, decoded, number_rows
from chronoward.data.parquet_file import readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from io import BufferedWriter
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Runs = tuple[Ints, Ints, NDArray[np.bool_]]

# Columns that may be missing in a shard, by their name in MEDS; what their rows hold then, where
# another shard has them.
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
    """Whole subjects, in ascending order of their ids; `MedsSpool.columns` has their rows.

    Attributes:
        subject_id: int64 (n_subjects,).
        offsets: int64 (n_subjects + 1,), into the rows.
        run: int64 (n_subjects,), which of the spool's runs are theirs.
    """

    subject_id: Ints
    offsets: Ints
    run: Ints


class MedsSpool:
    """Reads the shards of a source into a folder.

    Args:
        files: Parquet files, in order.
        folder: new; for the columns.
        threads: that reading may use.

    Attributes:
        names: of each file, the columns that are read (`chronoward.data.meds.check_schema`).
        n_rows: of each file.
        run_offsets: int64 (n_runs + 1,), where the runs of rows of one subject begin, counted over
            all files.
        orphans: (n, 2) int64, first row and end of the runs that have no subject.

    Raises:
        DataError: a column is missing or of the wrong type, times with a zone, or a subject whose
            rows are not together.
        FormatError: a damaged file.
    """

    def __init__(self, files: list[Path], folder: Path, threads: int = 1) -> None:
        self.files = files
        self.numberings = Numberings()
        folder.mkdir(parents=True, mode=0o700)
        self.n_rows: list[int] = []
        self.names = [check_schema(file) for file in files]
        known = set().union(*self.names)
        kept = [name for name in _DTYPES if name not in _ABSENT or _ABSENT[name][0] in known]
        runs: list[Runs] = []
        with ExitStack() as stack:
            sinks = {name: stack.enter_context((folder / name).open("wb")) for name in kept}
            pieces = ahead(_decoded(files, self.names), threads)  # across files: many have one
            for number, mine in groupby(pieces, key=itemgetter(0)):
                tables = (table for _, table in mine if table is not None)
                runs.append(self._spool(number, tables, sinks))
                check_runs(files[number], *runs[-1])
        check_one_home(files, [(subject, is_known) for subject, _, is_known in runs])
        self._columns = {name: _stored(folder / name, _DTYPES[name]) for name in kept}
        self._index(runs)

    def _spool(
        self, number: int, tables: Iterator[pa.Table], sinks: Mapping[str, BufferedWriter]
    ) -> Runs:
        """Writes a shard's rows; its runs of one subject: ids, first rows, whether known."""
        file, names = self.files[number], self.names[number]
        subjects, firsts, knowns = [], [], []
        n, last = 0, (0, False, True)  # id, is known, is the file's first row
        for table in tables:
            with readable(file):
                rows = number_rows(table, names, self.numberings, file, n)
            for name, sink in sinks.items():
                column = rows.columns.get(name)
                if column is None:
                    column = np.full(len(rows), self._absent(name), _DTYPES[name])
                column.tofile(sink)
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
        self.n_rows.append(n)
        none = np.zeros(0, np.int64)
        return (
            np.concatenate([none, *subjects]),
            np.concatenate([none, *firsts]),
            np.concatenate([np.zeros(0, np.bool_), *knowns]),
        )

    def _absent(self, name: str) -> Any:
        """What rows hold in a column that their shard does not have."""
        return self.numberings.tables.of("") if name == "table" else _ABSENT[name][1]

    def _index(self, runs: list[Runs]) -> None:
        begins = np.cumsum([0, *self.n_rows])
        firsts = [first + begin for (_, first, _), begin in zip(runs, begins, strict=False)]
        self.run_offsets = np.concatenate([*firsts, begins[-1:]]).astype(np.int64)
        subject = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _, _ in runs)])
        is_known = np.concatenate([np.zeros(0, np.bool_), *(known for _, _, known in runs)])
        bounds = np.stack([self.run_offsets[:-1], self.run_offsets[1:]], axis=1)
        self.orphans = bounds[~is_known]
        self._run = np.flatnonzero(is_known)[np.argsort(subject[is_known], kind="stable")]
        self.subject_id = subject[self._run]
        self._ends = np.concatenate([[0], np.cumsum(np.diff(self.run_offsets)[self._run])])

    def times(self) -> Iterator[Ints]:
        """Yields the times of all rows, a piece at a time."""
        time = self._columns["time"]
        for begin in range(0, len(time), _PIECE_ROWS):
            yield time[begin : begin + _PIECE_ROWS]

    def batches(self, max_rows: int = _PIECE_ROWS) -> Iterator[SubjectRows]:
        """Yields whole subjects, ascending: as many as fit into `max_rows`, at least one."""
        begin = 0
        while begin < len(self._run):
            fits = np.searchsorted(self._ends, self._ends[begin] + max_rows, side="right")
            end = max(int(fits) - 1, begin + 1)
            offsets = self._ends[begin : end + 1] - self._ends[begin]
            yield SubjectRows(self.subject_id[begin:end], offsets, self._run[begin:end])
            begin = end

    def columns(self, rows: SubjectRows) -> dict[str, NDArray[Any]]:
        """The rows of some subjects, as `_core.MedsMending` reads them, (n_rows,) each."""
        if bool((np.diff(rows.run) == 1).all()):
            first, last = self.run_offsets[[rows.run[0], rows.run[-1] + 1]].tolist()
            return {name: column[first:last] for name, column in self._columns.items()}
        found = {}
        for name, column in self._columns.items():
            found[name] = np.empty(rows.offsets[-1], column.dtype)
            copy_rows(self.run_offsets, rows.run, column, found[name])
        return found


def _stored(path: Path, dtype: Any) -> NDArray[Any]:
    """A file of numbers, to read."""
    is_empty = not path.stat().st_size  # and cannot be mapped
    return np.zeros(0, dtype) if is_empty else np.asarray(np.memmap(path, dtype, mode="r"))


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
