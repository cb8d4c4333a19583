"""Which rule updates which parameter: Muon the blocks' matrices, AdamW everything else.

Both run at one learning rate: the steps of Muon are orthogonal matrices and those of AdamW at most
about one an entry, so neither depends on the scale of the gradient. An output matrix of its own has
a tenth of it: the embedding is normalized before it is used and the output is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from chronoward.model import Block
from chronoward.train.device import product_dtype
from chronoward.train.muon import Muon

if TYPE_CHECKING:
    from chronoward.train.config import TrainConfig

OUTPUT_SHARE = 0.1  # of the learning rate, for an output matrix that is not the embedding


def _matrices(module: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """The blocks' matrices and the row blocks of each that are matrices of their own."""
    found: dict[Tensor, tuple[int, ...]] = {}
    for block in module.modules():
        if isinstance(block, Block):
            d = block.d_head
            sizes = (block.n_heads * d, block.n_kv_heads * d, block.n_kv_heads * d)
            found[block.qkv_projection.weight] = sizes
            for matrix in (block.attention_output.weight, block.down.weight):
                found[matrix] = (matrix.shape[0],)
            gate_and_up = block.gate_and_up.weight
            found[gate_and_up] = (gate_and_up.shape[0] // 2,) * 2
    return found


def _adam_groups(module: nn.Module, matrices: dict[Tensor, tuple[int, ...]]) -> list[Any]:
    """What AdamW updates, in groups with their `share` of the learning rate."""
    output = {p for name, p in module.named_parameters() if name == "output.weight"}
    others = [p for p in module.parameters() if p not in matrices and p not in output]
    groups = [{"params": others, "share": 1.0}]
    if output:
        groups.append({"params": list(output), "share": OUTPUT_SHARE})
    return groups


class Optimizers:
    """The two rules as one: a step, a learning rate, a state by parameter.

    The state is made at once, so that a checkpoint can be taken before the first step. Weight decay
    is for matrices; embeddings, norms, biases and the time bias have none.
    """

    def __init__(self, module: nn.Module, config: TrainConfig) -> None:
        matrices = _matrices(module)
        groups = _adam_groups(module, matrices)
        adam = AdamW(groups, lr=0.0, betas=config.betas, weight_decay=0.0, fused=True)
        for group in groups:
            for parameter in group["params"]:
                adam.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        self._rules: list[torch.optim.Optimizer] = [adam]
        if matrices:
            decay = config.weight_decay
            dtype = product_dtype(next(iter(matrices)).device, config.dtype)
            self._rules.append(
                Muon(list(matrices), lr=0.0, weight_decay=decay, dtype=dtype, parts=matrices)
            )

    @property
    def learning_rate(self) -> float:
        """Rate of the next step, of which the output matrix takes its share."""
        return float(self._rules[0].param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        for rule in self._rules:
            for group in rule.param_groups:
                group["lr"] = rate * group.get("share", 1.0)

    def step(self, left_out: Tensor | None = None) -> None:
        """Updates every parameter that has a gradient.

        Args:
            left_out: fp32 () on the parameters' device: 1 leaves everything as it is, so that
                nobody has to ask the device first whether the gradient is finite. None is 0.
        """
        rule: Any
        for rule in self._rules:
            rule.found_inf = left_out  # as torch's gradient scalers say it
            rule.step()

    def zero_grad(self) -> None:
        """Drops all gradients."""
        for rule in self._rules:
            rule.zero_grad(set_to_none=True)

    def state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Tensors that the next update of a parameter depends on, by name."""
        for rule in self._rules:
            if parameter in rule.state:
                found: dict[str, Tensor] = rule.state[parameter]
                return found
        message = "the parameter belongs to no optimizer"
        raise KeyError(message)
