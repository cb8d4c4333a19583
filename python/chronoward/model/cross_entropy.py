"""Cross-entropy whose logits never exist for all positions at once.

The gradient of a chunk's loss is known as soon as its logits are, so all gradients are made in the
forward pass, chunk by chunk, and the logits are overwritten: memory is one chunk times V, and the
output layer's product is not computed a second time. On a CPU what lies between the products is one
C++ pass over each row; elsewhere, and in fp64, it is torch (the oracle of the other).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from chronoward import _core

CHUNK = 1024  # positions whose logits exist together


class Repeats(NamedTuple):
    """Which tokens get a bias at each position because its context holds them already.

    Attributes:
        bias: (V,).
        offsets: int64 (n + 1,), bounds of each position's tokens in `token_id`.
        token_id: int32, distinct tokens of each position's context.
    """

    bias: Tensor
    offsets: Tensor
    token_id: Tensor

    def rows(self, first: int, n: int) -> tuple[Tensor, Tensor]:
        """Offsets from zero and tokens of positions first .. first + n."""
        offsets = self.offsets[first : first + n + 1]
        return offsets - offsets[0], self.token_id[int(offsets[0]) : int(offsets[-1])]


class _Gradients:
    """What one pass adds up."""

    def __init__(self, hidden: Tensor, matrix: Tensor, bias: Tensor, repeat: Tensor | None) -> None:
        self.hidden, self.matrix, self.bias = (torch.zeros_like(x) for x in (hidden, matrix, bias))
        self.repeat = None if repeat is None else torch.zeros_like(repeat)


def _torch_rows(
    logits: Tensor,
    bias: Tensor,
    target: Tensor,
    weight: Tensor,
    repeats: Repeats | None,
    rows: tuple[Tensor, Tensor] | None,
    gradients: _Gradients | None,
) -> Tensor:
    """Turns logits into their gradient, adds the biases' gradients; returns the losses."""
    logits.add_(bias)
    place = None
    if repeats is not None and rows is not None:
        offsets, token_id = rows
        row = torch.repeat_interleave(
            torch.arange(len(target), device=logits.device), offsets.diff().to(logits.device)
        )
        place = row * logits.shape[1] + token_id.long()
        logits.view(-1).index_add_(0, place, repeats.bias[token_id.long()].to(logits.dtype))
    aim = target[:, None]
    chosen = logits.gather(1, aim)
    peak = logits.amax(dim=1, keepdim=True)
    odds = logits.sub_(peak).exp_()
    total = odds.sum(dim=1, keepdim=True)
    losses = (peak + total.log() - chosen).squeeze(1)
    if gradients is not None:
        d_logits = odds.mul_(weight[:, None] / total)
        d_logits.scatter_add_(1, aim, -weight[:, None])
        gradients.bias += d_logits.sum(0)
        if gradients.repeat is not None and rows is not None and place is not None:
            values = d_logits.view(-1)[place].to(gradients.repeat.dtype)
            gradients.repeat.index_add_(0, rows[1].long(), values)
    return losses


def _cpu_rows(
    logits: Tensor,
    bias: Tensor,
    target: Tensor,
    weight: Tensor,
    repeats: Repeats | None,
    rows: tuple[Tensor, Tensor] | None,
    gradients: _Gradients | None,
) -> Tensor:
    """`_torch_rows` in one C++ pass, fp32 on the CPU."""
    losses = torch.empty(len(target))
    nothing = torch.zeros(0)
    offsets, token_id = rows or (torch.zeros(0, dtype=torch.int64), nothing.int())
    d_bias = torch.zeros_like(bias) if gradients is None else gradients.bias
    repeat = nothing if repeats is None else repeats.bias
    d_repeat = torch.zeros_like(repeat)
    if gradients is not None and gradients.repeat is not None:
        d_repeat = gradients.repeat
    _core.cross_entropy(
        *(logits.numpy(), bias.numpy(), target.numpy(), weight.numpy()),
        *(repeat.numpy(), offsets.numpy(), token_id.numpy()),
        *(losses.numpy(), d_bias.numpy(), d_repeat.numpy()),
        torch.get_num_threads(),
    )
    return losses


