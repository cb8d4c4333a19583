"""A work folder with a source made into the event table; complete when `prepared.json` is there."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from chronoward.data.events import whole_subjects
from chronoward.errors import FormatError
from chronoward.files import read_json
from chronoward.schema import (
    ABSENT_COLUMNS,
    code_schema,
    observation_schema,
    stored_event_schema,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 4
MANIFEST = "prepared.json"
REPORT = "ingest_report.json"

Calendar = Literal["real", "shifted"]


def split_schema() -> pa.Schema:
    """Arrow schema of `splits.parquet`."""
    return pa.schema(
        [
            pa.field("subject_id", pa.int64(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
        ]
    )


class PreparedEvents:
    """Sorted events, observation periods, codes, splits and report of one source."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.n_subjects: int = manifest["n_subjects"]
        self.n_events: int = manifest["n_events"]
        self.has_visits: bool = manifest["has_visits"]
        self.calendar: Calendar = manifest["calendar"]

    @classmethod
    def open(cls, path: Path) -> PreparedEvents:
        """Opens a finished work folder.

        Raises:
            FormatError: it is not one, is of another version, or a file is missing.
        """
        path = Path(path)
        manifest = path / MANIFEST
        if not manifest.is_file():
            message = f"{path} holds no finished event table ({MANIFEST} is missing)"
            raise FormatError(message)
        content = read_json(manifest)
        if content.get("version") != VERSION:
            message = f"{manifest}: version {content.get('version')}, expected {VERSION}"
            raise FormatError(message)
        for name, size in content["files"].items():
            file = path / name
            if not file.is_file() or file.stat().st_size != size:
                message = f"{file} is missing or has another size than {MANIFEST} says"
                raise FormatError(message)
        return cls(path, content)

    @property
    def event_files(self) -> list[Path]:
        """Arrow parts of the event table, in order; a subject is in one part."""
        return sorted((self.path / "events").glob("*.arrow"), key=lambda path: int(path.stem))

    @cached_property
    def codes(self) -> pa.Table:
        """The code table (code_schema), ordered by table and code."""
        return pq.read_table(self.path / "codes.parquet", schema=code_schema())

    @property
    def observation(self) -> pa.Table:
        """Observation periods (observation_schema)."""
        return pq.read_table(self.path / "observation.parquet", schema=observation_schema())

    @property
    def splits(self) -> pa.Table | None:
        """The source's own splits (subject_id, split), None when it has none."""
        file = self.path / "splits.parquet"
        return pq.read_table(file, schema=split_schema()) if file.is_file() else None

    @property
    def report(self) -> dict[str, Any]:
        """The ingest report."""
        report: dict[str, Any] = read_json(self.path / REPORT)
        return report

    def batches(self, max_events: int | None = None) -> Iterator[pa.Table]:
        """Yields whole subjects in canonical order (stored_event_schema).

        The tables are maps of the files: what is not looked at costs nothing.

        Args:
            max_events: as many subjects as fit into it, one with more events alone; None: as they
                lie on the disk, a quarter of a million events or one subject.
        """
        nulls = _Nulls()
        pieces = (_whole(piece, nulls) for piece in self._pieces())
        yield from pieces if max_events is None else whole_subjects(pieces, max_events)

    def _pieces(self) -> Iterator[pa.Table]:
        for file in self.event_files:
            with pa.ipc.open_file(pa.memory_map(str(file))) as reader:
                for number in range(reader.num_record_batches):
                    yield pa.Table.from_batches([reader.get_batch(number)])


class _Nulls:
    """Columns of nulls; each type's is made once, and cut to length."""

    def __init__(self) -> None:
        self._made: dict[pa.DataType, pa.Array] = {}

    def of(self, kind: pa.DataType, n: int) -> pa.ChunkedArray:
        """n nulls."""
        made = self._made.get(kind)
        if made is None or len(made) < n:
            made = self._made[kind] = pa.nulls(n, kind)
        return pa.chunked_array([made[:n]])


def _whole(piece: pa.Table, nulls: _Nulls) -> pa.Table:
    """With nulls for the columns that nobody has."""
    schema = stored_event_schema()
    columns = {name: piece[name] for name in piece.column_names}
    for name in ABSENT_COLUMNS:
        if name not in columns:
            columns[name] = nulls.of(schema.field(name).type, len(piece))
    return pa.table([columns[name] for name in schema.names], schema=schema)
