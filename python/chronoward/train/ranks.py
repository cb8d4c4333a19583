"""Several processes, one run: each takes some rows of every step, gradients are added up.

All processes read the same plan, so they know a step's rows and its number of terms without a
word. Where each holds the whole model, what passes between them is one sum of gradients a step; for
a model in parts see `train.shards`. GPUs talk through NCCL, all else
through gloo. Only the first one writes. Started by `torchrun`; a run's checkpoints know nothing of
how many there were.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run."""

    rank: int = 0
    world: int = 1

    @classmethod
    def from_environment(cls, device_type: str = "cpu") -> Ranks:
        """Joins the processes that `torchrun` started; one alone where it started none.

        Args:
            device_type: where the gradients are: cpu or cuda.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
            )
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """The items that this process works on."""
        return items[self.rank :: self.world]

    def idle_turns(self, n_items: int) -> int:
        """Items that another process has more of than this one, when they share so many."""
        return -(-n_items // self.world) - len(range(self.rank, n_items, self.world))

    def wait(self) -> None:
        """Waits for all others."""
        if self.world > 1:
            distributed.barrier()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        distributed.all_gather_object(values, value)
        return values

    def first(self, value: Any) -> Any:
        """The first process's value."""
        return self.gather(value)[0]

    @torch.no_grad()
    def greatest(self, number: Tensor) -> Tensor:
        """The greatest of all processes' numbers, in place, where they are."""
        if self.world > 1:
            distributed.all_reduce(number, op=distributed.ReduceOp.MAX)
        return number

    @torch.no_grad()
    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Every gradient becomes the sum of all processes', in one transfer."""
        if self.world == 1:
            return
        learned = [p for p in parameters if p.requires_grad]
        for parameter in learned:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in learned if p.grad is not None]
        joined = torch.cat([g.flatten() for g in gradients])
        distributed.all_reduce(joined)
        first = 0
        for gradient in gradients:
            part = joined[first : first + gradient.numel()]
            gradient.copy_(part.view_as(gradient))
            first += gradient.numel()
