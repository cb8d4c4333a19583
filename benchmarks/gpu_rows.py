"""Packed rows as the GPU measures use them: lognormal lengths, median 200, 2 % over 1,000."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chronoward.packing import pack
from chronoward.philox import uniforms

ROW_TOKENS = 2048
_MEDIAN, _SIGMA = 200, 0.78
_STEP_MIN = 20_000  # most minutes from one token to the next


@dataclass(frozen=True)
class Rows:
    """Whole rows laid end to end.

    Attributes:
        time_min: int32 (T,).
        cu_seqlens: int32 (n + 1,), padding a segment of its own.
        n_used: tokens that are not padding.
        mean_visible: keys that a causal query sees in its segment, mean over the tokens in use.
    """

    time_min: Tensor
    cu_seqlens: Tensor
    n_used: int
    mean_visible: float

    @property
    def longest(self) -> int:
        """Length of the longest segment."""
        return int(self.cu_seqlens.diff().max())


def packed_rows(n_rows: int, row_tokens: int = ROW_TOKENS, *, seed: int = 1) -> Rows:
    """The first rows of a plan over lognormal lengths.

    Args:
        n_rows: rows.
        row_tokens: tokens of each.
        seed: of lengths, plan and times.
    """
    n_windows = 4096 + 16 * n_rows  # many to choose from: rows are full
    u, v = uniforms(seed, n_windows), uniforms(seed + 1, n_windows)
    normal = np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)
    lengths = np.clip(np.exp(np.log(_MEDIAN) + _SIGMA * normal), 8, row_tokens).astype(np.int64)
    plan = pack(lengths, row_tokens, seed=seed)
    bounds, n_used, seen = [0], 0, 0.0
    for r in range(n_rows):
        row = lengths[plan.row(r)]
        bounds += [*(r * row_tokens + np.cumsum(row)).tolist(), (r + 1) * row_tokens]
        n_used += int(row.sum())
        seen += float((row * (row + 1) / 2).sum())
    steps = (uniforms(seed + 2, n_rows * row_tokens) * _STEP_MIN).astype(np.int64)
    times = steps.reshape(n_rows, row_tokens).cumsum(1).reshape(-1)
    return Rows(
        torch.from_numpy(times.astype(np.int32)),
        torch.tensor(bounds, dtype=torch.int32),
        n_used,
        seen / n_used,
    )
