"""The torch view of a packing plan: rows by (epoch, step), each computed from the store afresh.

There is no state to save: a step's rows follow from (seed, epoch, step) alone, so resuming is
asking for the next step, and ranks share an epoch by taking turns within a step. Rows are copied
out of the mapped store by C++ (the only copy); no worker processes are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
import torch

from chronoward import _core
from chronoward.errors import ConfigError
from chronoward.packing import PackPlan, cut, plan_windows, prompts_at
from chronoward.store.arrays import split_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from chronoward.packing import WindowRules, Windows
    from chronoward.store import StoreSplit

# in the order in which `_core.fill_rows` returns them
_COLUMNS = (
    "token_id",
    "time_min",
    "n_prior",
    "loss_mask",
    "cu_seqlens",
    "segment_subject",
    "segment_begin",
    "segment_lead",
)


@dataclass(frozen=True, eq=False)
class PackedRow:
    """One row of `row_tokens` = T tokens; segments follow each other, the padding is the last.

    Attributes:
        token_id: int32 (T,), 0 in the padding.
        time_min: int32 (T,), the clock, minutes since each subject's origin.
        n_prior: uint8 (T,).
        cu_seqlens: int32 (max_segments + 1,), bounds of the segments; `row_tokens` from the
            padding's end on, so that its shape is fixed.
        loss_mask: bool (T,), whether the token counts as a *target*: not in a prompt, a lead or
            padding, not `end`, and not a gap that crosses unobserved time.
        segment_subject: int64 (max_segments,), number of the timeline in the split; −1: none.
        segment_begin: int64 (max_segments,), position in its timeline of the segment's body.
        segment_lead: int32 (max_segments,), tokens before the body that the timeline does not
            hold at this place (re-derived prompt, first tokens of the open visit).
        n_tokens: tokens in use.
    """

    token_id: torch.Tensor
    time_min: torch.Tensor
    n_prior: torch.Tensor
    cu_seqlens: torch.Tensor
    loss_mask: torch.Tensor
    segment_subject: torch.Tensor
    segment_begin: torch.Tensor
    segment_lead: torch.Tensor
    n_tokens: int


@dataclass(frozen=True, eq=False)
class PackedRows(Sequence[PackedRow]):
    """R rows in one tensor a column; a row is a view of them, made when it is asked for.

    Attributes:
        token_id, time_min: int32 (R, T), and so on: the columns of `PackedRow`, stacked.
        row_n_tokens: int64 (R,), tokens in use in each row.
    """

    token_id: torch.Tensor
    time_min: torch.Tensor
    n_prior: torch.Tensor
    cu_seqlens: torch.Tensor
    loss_mask: torch.Tensor
    segment_subject: torch.Tensor
    segment_begin: torch.Tensor
    segment_lead: torch.Tensor
    row_n_tokens: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row_n_tokens)

    @property
    def n_tokens(self) -> int:
        """Tokens in use, all rows together."""
        return int(self.row_n_tokens.sum())

    @overload
    def __getitem__(self, index: int) -> PackedRow: ...
    @overload
    def __getitem__(self, index: slice) -> PackedRows: ...
    def __getitem__(self, index: int | slice) -> PackedRow | PackedRows:
        columns = {name: getattr(self, name)[index] for name in _COLUMNS}
        if isinstance(index, slice):
            return PackedRows(**columns, row_n_tokens=self.row_n_tokens[index])
        return PackedRow(**columns, n_tokens=int(self.row_n_tokens[index]))


class Loader:
    """Packed rows of a split.

    Args:
        split: timelines of a token store.
        rules: the tokenizer's part in cutting windows.
        row_tokens: tokens a row holds.
        rows_per_step: rows of one step, over all ranks; the last step of an epoch may have fewer.
        seed: of the run.
        max_segments: segments a row has at most, its padding counted as one.
        rank: this process's number.
        n_ranks: number of processes; rank r gets rows r, r + n_ranks, … of each step.

    Raises:
        ConfigError: rows_per_step, rank or n_ranks out of range.
        ValueError: `row_tokens` or `max_segments` is too small.
        DataError: a token id outside the vocabulary.
    """

    def __init__(
        self,
        split: StoreSplit,
        rules: WindowRules,
        *,
        row_tokens: int,
        rows_per_step: int = 1,
        seed: int = 0,
        max_segments: int | None = None,
        rank: int = 0,
        n_ranks: int = 1,
    ) -> None:
        if rows_per_step < 1 or not 0 <= rank < n_ranks:
            message = (
                f"need rows_per_step >= 1 and 0 <= rank < n_ranks, got {rows_per_step}, {rank}, "
                f"{n_ranks}"
            )
            raise ConfigError(message)
        self.split = split
        self._rules = rules
        self._rows_per_step = rows_per_step
        self._seed = seed
        self._max_segments = max_segments
        self._rank = rank
        self._n_ranks = n_ranks
        self._split_arrays = split_arrays(split)
        self.windows = cut(split, rules, row_tokens)

    @property
    def windows(self) -> Windows:
        """What the rows are made of; assigning fewer of them leaves the others out."""
        return self._windows

    @windows.setter
    def windows(self, windows: Windows) -> None:
        self._windows = windows
        self._plan: tuple[int, PackPlan] | None = None
        self._window_arrays = _core.WindowArrays(
            timeline=windows.timeline,
            begin=windows.begin,
            length=windows.length,
            n_lead=windows.n_lead,
            open_visit=windows.open_visit,
            open_detail=windows.open_detail,
        )

    def plan(self, epoch: int) -> PackPlan:
        """The rows of an epoch (the last one asked for is kept)."""
        if self._plan is None or self._plan[0] != epoch:
            plan = plan_windows(
                self.windows, seed=self._seed, epoch=epoch, max_segments=self._max_segments
            )
            self._plan = (epoch, plan)
        return self._plan[1]

    def n_steps(self, epoch: int) -> int:
        """Steps of an epoch."""
        return -(-len(self.plan(epoch).rows) // self._rows_per_step)

    def step(self, epoch: int, step: int) -> PackedRows:
        """This rank's rows of one step.

        Raises:
            IndexError: the epoch has no such step.
        """
        plan = self.plan(epoch)
        if not 0 <= step < self.n_steps(epoch):
            message = f"epoch {epoch} has {self.n_steps(epoch)} steps, no step {step}"
            raise IndexError(message)
        first = step * self._rows_per_step
        last = min(first + self._rows_per_step, len(plan.rows))
        numbers = np.arange(first, last, dtype=np.int64)[self._rank :: self._n_ranks]
        return self._rows(plan, numbers)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[PackedRows]:
        """The steps of an epoch from `first_step` on: exactly those that an uninterrupted run
        would have seen.
        """
        for step in range(first_step, self.n_steps(epoch)):
            yield self.step(epoch, step)

    def _prompts(self, chosen: NDArray[np.int64]) -> NDArray[np.int32]:
        """Re-derived prompts of the windows that begin mid-life, in order; (n_late, n_prompt)."""
        windows = self.windows
        late = chosen[windows.n_lead[chosen] > 0]
        timeline = windows.timeline[late]
        stored, clock = _core.read_heads(
            self._split_arrays, timeline, windows.begin[late], len(self._rules.prompt_classes)
        )
        return prompts_at(self._rules, stored, self.split.origin_us[timeline], clock)

    def _rows(self, plan: PackPlan, numbers: NDArray[np.int64]) -> PackedRows:
        first, last = plan.rows.offsets[numbers], plan.rows.offsets[numbers + 1]
        row_offsets = np.zeros(len(numbers) + 1, np.int64)
        np.cumsum(last - first, out=row_offsets[1:])
        moved = np.repeat(first - row_offsets[:-1], last - first)
        chosen = plan.rows.index[moved + np.arange(len(moved))]
        columns = _core.fill_rows(
            self._split_arrays,
            self._window_arrays,
            chosen,
            row_offsets,
            self._prompts(chosen),
            self._rules.token_class,
            self.windows.row_tokens,
            plan.max_segments,
        )
        tensors = {n: torch.from_numpy(c) for n, c in zip(_COLUMNS, columns, strict=True)}
        tensors["loss_mask"] = tensors["loss_mask"].view(torch.bool)
        bounds = columns[_COLUMNS.index("cu_seqlens")]
        row_n_tokens = bounds[np.arange(len(numbers)), last - first].astype(np.int64)
        return PackedRows(**tensors, row_n_tokens=row_n_tokens)