class ChunkedCrossEntropy(torch.autograd.Function):
    """Σ w_i · −log softmax(h_i Wᵀ + b + r_i)[y_i] over chosen positions, and the unweighted terms;
    r_i is the repeat bias where position i's context holds the token, else 0."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        matrix: Tensor,
        bias: Tensor,
        repeat_bias: Tensor | None,
        place: Tensor,
        target: Tensor,
        weight: Tensor,
        seen: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        wants_gradient = hidden.requires_grad or matrix.requires_grad
        gradients = _Gradients(hidden, matrix, bias, repeat_bias) if wants_gradient else None
        repeats = None
        if repeat_bias is not None and seen is not None:
            repeats = Repeats(repeat_bias.detach(), *seen)
        weight = weight.to(wide)
        losses = torch.empty(place.shape[0], dtype=wide, device=hidden.device)
        is_fast = hidden.device.type == "cpu" and wide == torch.float32
        pass_over = _cpu_rows if is_fast else _torch_rows
        for first in range(0, place.shape[0], CHUNK):
            part = slice(first, first + CHUNK)
            rows = hidden[place[part]]
            logits = (rows @ matrix.T).to(wide)
            seen_here = None if repeats is None else repeats.rows(first, len(rows))
            losses[part] = pass_over(
                logits, bias.detach(), target[part], weight[part], repeats, seen_here, gradients
            )
            if gradients is not None:
                d_logits = logits.to(rows.dtype)
                gradients.hidden[place[part]] = (d_logits @ matrix).to(hidden.dtype)
                gradients.matrix += d_logits.T @ rows
        if gradients is not None:
            ctx.save_for_backward(gradients.hidden, gradients.matrix, gradients.bias)
            ctx.repeat = gradients.repeat
        ctx.mark_non_differentiable(losses)
        return (losses * weight).sum(), losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _losses: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_matrix, d_bias = ctx.saved_tensors
        d_repeat = None if ctx.repeat is None else ctx.repeat * gradient
        scaled = (d_hidden * gradient, d_matrix * gradient, d_bias * gradient)
        return (*scaled, d_repeat, None, None, None, None)


def chunked_cross_entropy(
    hidden: Tensor,
    matrix: Tensor,
    bias: Tensor,
    place: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    repeat_bias: Tensor | None = None,
    seen: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy at chosen positions, in nats.

    Args:
        hidden: (T, d).
        matrix: output layer (V, d).
        bias: of the output layer (V,).
        place: int64 (n,), distinct positions into `hidden`.
        target: int64 (n,), the token each position has to predict.
        weight: (n,), weight of each term.
        repeat_bias: (V,), added where the position's context holds the token.
        seen: which tokens those are: int64 (n + 1,) offsets and int32 tokens (`seen_lists`).

    Returns:
        The weighted sum, differentiable in `hidden`, `matrix`, `bias` and `repeat_bias`, and each
        unweighted term (n,).
    """
    arguments = (hidden, matrix, bias, repeat_bias, place, target, weight, seen)
    total, losses = ChunkedCrossEntropy.apply(*arguments)  # type: ignore[no-untyped-call]
    return total, losses


def seen_lists(
    token_id: Tensor, cu_seqlens: Tensor, place: Tensor, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Distinct tokens of each position's segment, up to and including the position.

    Args:
        token_id: int64 (T,), a packed row.
        cu_seqlens: int32 (n + 1,), bounds of its segments.
        place: int64 (n,), ascending positions inside segments.
        vocab_size: V.

    Returns:
        int64 (n + 1,) offsets and int32 tokens.

    Raises:
        ValueError: positions out of order or outside every segment, a token outside the vocabulary.
    """
    row, bounds, places = (x.cpu().contiguous().numpy() for x in (token_id, cu_seqlens, place))
    offsets, tokens = _core.seen_lists(row, bounds, places, vocab_size)
    device = token_id.device
    return torch.from_numpy(offsets).to(device), torch.from_numpy(tokens).to(device)
