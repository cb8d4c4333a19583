"""An exponential moving average of the weights, which is what a run with it is judged by."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


class Average:
    """ā ← d ā + (1 − d) w after every step, d = min(decay, (1 + n) / (10 + n)) at step n, so that
    the first weights are soon forgotten.

    Args:
        module: starts the average.
        decay: of the average.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self.tensors: dict[str, Tensor] = {
            name: x.detach().clone() for name, x in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self, module: nn.Module, step: int, left_out: Tensor | None = None) -> None:
        """Takes in the weights after step number `step`, unless `left_out`, fp32 (), is 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        share = 1 - decay if left_out is None else (1 - decay) * (1 - left_out)
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, share)

    @contextmanager
    @torch.no_grad()
    def in_place_of(self, module: nn.Module) -> Iterator[None]:
        """The module has the average's weights inside the block."""
        own = module.state_dict()
        kept = {name: x.clone() for name, x in own.items()}
        for name, tensor in own.items():
            tensor.copy_(self.tensors[name])
        try:
            yield
        finally:
            for name, tensor in own.items():
                tensor.copy_(kept[name])
