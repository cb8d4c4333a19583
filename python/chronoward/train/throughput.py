"""How much of what the device can multiply a training step uses."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

import torch

from chronoward.train.device import synchronize

if TYPE_CHECKING:
    from chronoward.model import Batch, ModelConfig

GEMM_SIZES = {"cpu": 1024, "cuda": 8192}  # large enough for the rate not to grow any more
GEMM_SECONDS = 0.2


@cache
def gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP a second of a square product on a device, on a CPU with this process's threads: the
    best of some, measured once."""
    size = GEMM_SIZES.get(device.type, GEMM_SIZES["cpu"])
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    best, end = 0.0, time.monotonic() + GEMM_SECONDS
    while not best or time.monotonic() < end:
        synchronize(device)
        start = time.monotonic()
        torch.mm(matrix, matrix)
        synchronize(device)
        best = max(best, 2 * size**3 / (time.monotonic() - start))
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
