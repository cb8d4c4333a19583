"""Timelines of one split that wait for their shard: on disk, so that memory does not grow."""

from __future__ import annotations

import tempfile
import weakref
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from chronoward.errors import LimitError
from chronoward.store.layout import PERIOD_COLUMNS, TOKEN_COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

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


class _Column:
    """Numbers in a file that has no name: a process that is killed leaves nothing behind."""

    def __init__(self, folder: Path, dtype: type[np.generic]) -> None:
        self._folder, self._dtype = folder, np.dtype(dtype)
        self._open()

    def _open(self) -> None:
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  closed by `close`
        self.close = weakref.finalize(self, self._file.close)
        self._n = 0

    def append(self, values: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(values, self._dtype).data.cast("B"))
        self._n += len(values)

    def take(self, n: int) -> NDArray[Any]:
        """Removes the first `n` numbers; what is returned stays mapped as long as it is used."""
        if not self._n:
            return np.zeros(0, self._dtype)
        self._file.flush()
        numbers = np.asarray(np.memmap(self._file, self._dtype, mode="r", shape=(self._n,)))
        self.close()
        self._open()
        self.append(numbers[n:])
        return numbers[:n]


class Pending:
    """Appends timelines and takes them out by the shard.

    Args:
        folder: where the waiting columns lie, in files without a name.
    """

    def __init__(self, folder: Path) -> None:
        self.n_tokens = 0
        self._of_subjects: dict[str, list[NDArray[Any]]] = {
            name: [] for name in ("subject_id", "origin_us", "lengths", "n_periods")
        }
        self._columns = {
            name: _Column(folder, dtype)
            for name, dtype in {**TOKEN_COLUMNS, **PERIOD_COLUMNS}.items()
        }

    def __len__(self) -> int:
        """Number of subjects that wait."""
        return sum(map(len, self._of_subjects["subject_id"]))

    def append(self, batch: Timelines, chosen: NDArray[np.bool_]) -> None:
        """Takes those of a batch's subjects that are `chosen`, (n,)."""
        lengths, n_periods = np.diff(batch.offsets), np.diff(batch.obs_offsets)
        found = {"subject_id": batch.subject_id, "origin_us": batch.origin_us}
        found |= {"lengths": lengths, "n_periods": n_periods}
        for name, column in found.items():
            self._of_subjects[name].append(column[chosen])
        of_tokens, of_periods = np.repeat(chosen, lengths), np.repeat(chosen, n_periods)
        for name in TOKEN_COLUMNS:
            self._columns[name].append(getattr(batch, name)[of_tokens])
        for name in PERIOD_COLUMNS:
            self._columns[name].append(getattr(batch, name)[of_periods])
        self.n_tokens += int(lengths[chosen].sum())

    def take(self, max_tokens: int) -> tuple[int, int, dict[str, NDArray[Any]]]:
        """Removes the longest run of subjects that fits; its counts and its columns.

        Raises:
            LimitError: the first subject alone does not fit.
        """
        waiting = {name: np.concatenate(parts) for name, parts in self._of_subjects.items()}
        ends = np.cumsum(waiting["lengths"])
        n = int(np.searchsorted(ends, max_tokens, side="right"))
        if n == 0 and len(ends):
            message = f"a timeline has {ends[0]} tokens; a shard holds at most {max_tokens}"
            raise LimitError(message)
        n_tokens = int(ends[n - 1]) if n else 0
        n_periods = int(waiting["n_periods"][:n].sum())
        taken = {name: column[:n] for name, column in waiting.items()}
        for name, column in waiting.items():
            self._of_subjects[name] = [column[n:].copy()]
        for name, spooled in self._columns.items():
            taken[name] = spooled.take(n_tokens if name in TOKEN_COLUMNS else n_periods)
        self.n_tokens -= n_tokens
        return n, n_tokens, taken

    def close(self) -> None:
        """Gives the disk's room back."""
        for column in self._columns.values():
            column.close()
