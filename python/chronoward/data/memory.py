"""A MEDS source in memory: what other code has as Arrow tables goes the way that files go."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from chronoward.errors import ConfigError
from chronoward.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


@dataclass(frozen=True, eq=False)
class MedsTables:
    """MEDS tables; columns and types as tolerantly read as those of files.

    Attributes:
        data: the events: one table, or one a split (its name → table). A subject's rows are
            together, and in one table.
        codes: rows of metadata/codes.parquet (`code`, `description`, `parent_codes` …).
        subject_splits: `subject_id` and `split`; without it the names of `data`, if it has any.

    Raises:
        ConfigError: no table at all, or a split name that cannot be a folder's.

    Example:
        >>> chronoward.tokenize(MedsTables({"train": events}), "tokens")  # doctest: +SKIP
    """

    data: pa.Table | Mapping[str, pa.Table]
    codes: pa.Table | None = None
    subject_splits: pa.Table | None = None
    form: ClassVar[Literal["meds"]] = "meds"
    name: ClassVar[str] = "tables"

    def __post_init__(self) -> None:
        if isinstance(self.data, pa.Table):
            return
        for split, table in self.data.items():
            if not split or "/" in split or split.startswith((".", "_")):
                message = f"{split!r} cannot be the name of a split"
                raise ConfigError(message)
            if not isinstance(table, pa.Table):
                message = f"split {split}: expected a pyarrow.Table, got {type(table).__name__}"
                raise ConfigError(message)
        if not self.data:
            message = "there are no tables"
            raise ConfigError(message)

    @cached_property
    def key(self) -> str:
        """Hash of the tables' content as Arrow streams: equal tables resume each other's jobs."""
        digest = hashlib.sha256()
        for name, table in self._files().items():
            digest.update(name.encode() + b"\0")
            with pa.ipc.new_stream(_Hashing(digest.update), table.schema) as stream:
                stream.write_table(table)
        return digest.hexdigest()

    def __str__(self) -> str:
        return "tables in memory"

    def _files(self) -> dict[str, pa.Table]:
        one = isinstance(self.data, pa.Table)
        data = (
            {"data/0.parquet": self.data}
            if one
            else {f"data/{split}/0.parquet": table for split, table in self.data.items()}
        )
        beside = {
            "metadata/codes.parquet": self.codes,
            "metadata/subject_splits.parquet": self.subject_splits,
        }
        return data | {name: table for name, table in beside.items() if table is not None}

    def copy(self, folder: Path, say: Callable[[str], None]) -> Path:
        """Writes the tables as a MEDS folder and returns it.

        Args:
            folder: to make; what is in it is replaced.
            say: receives a line.
        """
        shutil.rmtree(folder, ignore_errors=True)
        for name, table in self._files().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with atomic_path(folder / name) as path:
                pq.write_table(table, path, compression="lz4")
        say("tables in memory written to disk")
        return folder


class _Hashing:
    """A file that only feeds a hash."""

    closed = False

    def __init__(self, update: Callable[[bytes], None]) -> None:
        self._update = update

    def write(self, data: bytes) -> int:
        self._update(data)
        return len(data)

    def flush(self) -> None:
        return None
