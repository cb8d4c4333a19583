"""Cross-entropy whose logits never exist for all positions at once.

The gradient of a chunk's loss is known as soon as its logits are, so all gradients are made in the
forward pass, chunk by chunk, and the logits are overwritten: memory is one chunk times V, and the
output layer's product is not computed a second time. On a CPU what lies between the products is one
C++ pass over each row; elsewhere, and in fp64, it is torch (the oracle of the other).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from chronoward import _core

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chronoward.model.batch import OutputSample

CHUNK = 1024  # positions whose logits exist together


class _Chunk(NamedTuple):
    """Positions whose logits exist together, and the biases.

    Attributes:
        target: int64 (n,).
        weight: (n,).
        bias: (V,).
        repeat_bias: (V,), for tokens that a position's context holds; None: no such bias.
        offsets: int64 (n + 1,), bounds of each position's tokens in `token_id`, from 0.
        token_id: int32, distinct tokens of each position's context.
    """

    target: Tensor
    weight: Tensor
    bias: Tensor
    repeat_bias: Tensor | None
    offsets: Tensor
    token_id: Tensor


class _Gradients:
    """What one pass adds up; None where no gradient is asked for.

    Args:
        needed: of hidden states, matrix, bias and repeat bias, which are.
    """

    def __init__(
        self,
        hidden: Tensor,
        matrix: Tensor,
        bias: Tensor,
        repeat: Tensor | None,
        needed: Sequence[bool],
    ) -> None:
        self.hidden = torch.zeros_like(hidden) if needed[0] else None
        self.matrix = torch.zeros_like(matrix) if needed[1] else None
        self.bias = torch.zeros_like(bias)
        self.repeat = None if repeat is None else torch.zeros_like(repeat)


def list_rows(offsets: Tensor) -> Tensor:
    """Which list each of the listed tokens is in: int64 (n + 1,) offsets from 0 -> int64."""
    lists = torch.arange(len(offsets) - 1, device=offsets.device)
    return torch.repeat_interleave(lists, offsets.diff())


def _torch_rows(logits: Tensor, chunk: _Chunk, gradients: _Gradients | None) -> Tensor:
    """Turns logits into their gradient, adds the biases' gradients; returns the losses."""
    logits.add_(chunk.bias)
    token = chunk.token_id.long()
    row = list_rows(chunk.offsets)
    if chunk.repeat_bias is not None:
        logits.index_put_((row, token), chunk.repeat_bias[token].to(logits.dtype), accumulate=True)
    aim = chunk.target[:, None]
    chosen = logits.gather(1, aim)
    peak = logits.amax(dim=1, keepdim=True)
    odds = logits.sub_(peak).exp_()
    total = odds.sum(dim=1, keepdim=True)
    losses = (peak + total.log() - chosen).squeeze(1)
    if gradients is not None:
        d_logits = odds.mul_(chunk.weight[:, None] / total)
        d_logits.scatter_add_(1, aim, -chunk.weight[:, None])
        gradients.bias += d_logits.sum(0)
        if gradients.repeat is not None:
            gradients.repeat.index_add_(0, token, d_logits[row, token].to(gradients.repeat.dtype))
    return losses


def _cpu_rows(logits: Tensor, chunk: _Chunk, gradients: _Gradients | None) -> Tensor:
    """`_torch_rows` in one C++ pass, fp32 on the CPU."""
    losses = torch.empty(len(logits))
    repeat = torch.zeros(0) if chunk.repeat_bias is None else chunk.repeat_bias
    d_bias, d_repeat = torch.zeros_like(chunk.bias), torch.zeros_like(repeat)
    if gradients is not None:
        d_bias = gradients.bias
        d_repeat = d_repeat if gradients.repeat is None else gradients.repeat
    _core.cross_entropy(
        logits.numpy(),
        chunk.bias.numpy(),
        chunk.target.numpy(),
        chunk.weight.numpy(),
        repeat.numpy(),
        chunk.offsets.numpy(),
        chunk.token_id.numpy(),
        losses.numpy(),
        d_bias.numpy(),
        d_repeat.numpy(),
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
        needed = ctx.needs_input_grad[:4]
        gradients = _Gradients(hidden, matrix, bias, repeat_bias, needed) if any(needed) else None
        again = None if repeat_bias is None else repeat_bias.detach()
        bounds, token_id = seen or (place.new_zeros(len(place) + 1), place.new_zeros(0).int())
        weight = weight.to(wide)
        losses = torch.empty(place.shape[0], dtype=wide, device=hidden.device)
        is_fast = hidden.device.type == "cpu" and wide == torch.float32
        pass_over = _cpu_rows if is_fast else _torch_rows
        for first in range(0, place.shape[0], CHUNK):
            part = slice(first, first + CHUNK)
            rows = hidden[place[part]]
            logits = (rows @ matrix.T).to(wide)
            offsets = bounds[first : first + len(rows) + 1]
            tokens = token_id[int(offsets[0]) : int(offsets[-1])]
            chunk = _Chunk(
                target[part], weight[part], bias.detach(), again, offsets - offsets[0], tokens
            )
            losses[part] = pass_over(logits, chunk, gradients)
            if gradients is None:
                continue
            d_logits = logits.to(rows.dtype)
            if gradients.hidden is not None:
                gradients.hidden[place[part]] = (d_logits @ matrix).to(hidden.dtype)
            if gradients.matrix is not None:
                gradients.matrix += d_logits.T @ rows
        if gradients is not None:
            ctx.made = (gradients.hidden, gradients.matrix, gradients.bias, gradients.repeat)
        ctx.mark_non_differentiable(losses)
        return (losses * weight).sum(), losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _losses: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if made is None else made * gradient for made in ctx.made]
        return (*scaled, None, None, None, None)


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
    sample: OutputSample | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy at chosen positions, in nats.

    With a sample, the sum over the vocabulary is estimated from its tokens (importance sampling,
    Bengio and Senécal 2008, doi:10.1109/TNN.2007.912312): unbiased itself, its logarithm too low by
    half its relative variance.

    Args:
        hidden: (T, d).
        matrix: output layer (V, d).
        bias: of the output layer (V,).
        place: int64 (n,), distinct positions into `hidden`.
        target: int64 (n,), the token each position has to predict.
        weight: (n,), weight of each term.
        repeat_bias: (V,), added where the position's context holds the token.
        seen: which tokens those are: int64 (n + 1,) offsets and int32 tokens (`seen_lists`).
        sample: holds the targets and the tokens of `seen`; None: logits of the whole vocabulary.

    Returns:
        The weighted sum, differentiable in `hidden`, `matrix`, `bias` and `repeat_bias`, and each
        unweighted term (n,).
    """
    if sample is not None:
        column = sample.columns(len(bias))
        matrix, bias = matrix[sample.token_id], bias[sample.token_id] + sample.log_weight
        repeat_bias = None if repeat_bias is None else repeat_bias[sample.token_id]
        target = column[target]
        seen = None if seen is None else (seen[0], column[seen[1].long()].int())
    inputs: list[Tensor | None] = [hidden, matrix, bias, repeat_bias]
    if (
        not torch.is_grad_enabled()
    ):  # inside the function a parameter would still ask for its gradient
        inputs = [None if x is None else x.detach() for x in inputs]
    arguments = (*inputs, place, target, weight, seen)
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
