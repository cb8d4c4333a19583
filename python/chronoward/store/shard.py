"""One shard of a token store: mapped, checked, a view for each of its record batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from chronoward.errors import FormatError
from chronoward.store.layout import MANIFEST, PERIOD_COLUMNS, TOKEN_COLUMNS, shard_schema

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Shard:
    """A mapped file, or a run of its rows: whole subjects, arrays as in `TokenBatch`, all views.

    A record batch is a run; one some of whose rows were superseded by an append is several.
    """

    path: Path
    file_row: int  # row of the file that the first subject is
    subject_id: NDArray[np.int64]  # (n,)
    origin_us: NDArray[np.int64]  # (n,)
    offsets: NDArray[np.int64]  # (n + 1,) into the token arrays
    token_id: NDArray[np.int32]
    time_min: NDArray[np.int32]
    event_min: NDArray[np.int32]
    n_prior: NDArray[np.uint8]
    obs_offsets: NDArray[np.int64]  # (n + 1,) into the period arrays
    obs_start_min: NDArray[np.int32]
    obs_end_min: NDArray[np.int32]

    def rows(self, begin: int, end: int) -> Shard:
        """The run of rows `begin` .. `end` of this one."""
        tokens = slice(int(self.offsets[begin]), int(self.offsets[end]))
        periods = slice(int(self.obs_offsets[begin]), int(self.obs_offsets[end]))
        return replace(
            self,
            subject_id=self.subject_id[begin:end],
            origin_us=self.origin_us[begin:end],
            offsets=self.offsets[begin : end + 1] - tokens.start,
            obs_offsets=self.obs_offsets[begin : end + 1] - periods.start,
            file_row=self.file_row + begin,
            **{name: getattr(self, name)[tokens] for name in TOKEN_COLUMNS},
            **{name: getattr(self, name)[periods] for name in PERIOD_COLUMNS},
        )


def open_shard(path: Path, entry: Mapping[str, Any], tokenizer_hash: str) -> list[Shard]:
    """Maps a file of a known size; what each of its record batches holds, in order.

    Args:
        path: of the file.
        entry: the manifest's.
        tokenizer_hash: of the store.

    Raises:
        FormatError: the file is corrupt, or belongs to another store.
        OSError: it cannot be opened.
    """
    batches = _read_batches(path, tokenizer_hash)
    shards: list[Shard] = []
    n_subjects = n_tokens = 0
    for batch in batches:
        shards.append(_view(path, batch, n_subjects))
        n_subjects += batch.num_rows
        n_tokens += len(shards[-1].token_id)
    if (n_subjects, n_tokens) != (entry["n_subjects"], entry["n_tokens"]):
        message = f"{path} does not hold the subjects and tokens that {MANIFEST} states"
        raise FormatError(message)
    return shards


def _read_batches(path: Path, tokenizer_hash: str) -> list[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_file(source)
            schema = reader.schema
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            for batch in batches:
                batch.validate()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            # Arrow says OSError for a broken stream too; the file itself is open by now.
            message = f"{path} is not a readable Arrow file: {error}"
            raise FormatError(message) from None
    if not schema.equals(shard_schema(tokenizer_hash), check_metadata=True):
        message = f"{path}: another schema, format version or tokenizer than the store's"
        raise FormatError(message)
    if not batches:
        message = f"{path} has no record batch"
        raise FormatError(message)
    return batches


def _view(path: Path, batch: pa.RecordBatch, file_row: int) -> Shard:
    views: dict[str, NDArray[Any]] = {}
    offsets: dict[str, NDArray[Any]] = {}
    for names, key in ((TOKEN_COLUMNS, "offsets"), (PERIOD_COLUMNS, "obs_offsets")):
        for name in names:
            column = batch.column(name)
            values = column.values
            if column.null_count or values.null_count:
                message = f"{path}: column {name} has nulls"
                raise FormatError(message)
            views[name] = values.to_numpy(zero_copy_only=True)
            found = _check_offsets(name, path, column, len(values))
            if not np.array_equal(offsets.setdefault(key, found), found):
                message = f"{path}: column {name} has other list lengths than its neighbors"
                raise FormatError(message)
    return Shard(
        path=path,
        file_row=file_row,
        subject_id=batch.column("subject_id").to_numpy(zero_copy_only=True),
        origin_us=batch.column("origin").view(pa.int64()).to_numpy(zero_copy_only=True),
        **offsets,
        **views,
    )


def _check_offsets(name: str, path: Path, column: pa.ListArray, n_values: int) -> NDArray[np.int64]:
    offsets = np.asarray(column.offsets, dtype=np.int64)
    if offsets[0] != 0 or offsets[-1] != n_values or (np.diff(offsets) < 0).any():
        message = f"{path}: the list offsets of column {name} are corrupt"
        raise FormatError(message)
    return offsets
