"""A model in parts: each of several processes holds a share of every tensor.

torch's `fully_shard` (FSDP2; ZeRO-3 of Rajbhandari et al. 2020, arXiv 1910.02054): weights,
gradients, the optimizer's state and the average lie in parts. A block is gathered while it
computes, forward and backward; what is outside of blocks (embedding, output, heads) from a pass's
begin to its end. Gradients are added up as in a run whose processes hold everything. Checkpoints
are whole, so a run goes on with any number of processes, in parts or not.

All processes have to gather the same things in the same order: they take the same number of passes
through the model, and every pass has a gradient for every weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from chronoward.model import Model
from chronoward.model.heads import head_configs, make_heads
from chronoward.model.parts import is_part, whole

if TYPE_CHECKING:
    from torch import Tensor


def shard(model: Model) -> None:
    """Leaves this process its parts of a model that all processes have, in place.

    Its heads are to be there already; optimizers are made after it.
    """
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(model.embedding.weight.device.type, (distributed.get_world_size(),))
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)  # losses are divided by the terms of all processes
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no other sums


def is_sharded(model: Model) -> bool:
    """Whether the model lies in parts."""
    return hasattr(model, "reshard")


def put_away(model: Model) -> None:
    """Drops what a pass without a backward pass has left gathered; then weights may be changed."""
    sharded: Any = model
    if is_sharded(model):
        sharded.reshard()


def backward(model: Model, loss: Tensor) -> None:
    """Adds a pass's gradients; in parts, where the loss asks nothing of a weight, zeros."""
    if is_sharded(model):
        for parameter in model.parameters():
            is_gathered = not is_part(parameter)
            if parameter.requires_grad and is_gathered and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
    loss.backward()  # type: ignore[no-untyped-call]


def gathered(model: Model) -> Model:
    """The whole model: itself, or a copy of all parts, which every process has to ask for."""
    if not is_sharded(model):
        return model
    copy = Model(model.config)
    make_heads(copy, head_configs(model), "the model in parts")
    copy.load_state_dict({name: whole(x) for name, x in model.state_dict().items()})
    return copy
