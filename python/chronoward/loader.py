"""The torch view of a packing plan: rows by (epoch, step), each computed from the store afresh.

There is no state to save: a step's rows follow from (seed, epoch, step) alone, so resuming is
asking for the next step, and ranks share an epoch by taking turns within a step. Rows are copied
out of the mapped store by C++ (the only copy); no worker processes are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chronoward import _core
from chronoward.errors import ConfigError
from chronoward.packing import PackPlan, cut, plan_windows, prompts_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from chronoward.packing import WindowRules
    from chronoward.store import StoreSplit

_NO_SEGMENT = -1


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
        self.windows = cut(split, rules, row_tokens)
        self._rules = rules
        self._rows_per_step = rows_per_step
        self._seed = seed
        self._max_segments = max_segments
        self._rank = rank
        self._n_ranks = n_ranks
        self._plan: tuple[int, PackPlan] | None = None
        self._shards = [
            _core.ShardArrays(s.token_id, s.time_min, s.n_prior, s.obs_start_min, s.obs_end_min)
            for s in split.shards
        ]

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

    def step(self, epoch: int, step: int) -> list[PackedRow]:
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

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[list[PackedRow]]:
        """The steps of an epoch from `first_step` on: exactly those that an uninterrupted run
        would have seen.
        """
        for step in range(first_step, self.n_steps(epoch)):
            yield self.step(epoch, step)

    def _prompts(self, chosen: NDArray[np.int64]) -> NDArray[np.int32]:
        """Re-derived prompts of the windows that need one, zeros for the others."""
        windows, n_stored = self.windows, len(self._rules.prompt_classes)
        prompts = np.zeros((len(chosen), n_stored + 1), np.int32)
        late = np.flatnonzero(windows.n_lead[chosen])
        if len(late):
            timelines = [self.split.timeline(int(i)) for i in windows.timeline[chosen[late]]]
            begins = windows.begin[chosen[late]]
            prompts[late] = prompts_at(
                self._rules,
                np.stack([t.token_id[:n_stored] for t in timelines]),
                np.array([t.origin_us for t in timelines], np.int64),
                np.array([t.time_min[b] for t, b in zip(timelines, begins, strict=True)], np.int32),
            )
        return prompts

    def _positions(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the windows lie, (6, n): shard, begin, open visit, open detail, period bounds."""
        windows, split = self.windows, self.split
        timeline = windows.timeline[chosen]
        shard = np.searchsorted(split.first_row, timeline, side="right") - 1
        row = timeline - split.first_row[shard]
        start, first, last = (np.zeros(len(chosen), np.int64) for _ in range(3))
        for number in np.unique(shard):
            here = shard == number
            source = split.shards[number]
            start[here] = source.offsets[row[here]]
            first[here] = source.obs_offsets[row[here]]
            last[here] = source.obs_offsets[row[here] + 1]

        def absolute(position: NDArray[np.int64]) -> NDArray[np.int64]:
            return np.where(position >= 0, position + start, -1)

        rows = (
            shard,
            windows.begin[chosen] + start,
            absolute(windows.open_visit[chosen]),
            absolute(windows.open_detail[chosen]),
            first,
            last,
        )
        return np.stack(rows)

    def _rows(self, plan: PackPlan, numbers: NDArray[np.int64]) -> list[PackedRow]:
        windows, n = self.windows, len(numbers)
        counts = np.diff(plan.rows.offsets)[numbers]
        row_offsets = np.zeros(n + 1, np.int64)
        np.cumsum(counts, out=row_offsets[1:])
        chosen = np.concatenate(
            [np.zeros(0, np.int64), *(plan.rows.row(r) for r in numbers.tolist())]
        )
        token_id, time_min, n_prior, loss_mask, cu_seqlens = _core.fill_rows(
            self._shards,
            self._positions(chosen),
            windows.length[chosen],
            windows.n_lead[chosen],
            self._prompts(chosen),
            row_offsets,
            self._rules.token_class,
            windows.row_tokens,
            plan.max_segments,
        )
        places = np.arange(len(chosen)) - np.repeat(row_offsets[:-1], counts)
        owner = np.repeat(np.arange(n), counts)

        def by_row(values: NDArray[Any], empty: int) -> torch.Tensor:
            table = np.full((n, plan.max_segments), empty, values.dtype)
            table[owner, places] = values
            return torch.from_numpy(table)

        tensors = {
            "token_id": torch.from_numpy(token_id),
            "time_min": torch.from_numpy(time_min),
            "n_prior": torch.from_numpy(n_prior),
            "cu_seqlens": torch.from_numpy(cu_seqlens),
            "loss_mask": torch.from_numpy(loss_mask.view(np.bool_)),
            "segment_subject": by_row(windows.timeline[chosen], _NO_SEGMENT),
            "segment_begin": by_row(windows.begin[chosen], 0),
            "segment_lead": by_row(windows.n_lead[chosen], 0),
        }
        used = np.add.reduceat(windows.length[chosen] + windows.n_lead[chosen], row_offsets[:-1])
        rows = zip(*(tensor.unbind(0) for tensor in tensors.values()), strict=True)
        return [
            PackedRow(**dict(zip(tensors, row, strict=True)), n_tokens=n_used)
            for row, n_used in zip(rows, used.tolist(), strict=True)
        ]
