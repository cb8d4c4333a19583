from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from chronoward.loader import PackedRow
from chronoward.model import ModelConfig

V = 24
ROW_TOKENS = 40
MAX_SEGMENTS = 5


def make_row(subjects: list[int], lengths: list[int]) -> PackedRow:
    """Timelines of a prompt of two tokens, then tokens that count up, then `end`; then padding."""
    token_id = torch.zeros(ROW_TOKENS, dtype=torch.int32)
    time_min = torch.zeros(ROW_TOKENS, dtype=torch.int32)
    loss_mask = torch.zeros(ROW_TOKENS, dtype=torch.bool)
    bounds = torch.full((MAX_SEGMENTS + 1,), ROW_TOKENS, dtype=torch.int32)
    owner = torch.full((MAX_SEGMENTS,), -1, dtype=torch.int64)
    at = 0
    for s, (subject, n) in enumerate(zip(subjects, lengths, strict=True)):
        body = [4 + (subject + i) % (V - 4) for i in range(n - 3)]
        token_id[at : at + n] = torch.tensor([2, 3, *body, 1], dtype=torch.int32)
        time_min[at : at + n] = 60 * subject + 720 * torch.arange(n, dtype=torch.int32)
        loss_mask[at + 2 : at + n - 1] = True
        bounds[s], owner[s] = at, subject
        at += n
    bounds[len(subjects)] = at
    return PackedRow(
        token_id=token_id,
        time_min=time_min,
        n_prior=torch.zeros(ROW_TOKENS, dtype=torch.uint8),
        cu_seqlens=bounds,
        loss_mask=loss_mask,
        segment_subject=owner,
        segment_begin=torch.zeros(MAX_SEGMENTS, dtype=torch.int64),
        segment_lead=torch.zeros(MAX_SEGMENTS, dtype=torch.int32),
        n_tokens=at,
    )


class ToyRows:
    """Rows by (epoch, step), as a loader has them."""

    def n_steps(self, epoch: int) -> int:
        return 4 + epoch % 2

    def step(self, epoch: int, step: int) -> list[PackedRow]:
        first = [(epoch * 7 + step * 3 + r) % 11 for r in range(2)]
        return [make_row([s, s + 5, s + 9], [13, 9, 15]) for s in first]


@pytest.fixture
def toy() -> SimpleNamespace:
    """A toy world: `rows`, `make_row`, a model's `config`."""
    config = ModelConfig(vocab_size=V, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=24)
    return SimpleNamespace(rows=ToyRows(), make_row=make_row, config=config)
