"""Muon: the update of a matrix is its averaged gradient with all singular values made equal.

torch.optim.Muon does the same but in bfloat16 on every device: on a CPU without units for it a step
takes 0.6 s where the model's own takes 0.1. Here the iteration runs in the type of the run's matrix
products (it levels singular values to between 0.7 and 1.2 only, in either), and matrices of one
shape run in one batch.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from chronoward.model.parts import is_part, part_like, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

# Newton-Schulz quintic whose slope at zero is as large as it can be (Jordan et al., Muon, 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5
WIDE = 2  # columns over rows, beyond which the iteration on X Xᵀ costs less than that on X


def orthogonalized(matrices: Tensor) -> Tensor:
    """U Vᵀ of each matrix U S Vᵀ, up to singular values between about 0.7 and 1.2.

    Args:
        matrices: (n, rows, columns).

    Returns:
        (n, rows, columns).
    """
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if x.shape[2] > WIDE * x.shape[1] and x.dtype != torch.bfloat16:
        x = _by_gram(x)
    else:
        for _ in range(N_ITERATIONS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _by_gram(x: Tensor) -> Tensor:
    """The iteration on G = X Xᵀ, which is all that its factors are polynomials of: X is multiplied
    twice, not ten times. Singular values are squared in G, which bf16 has not the digits for."""
    a, b, c = COEFFICIENTS
    gram = x @ x.mT
    product: Tensor | None = None
    for i in range(N_ITERATIONS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if i + 1 < N_ITERATIONS:
            gram = factor @ (factor @ gram)
    assert product is not None
    return product @ x


class Muon(Optimizer):
    """Nesterov momentum, orthogonalized, for matrices; decoupled weight decay.

    A step is `lr` times an orthogonal matrix times √max(1, rows / columns). Of a matrix that lies
    in parts each process makes the whole step and takes its part: one matrix is gathered at a time.

    Args:
        params: parameters with two dimensions.
        lr: learning rate, in units of the matrix's spectral norm.
        momentum: averaging constant of the gradient.
        weight_decay: decoupled.
        dtype: of the iteration.
        parts: parameter -> sizes of the row blocks that are matrices of their own (queries, keys
            and values of one projection).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
        parts: dict[Tensor, tuple[int, ...]],
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._parts, self._dtype = parts, dtype
        self.found_inf: Tensor | None = None
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = {"momentum": torch.zeros_like(parameter)}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; where `found_inf` holds a 1, none."""
        assert closure is None, "Muon takes no closure"
        for group in self.param_groups:
            learned = [p for p in group["params"] if p.grad is not None]
            if any(map(is_part, learned)):
                for parameter in learned:
                    self._step_of_parts(parameter, group)
            else:
                self._add_steps([(p, self._ahead(p, group), p) for p in learned], group["lr"])

    def _ahead(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Averages a gradient and shrinks its parameter; the gradient that the step is made of."""
        assert parameter.grad is not None
        if self.found_inf is not None:  # 0 times NaN would be NaN
            parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        average: Tensor = self.state[parameter]["momentum"]
        taken = self._taken()
        average.lerp_(parameter.grad, taken * (1 - group["momentum"]))
        parameter.mul_(1 - taken * (group["lr"] * group["weight_decay"]))
        return parameter.grad.lerp(average, group["momentum"])

    def _taken(self) -> Any:
        """1 where the step is taken, 0 where not."""
        return 1.0 if self.found_inf is None else 1.0 - self.found_inf

    def _step_of_parts(self, parameter: Tensor, group: dict[str, Any]) -> None:
        ahead = whole(self._ahead(parameter, group))
        step = torch.zeros_like(ahead)
        self._add_steps([(parameter, ahead, step)], group["lr"])
        parameter.add_(part_like(step, parameter))

    def _add_steps(self, wanted: Sequence[tuple[Tensor, Tensor, Tensor]], rate: float) -> None:
        """Adds steps, those of matrices of one shape made in one batch.

        Args:
            wanted: each a parameter, the gradient its step is made of, and what to add it to.
            rate: learning rate.
        """
        blocks: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter, gradient, target in wanted:
            sizes = list(self._parts.get(parameter, (parameter.shape[0],)))
            parts = torch.split(target, sizes), torch.split(gradient, sizes)
            for rows, update in zip(*parts, strict=True):
                blocks[rows.shape[0], rows.shape[1]].append((rows, update))
        for (n_rows, n_columns), pairs in blocks.items():
            updates = torch.stack([update for _, update in pairs])
            steps = orthogonalized(updates.to(self._dtype)).to(updates.dtype)
            if self.found_inf is not None:
                steps = steps * self._taken()
            scale = rate * max(1.0, n_rows / n_columns) ** 0.5
            for (rows, _), direction in zip(pairs, steps, strict=True):
                rows.add_(direction, alpha=-scale)
