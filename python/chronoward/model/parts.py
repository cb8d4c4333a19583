"""Tensors of which each of several processes holds a part (torch's `DTensor`), beside whole ones.

Files hold whole tensors. A plain tensor is whole, and goes through here as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


def is_part(tensor: Tensor) -> bool:
    """Whether this process holds a part of the tensor only."""
    return hasattr(tensor, "device_mesh")  # a class whose import costs half a second


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Where it is in parts, every process has to ask for it, in the same order."""
    if not is_part(tensor):
        return tensor
    held: Any = tensor
    gathered: Tensor = held.full_tensor()
    return gathered


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds of `like`, which has its shape.

    Args:
        tensor: whole, and the same in every process: nothing is sent.
        like: whole or in parts.
    """
    if not is_part(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    held: Any = like
    return distribute_tensor(tensor, held.device_mesh, held.placements, src_data_rank=None)


def numbers_held(tensor: Tensor) -> int:
    """How many of the tensor's numbers are in this process's memory."""
    held: Any = tensor
    local: Tensor = held.to_local() if is_part(tensor) else tensor
    return local.numel()


@torch.no_grad()
def fill(target: Tensor, tensor: Tensor) -> None:
    """Copies a whole tensor into one that is whole or in parts."""
    target.copy_(part_like(tensor, target))
