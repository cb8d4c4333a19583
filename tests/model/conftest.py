from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from chronoward.model import Batch, ModelConfig

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Timelines (token ids, minutes) laid end to end; all but each first token is predicted."""

    def make(*timelines: tuple[list[int], list[int]], n_prior: list[int] | None = None) -> Batch:
        lengths = [len(tokens) for tokens, _ in timelines]
        minutes = [t for _, times in timelines for t in times]
        return Batch(
            token_id=torch.tensor([t for tokens, _ in timelines for t in tokens]),
            time_min=torch.tensor(minutes, dtype=torch.int32),
            n_prior=torch.tensor(n_prior or [0] * sum(lengths), dtype=torch.uint8),
            cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
            segment_subject=torch.arange(len(lengths)),
            loss_mask=torch.tensor([i > 0 for n in lengths for i in range(n)]),
        )

    return make


@pytest.fixture
def toy_config() -> ModelConfig:
    return ModelConfig(vocab_size=24, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=24)
