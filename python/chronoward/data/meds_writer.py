"""The event table as a strict MEDS 0.4 folder, from which `prepare` makes the same event table.

Columns beyond the standard: available_time, end_time, table, unit, visit_id, visit_type. Rows are
in the order that MEDS asks for (time), so the canonical order inside a moment is kept but the order
by available_time is not; reading restores it. Observation periods, for which MEDS has no place, lie
in `metadata/observation.parquet`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chronoward.files import atomic_path, make_output_folder, write_json
from chronoward.schema import SPLITS, Role, code_schema
from chronoward.splits import hash_split, source_split

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

MEDS_VERSION = "0.4.1"
SHARD_EVENTS = 1 << 22


def meds_schema() -> pa.Schema:
    """Arrow schema of the data files that are written."""
    return pa.schema(
        [
            ("subject_id", pa.int64()),
            ("time", pa.timestamp("us")),
            ("code", pa.string()),
            ("numeric_value", pa.float32()),
            ("text_value", pa.large_string()),
            ("available_time", pa.timestamp("us")),
            ("end_time", pa.timestamp("us")),
            ("table", pa.string()),
            ("unit", pa.string()),
            ("visit_id", pa.int64()),
            ("visit_type", pa.string()),
        ]
    )


def write_meds(
    tables: Iterable[pa.Table],
    out: Path,
    *,
    codes: pa.Table,
    splits: pa.Table | str | None = None,
    observation: pa.Table | None = None,
    name: str = "",
    shard_events: int = SHARD_EVENTS,
) -> dict[str, int]:
    """Writes event tables as MEDS; the metadata, whose presence says it is whole, come last.

    Args:
        tables: whole subjects each, event_schema.
        out: folder to make; it must be empty or absent.
        codes: code table (code_schema) of the events.
        splits: (subject_id, split), or one split for all subjects, or None: by hash of the id.
        observation: observation periods to keep beside the data.
        name: the data set's name in dataset.json.
        shard_events: events a file; a subject is never cut.

    Returns:
        Events by split.

    Raises:
        StateError: `out` has content.
        DataError: a subject has no split.
    """
    from chronoward import __version__

    make_output_folder(out)
    writers = _Shards(out, shard_events)
    subjects: dict[str, list[NDArray[np.int64]]] = {split: [] for split in SPLITS}
    for table in tables:
        ids = pc.unique(table["subject_id"]).to_numpy()
        names = _split_of(ids, splits)
        rows = to_meds(table)
        for split in SPLITS:
            chosen = ids[names == split]
            if len(chosen):
                subjects[split].append(chosen)
                writers.add(split, _rows_of(rows, chosen, whole=len(chosen) == len(ids)))
    counts = writers.finish()
    metadata = out / "metadata"
    metadata.mkdir(mode=0o700)
    _write(meds_codes(codes), metadata / "codes.parquet")
    _write(_split_table(subjects), metadata / "subject_splits.parquet")
    if observation is not None:
        _write(observation, metadata / "observation.parquet")
    description = {
        "etl_name": "chronoward",
        "etl_version": __version__,
        "meds_version": MEDS_VERSION,
        "code_modifier_columns": ["unit"],
        "other_extension_columns": [
            "available_time",
            "end_time",
            "table",
            "visit_id",
            "visit_type",
        ],
    }
    write_json(metadata / "dataset.json", description | ({"dataset_name": name} if name else {}))
    return counts


def to_meds(table: pa.Table) -> pa.Table:
    """Event rows in MEDS columns, ordered by subject and time, facts without time first."""
    keys = [("subject_id", "ascending", "at_start"), ("time", "ascending", "at_start")]
    order = pc.sort_indices(table, sort_keys=keys)
    rows = table.take(order)
    columns = {name: rows[name] for name in rows.column_names}
    columns["visit_type"] = _visit_types(rows)
    schema = meds_schema()
    return pa.table([columns[field.name].cast(field.type) for field in schema], schema=schema)


def _visit_types(rows: pa.Table) -> pa.Array:
    """The code of each event's visit."""
    visit = pc.equal(rows["role"], int(Role.VISIT)).to_numpy()
    subject = rows["subject_id"].to_numpy()
    number = pc.fill_null(rows["visit_id"], -1).to_numpy()
    keys = np.stack([subject, number], axis=1)
    order = np.lexsort((number[visit], subject[visit]))
    known = keys[visit][order]
    _, place = np.unique(np.concatenate([known, keys]), axis=0, return_inverse=True)
    place = place.reshape(-1)
    at = np.full(int(place.max(initial=-1)) + 1, -1, np.int64)
    at[place[: len(known)]] = np.flatnonzero(visit)[order]
    source = at[place[len(known) :]]
    indices = pa.array(np.where(source < 0, 0, source), mask=(source < 0) | (number < 0))
    return rows["code"].combine_chunks().take(indices)


def _split_of(ids: NDArray[np.int64], splits: pa.Table | str | None) -> NDArray[np.str_]:
    if splits is None:
        return hash_split(ids)
    if isinstance(splits, str):
        return np.full(len(ids), splits)
    return source_split(ids, splits)


def _rows_of(rows: pa.Table, chosen: NDArray[np.int64], *, whole: bool) -> pa.Table:
    if whole:
        return rows
    return rows.filter(pc.is_in(rows["subject_id"], pa.array(chosen)))


def _split_table(subjects: dict[str, list[NDArray[np.int64]]]) -> pa.Table:
    ids = [np.concatenate([np.empty(0, np.int64), *subjects[split]]) for split in SPLITS]
    names = [split for split, part in zip(SPLITS, ids, strict=True) for _ in range(len(part))]
    return pa.table(
        {"subject_id": pa.array(np.concatenate(ids), pa.int64()), "split": pa.array(names)}
    ).sort_by("subject_id")


def meds_codes(codes: pa.Table) -> pa.Table:
    """codes.parquet: one row a code (its first table's), MEDS columns first."""
    unique = np.unique(np.asarray(codes["code"].to_pylist(), dtype=object), return_index=True)[1]
    first = codes.take(pa.array(unique))
    extra = [
        field.name
        for field in code_schema()
        if field.name not in ("code", "description", "parent_codes", "table")
    ]
    return first.select(["code", "description", "parent_codes", *extra])


def _write(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(
            table.combine_chunks(), temporary, compression="zstd", write_page_checksum=True
        )


class _Shards:
    """Open shards, one a split; a shard is closed when the next subjects would overfill it."""

    def __init__(self, out: Path, shard_events: int) -> None:
        self.out, self.shard_events = out, shard_events
        self.waiting: dict[str, list[pa.Table]] = {}
        self.numbers: dict[str, int] = dict.fromkeys(SPLITS, 0)
        self.counts: dict[str, int] = dict.fromkeys(SPLITS, 0)

    def add(self, split: str, rows: pa.Table) -> None:
        waiting = self.waiting.setdefault(split, [])
        waiting.append(rows)
        self.counts[split] += rows.num_rows
        if sum(table.num_rows for table in waiting) >= self.shard_events:
            self._flush(split)

    def _flush(self, split: str) -> None:
        tables: list[Any] = self.waiting.pop(split)
        folder = self.out / "data" / split
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(pa.concat_tables(tables), folder / f"{self.numbers[split]}.parquet")
        self.numbers[split] += 1

    def finish(self) -> dict[str, int]:
        for split in list(self.waiting):
            self._flush(split)
        return {split: n for split, n in self.counts.items() if n}
