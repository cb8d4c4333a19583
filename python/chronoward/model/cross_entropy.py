"""Cross-entropy whose logits never exist for all positions at once.

The gradient of a chunk's loss is known as soon as its logits are, so all gradients are made in the
forward pass, chunk by chunk, and the logits are overwritten: memory is one chunk times V, and the
output layer's product is not computed a second time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 1024  # positions whose logits exist together


class ChunkedCrossEntropy(torch.autograd.Function):
    """Σ w_i · −log softmax(h_i Wᵀ + b)[y_i] over chosen positions, and the unweighted terms."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        matrix: Tensor,
        bias: Tensor,
        place: Tensor,
        target: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        wants_gradient = hidden.requires_grad or matrix.requires_grad
        d_hidden = torch.zeros_like(hidden) if wants_gradient else None
        d_matrix = torch.zeros_like(matrix) if wants_gradient else None
        d_bias = torch.zeros_like(bias) if wants_gradient else None
        losses = torch.empty(place.shape[0], dtype=wide, device=hidden.device)
        for first in range(0, place.shape[0], CHUNK):
            part = slice(first, first + CHUNK)
            rows = hidden[place[part]]
            logits = (rows @ matrix.T).to(wide).add_(bias)
            aim = target[part, None]
            chosen = logits.gather(1, aim)
            peak = logits.amax(dim=1, keepdim=True)
            odds = logits.sub_(peak).exp_()
            total = odds.sum(dim=1, keepdim=True)
            losses[part] = (peak + total.log() - chosen).squeeze(1)
            if d_hidden is not None and d_matrix is not None and d_bias is not None:
                weights = weight[part, None].to(wide)
                d_logits = odds.mul_(weights / total)
                d_logits.scatter_add_(1, aim, -weights)
                d_bias += d_logits.sum(0)
                d_logits = d_logits.to(rows.dtype)
                d_hidden[place[part]] = (d_logits @ matrix).to(hidden.dtype)
                d_matrix += d_logits.T @ rows
        ctx.save_for_backward(d_hidden, d_matrix, d_bias)
        ctx.mark_non_differentiable(losses)
        return (losses * weight.to(wide)).sum(), losses

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor, _losses: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        d_hidden, d_matrix, d_bias = ctx.saved_tensors
        return d_hidden * gradient, d_matrix * gradient, d_bias * gradient, None, None, None


def chunked_cross_entropy(
    hidden: Tensor, matrix: Tensor, bias: Tensor, place: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy at chosen positions, in nats.

    Args:
        hidden: (T, d).
        matrix: output layer (V, d).
        bias: of the output layer (V,).
        place: int64 (n,), distinct positions into `hidden`.
        target: int64 (n,), the token each position has to predict.
        weight: (n,), weight of each term.

    Returns:
        The weighted sum, differentiable in `hidden`, `matrix` and `bias`, and each unweighted term
        (n,).
    """
    arguments = (hidden, matrix, bias, place, target, weight)
    total, losses = ChunkedCrossEntropy.apply(*arguments)  # type: ignore[no-untyped-call]
    return total, losses
