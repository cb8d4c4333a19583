"""What a step of training sees: packed rows laid end to end as one long row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, without waiting for what a GPU still has to do.

    What follows from the batch alone is worked out on the CPU, where the batch is, and sent like
    this: to ask a GPU for a number, or for how many of something there are, stops its queue.
    """
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True, eq=False)
class OutputSample:
    """The tokens whose logits a training step makes.

    Attributes:
        token_id: int64 (C,), distinct; every token of the batch is among them.
        log_weight: fp32 (C,), log of the number of tokens that each one stands for in the sum over
            the vocabulary; 0 for those that stand for themselves.
    """

    token_id: Tensor
    log_weight: Tensor

    def columns(self, vocab_size: int) -> Tensor:
        """Place of each token of the vocabulary in the sample, int64 (V,); -1: not in it."""
        place = torch.full((vocab_size,), -1, device=self.token_id.device)
        place[self.token_id] = torch.arange(len(self.token_id), device=self.token_id.device)
        return place


@dataclass(frozen=True, eq=False)
class Batch:
    """One packed row of T tokens in n segments.

    Objectives take a batch on the CPU beside hidden states on a GPU: then nothing waits.

    Attributes:
        token_id: int64 (T,).
        time_min: int32 (T,), clock in minutes since the subject's origin.
        n_prior: uint8 (T,), earlier visits with the same base code; 0 for structural tokens.
        cu_seqlens: int32 (n + 1,), bounds of the segments; empty segments are allowed.
        segment_subject: int64 (n,), number of the segment's timeline in its split, -1 for padding.
        loss_mask: bool (T,), tokens that are predicted (not the prompt, overlap, padding, end).
        output_sample: tokens whose logits are made; None: all.
    """

    token_id: Tensor
    time_min: Tensor
    n_prior: Tensor
    cu_seqlens: Tensor
    segment_subject: Tensor
    loss_mask: Tensor
    output_sample: OutputSample | None = None

    def segments(self) -> Tensor:
        """Segment of each token, int64 (T,)."""
        position = torch.arange(
            self.token_id.shape[0], device=self.token_id.device, dtype=torch.int32
        )
        return torch.searchsorted(self.cu_seqlens, position, right=True) - 1
