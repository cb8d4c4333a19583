"""How much of what the processor can multiply a training step uses."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from chronoward.model import Batch, ModelConfig

GEMM_SIZE = 1024
GEMM_SECONDS = 0.2


@cache
def gemm_rate(dtype: torch.dtype) -> float:
    """FLOP a second of a square product with this process's threads: the best of some,
    measured once."""
    matrix = torch.ones(GEMM_SIZE, GEMM_SIZE, dtype=dtype)
    best, end = 0.0, time.monotonic() + GEMM_SECONDS
    while not best or time.monotonic() < end:
        start = time.monotonic()
        torch.mm(matrix, matrix)
        best = max(best, 2 * GEMM_SIZE**3 / (time.monotonic() - start))
    return best


def step_flop(shape: ModelConfig, batch: Batch, n_used: int) -> float:
    """FLOP of forward and backward: 6 P + 12 L d (mean visible keys) for each token in use.

    Args:
        shape: of the model; the embedding counts once, as the output layer.
        batch: its segments; the padding behind the last token in use counts as none.
        n_used: tokens in use.
    """
    lengths = batch.cu_seqlens.diff().double()[batch.segment_subject >= 0]
    pairs = float((lengths * (lengths + 1) / 2).sum())
    return 6.0 * shape.n_parameters() * n_used + 12.0 * shape.n_layers * shape.d_model * pairs
