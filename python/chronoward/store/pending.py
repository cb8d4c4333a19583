"""Timelines of one split that wait for the others of their record batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from chronoward import _core
from chronoward.store.layout import PERIOD_COLUMNS, TOKEN_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class Timelines(Protocol):
    """What `StoreWriter.add` takes: token timelines, one after the other (`TokenBatch`)."""

    @property
    def subject_id(self) -> NDArray[np.int64]: ...  # (n,)
    @property
    def origin_us(self) -> NDArray[np.int64]: ...  # (n,)
    @property
    def offsets(self) -> NDArray[np.int64]: ...  # (n + 1,)
    @property
    def token_id(self) -> NDArray[np.int32]: ...  # (n_tokens,)
    @property
    def time_min(self) -> NDArray[np.int32]: ...
    @property
    def event_min(self) -> NDArray[np.int32]: ...
    @property
    def n_prior(self) -> NDArray[np.uint8]: ...
    @property
    def obs_offsets(self) -> NDArray[np.int64]: ...  # (n + 1,)
    @property
    def obs_start_min(self) -> NDArray[np.int32]: ...
    @property
    def obs_end_min(self) -> NDArray[np.int32]: ...


class Pending:
    """Fills record batches with timelines, each with the longest run of them that fits.

    Which timelines share a batch depends on their order and lengths only, not on the calls of
    `add`. Memory: one batch, 13 bytes a token.

    Args:
        schema: `shard_schema`.
        max_tokens: tokens of a batch at most; a timeline that has more is a batch of its own.
    """

    def __init__(self, schema: pa.Schema, max_tokens: int) -> None:
        self._schema = schema
        self._max_tokens = max_tokens
        self.clear()

    def clear(self) -> None:
        """Drops what waits. The next batch gets new arrays: the last's may wait for the disk."""
        self._n_subjects = self._n_tokens = 0
        self._tokens: dict[str, NDArray[Any]] = {}
        of_subjects = ("subject_id", "origin_us", "lengths", "n_periods")
        self._parts: dict[str, list[NDArray[Any]]] = {
            name: [] for name in (*of_subjects, *PERIOD_COLUMNS)
        }

    def __len__(self) -> int:
        """Number of subjects that wait."""
        return self._n_subjects

    def add(self, batch: Timelines, rows: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
        """Takes timelines; yields each record batch to which nothing more can be added.

        Args:
            batch: the timelines.
            rows: int64, those of them to take, in this order.
        """
        ends = np.cumsum(np.diff(batch.offsets)[rows])
        first, before = 0, 0
        while first < len(rows):
            room = self._max_tokens - self._n_tokens
            least = first if self._n_subjects else first + 1
            last = max(least, int(np.searchsorted(ends, before + room, side="right")))
            if last > first:
                self._append(batch, rows[first:last])
                first, before = last, int(ends[last - 1])
            if first < len(rows):
                yield self.take()

    def _append(self, batch: Timelines, rows: NDArray[np.int64]) -> None:
        lengths, n_periods = np.diff(batch.offsets)[rows], np.diff(batch.obs_offsets)[rows]
        begin, end = self._n_tokens, self._n_tokens + int(lengths.sum())
        if not self._tokens:
            size = max(end, self._max_tokens)
            self._tokens = {name: np.empty(size, dtype) for name, dtype in TOKEN_COLUMNS.items()}
        for name, column in self._tokens.items():
            _core.copy_rows(batch.offsets, rows, getattr(batch, name), column[begin:end])
        for name, dtype in PERIOD_COLUMNS.items():
            periods = np.empty(int(n_periods.sum()), dtype)
            _core.copy_rows(batch.obs_offsets, rows, getattr(batch, name), periods)
            self._parts[name].append(periods)
        of_subjects = {"subject_id": batch.subject_id[rows], "origin_us": batch.origin_us[rows]}
        of_subjects |= {"lengths": lengths, "n_periods": n_periods}
        for name, values in of_subjects.items():
            self._parts[name].append(values)
        self._n_subjects += len(rows)
        self._n_tokens = end

    def take(self) -> pa.RecordBatch:
        """Removes what waits, one timeline at least, as a record batch; its arrays stay as is."""
        columns = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        columns |= {name: column[: self._n_tokens] for name, column in self._tokens.items()}
        arrays = [
            pa.array(columns["subject_id"]),
            pa.array(columns["origin_us"]).view(pa.timestamp("us")),
        ]
        for names, lengths in ((TOKEN_COLUMNS, "lengths"), (PERIOD_COLUMNS, "n_periods")):
            offsets = np.zeros(self._n_subjects + 1, np.int32)
            np.cumsum(columns[lengths], out=offsets[1:])
            arrays += [
                pa.ListArray.from_arrays(
                    pa.array(offsets), pa.array(columns[name]), type=self._schema.field(name).type
                )
                for name in names
            ]
        self.clear()
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)
