"""The clock a model is trained on: durations drawn again from each token's quantile function.

A rollout knows a gap by its token and draws its minutes inside the token's bucket. Recorded minutes
say more than the token (clinics keep weeks and office hours, admissions do not), and a model that
has learned to read them finds every drawn gap odd: its rollouts then turn ordinary visits into
admissions. So training sees the minutes that rollouts draw, new ones in each epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from chronoward.philox import hash64, uniforms
from chronoward.tokenizer import DurationRule

if TYPE_CHECKING:
    from chronoward.model import Batch
    from chronoward.tokenizer import GrammarTables

_INTERVALS = 32  # of a quantile function, even in u


class Redraw:
    """Redrawn clocks of training batches; a step's follow from (seed, epoch, step).

    Args:
        grammar: durations of the tokens.
        seed: of the run.
    """

    def __init__(self, grammar: GrammarTables, seed: int) -> None:
        self._quantile = grammar.duration_q.astype(np.float64)  # (V, 33)
        self._is_drawn = grammar.duration_rule == DurationRule.QUANTILE
        self._last_min = grammar.max_clock_min
        self._seed = seed

    def __call__(self, batch: Batch, epoch: int, step: int) -> torch.Tensor:
        """The clock of each token, int32 (T,): segments start where they did, durations of other
        rules stay, all others are drawn as the sampler draws them."""
        token, time_min = batch.token_id.numpy(), batch.time_min.numpy().astype(np.int64)
        u = uniforms(hash64(self._seed, "clock", epoch, step), len(token)) * _INTERVALS
        left = np.minimum(u.astype(np.int64), _INTERVALS - 1)
        low, high = self._quantile[token, left], self._quantile[token, left + 1]
        drawn = np.floor(low + (u - left) * (high - low) + 0.5).astype(np.int64)
        kept = np.diff(time_min, prepend=0)
        passed = np.cumsum(np.where(self._is_drawn[token], drawn, kept))
        start = batch.cu_seqlens.numpy()[:-1]
        start = start[start < len(token)]
        segment = np.searchsorted(start, np.arange(len(token)), side="right") - 1
        first = start[segment]
        clock = time_min[first] + passed - passed[first]
        limit = np.maximum(self._last_min, time_min[first])
        return torch.from_numpy(np.minimum(clock, limit).astype(np.int32))
