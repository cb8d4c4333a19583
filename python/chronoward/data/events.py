"""Events of visits and persons in SQL (`event`), and the sorted event table as parts on disk.

Parts are cut by events and subjects alone, never by threads or batches.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chronoward.ahead import Behind, ahead
from chronoward.files import atomic_path
from chronoward.schema import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from chronoward.data.workspace import Workspace

PART_EVENTS = 1 << 22
"""Events a part (whole subjects; more when one subject has more)."""
GROUP_EVENTS = 1 << 18
"""Events a record batch (whole subjects)."""

EVENT_COLUMNS = """
    subject_id BIGINT, available TIMESTAMP, role UTINYINT, tbl USMALLINT, code VARCHAR,
    time TIMESTAMP, vid BIGINT, end_time TIMESTAMP"""


def make_events(work: Workspace) -> None:
    """Creates the empty `event`: what no clinical record says; `vid` is a row of `visit`."""
    work.run(f"CREATE TABLE event ({EVENT_COLUMNS})")


def add_visit_events(work: Workspace, visit_table: int, detail_table: int) -> None:
    """Adds VISIT, DISCHARGE and DETAIL events from `visit` and `detail` (their codes are set)."""
    work.run(
        f"""INSERT INTO event SELECT subject_id, start, {int(Role.VISIT)}, {visit_table}, code,
        start, vid, finish FROM visit"""
    )
    work.run(
        f"""INSERT INTO event SELECT subject_id, finish, {int(Role.DISCHARGE)}, {visit_table},
        discharge_code, finish, vid, NULL FROM visit
        WHERE discharge_code IS NOT NULL"""
    )
    work.run(
        f"""INSERT INTO event SELECT subject_id, start, {int(Role.DETAIL)}, {detail_table}, code,
        start, vid, finish FROM detail"""
    )


def whole_subjects(pieces: Iterator[pa.Table], max_events: int) -> Iterator[pa.Table]:
    """Regroups sorted pieces into tables of whole subjects.

    A table holds as many subjects as fit into `max_events`, at least one; where it is cut does not
    depend on the pieces.
    """
    waiting: list[pa.Table] = []
    n_waiting = 0
    for piece in pieces:
        waiting.append(piece)
        n_waiting += piece.num_rows
        while n_waiting > max_events:
            table = pa.concat_tables(waiting)
            cut = _cut(table, max_events)
            if cut is None:
                break
            yield table.slice(0, cut)
            waiting, n_waiting = [table.slice(cut)], table.num_rows - cut
    if n_waiting:
        table = pa.concat_tables(waiting)
        while table.num_rows > max_events and (cut := _cut(table, max_events)) is not None:
            yield table.slice(0, cut)
            table = table.slice(cut)
        yield table


def _cut(table: pa.Table, max_events: int) -> int | None:
    """The last subject border at or before `max_events`, else the first one, else None."""
    subject = table["subject_id"].to_numpy()
    borders = np.flatnonzero(subject[1:] != subject[:-1]) + 1
    if not len(borders):
        return None
    index = int(np.searchsorted(borders, max_events, side="right")) - 1
    return int(borders[max(index, 0)])


def regrouped(pieces: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Sorted pieces of any size as whole subjects, cut by events and subjects alone."""
    for table in whole_subjects(pieces, GROUP_EVENTS):
        yield table.combine_chunks()


def write_parts(
    folder: Path,
    pieces: Iterable[pa.Table],
    threads: int,
    progress: Callable[[str], None] | None,
) -> tuple[int, int]:
    """Writes `events/<n>.arrow`; returns the numbers of subjects and of events.

    Arrow IPC as it lies in memory: written and mapped back at the speed of the disk, which for
    files that are read twice and then thrown away is worth their size (25 to 60 bytes an event).

    Args:
        folder: for the parts; made.
        pieces: whole subjects, all with the same columns; each becomes a record batch.
        threads: with two, pieces are made while those before them are written.
        progress: receives a line a part.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    number = n_subjects = n_events = 0
    with Behind() as behind, closing(ahead(pieces, threads)) as made:
        waiting = (piece for piece in made if len(piece))
        piece = next(waiting, None)
        while piece is not None:
            with ExitStack() as unfinished:
                path = unfinished.enter_context(atomic_path(folder / f"{number}.arrow"))
                n, n_mine, piece = _write_part(path, piece, waiting)
                behind.do(unfinished.pop_all().close)  # syncing waits for the disk
            number, n_events, n_subjects = number + 1, n_events + n, n_subjects + n_mine
            if progress is not None:
                progress(f"{n_events:,} events of {n_subjects:,} subjects written")
    return n_subjects, n_events


def _write_part(
    path: Path, first: pa.Table, waiting: Iterator[pa.Table]
) -> tuple[int, int, pa.Table | None]:
    """Writes a piece and as many of those that wait as fit; numbers of events and of subjects, and
    the first piece that did not fit."""
    piece: pa.Table | None = first
    n = n_subjects = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, first.schema) as sink:
        while piece is not None and (n == 0 or n + len(piece) <= PART_EVENTS):
            sink.write_table(piece)
            n += len(piece)
            n_subjects += _n_subjects(piece)
            piece = next(waiting, None)
    return n, n_subjects, piece


def _n_subjects(piece: pa.Table) -> int:
    return int(np.count_nonzero(np.diff(piece["subject_id"].to_numpy()))) + 1


def write_parquet(table: pa.Table, path: Path) -> None:
    """Writes a small table: the same table gives the same bytes."""
    pq.write_table(
        table.combine_chunks(),
        path,
        compression="zstd",
        compression_level=1,
        version="2.6",
        write_statistics=True,
        write_page_checksum=True,
    )
