"""Steps that a GPU was given and that nobody has asked it about yet.

To ask for a loss stops the GPU's queue until the answer is there. So a step's losses, and whether
it was left out because something in it was not finite, stay on the device; after some steps they
are fetched together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from chronoward.train.metrics import Sums


class Unread:
    """What a device has yet to tell, step by step."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, Sums]] = []
        self._left_out: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: int, sums: Sums, left_out: Tensor) -> None:
        """Keeps a step.

        Args:
            step: its number.
            sums: its losses.
            left_out: () on the device, 1 where the step changed nothing.
        """
        self._steps.append((step, sums))
        self._left_out.append(left_out)

    def read(self) -> list[tuple[int, Sums, bool]]:
        """Number, losses and whether it was left out, of each step since the last call; this waits
        for the device."""
        left_out = torch.stack(self._left_out).tolist() if self._steps else []
        pairs = zip(self._steps, left_out, strict=True)
        found = [(step, sums.read(), bool(is_odd)) for (step, sums), is_odd in pairs]
        self._steps, self._left_out = [], []
        return found
