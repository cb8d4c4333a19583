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
from chronoward.model.fused_rows import weights_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chronoward.model.batch import OutputSample
    from chronoward.model.context_bias import Context

CHUNK = 1024  # positions whose logits exist together


class _Chunk(NamedTuple):
    """Positions whose logits exist together, and the biases.

    Attributes:
        target: int64 (n,).
        weight: (n,).
        unseen: (K, V), see `ContextBias`.
        known: (K, 2V).
        context: of the positions.
    """

    target: Tensor
    weight: Tensor
    unseen: Tensor
    known: Tensor
    context: Context


class _Gradients:
    """What one pass adds up; None where no gradient is asked for.

    Args:
        inputs: hidden states, matrix, biases of unseen and of known tokens.
        needed: which of them.
    """

    def __init__(self, inputs: Sequence[Tensor], needed: Sequence[bool]) -> None:
        self.hidden, self.matrix, self.unseen, self.known = (
            torch.zeros_like(x) if is_needed else None
            for x, is_needed in zip(inputs, needed, strict=True)
        )


def _torch_rows(logits: Tensor, chunk: _Chunk, gradients: _Gradients | None) -> Tensor:
    """Turns logits into their gradient, adds the biases' gradients; returns the losses."""
    kind, entry = chunk.context.kind, chunk.context.entry.long()
    row = chunk.context.rows()
    column, cell = entry % logits.shape[1], (kind[row], entry)
    logits.add_(chunk.unseen[kind])
    logits.index_put_((row, column), chunk.known[cell].to(logits.dtype), accumulate=True)
    aim = chunk.target[:, None]
    chosen = logits.gather(1, aim)
    peak = logits.amax(dim=1, keepdim=True)
    odds = logits.sub_(peak).exp_()
    total = odds.sum(dim=1, keepdim=True)
    losses = (peak + total.log() - chosen).squeeze(1)
    if gradients is not None:
        d_logits = odds.mul_(chunk.weight[:, None] / total)
        d_logits.scatter_add_(1, aim, -chunk.weight[:, None])
        if gradients.unseen is not None:
            gradients.unseen.index_add_(0, kind, d_logits.to(gradients.unseen.dtype))
        if gradients.known is not None:
            d_known = d_logits[row, column].to(gradients.known.dtype)
            gradients.known.index_put_(cell, d_known, accumulate=True)
    return losses


def _cpu_rows(logits: Tensor, chunk: _Chunk, gradients: _Gradients | None) -> Tensor:
    """`_torch_rows` in one C++ pass, fp32 on the CPU."""
    losses, nothing = torch.empty(len(logits)), torch.zeros(0)
    d_unseen = d_known = nothing
    if gradients is not None:
        d_unseen = nothing if gradients.unseen is None else gradients.unseen
        d_known = nothing if gradients.known is None else gradients.known
    _core.cross_entropy(
        logits.numpy(),
        chunk.unseen.numpy(),
        chunk.known.numpy(),
        chunk.target.numpy(),
        chunk.weight.numpy(),
        chunk.context.kind.numpy(),
        chunk.context.offsets.numpy(),
        chunk.context.entry.numpy(),
        losses.numpy(),
        d_unseen.numpy(),
        d_known.numpy(),
        torch.get_num_threads(),
    )
    return losses


class ChunkedCrossEntropy(torch.autograd.Function):
    """Σ w_i · −log softmax(h_i Wᵀ + b_i)[y_i] over chosen positions, and the unweighted terms; b_i
    are the biases of position i's context (`ContextBias`)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        matrix: Tensor,
        unseen: Tensor,
        known: Tensor,
        place: Tensor,
        target: Tensor,
        weight: Tensor,
        context: Context,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        needed = ctx.needs_input_grad[:4]
        inputs = (hidden, matrix, unseen, known)
        gradients = _Gradients(inputs, needed) if any(needed) else None
        unseen, known, weight = weights_of(unseen), weights_of(known), weight.to(wide)
        losses = torch.empty(place.shape[0], dtype=wide, device=hidden.device)
        is_fast = hidden.device.type == "cpu" and wide == torch.float32
        pass_over = _cpu_rows if is_fast else _torch_rows
        for first in range(0, place.shape[0], CHUNK):
            part = slice(first, first + CHUNK)
            rows = hidden[place[part]]
            logits = (rows @ matrix.T).to(wide)
            held = context.part(first, first + len(rows))
            chunk = _Chunk(target[part], weight[part], unseen, known, held)
            losses[part] = pass_over(logits, chunk, gradients)
            if gradients is None:
                continue
            d_logits = logits.to(rows.dtype)
            if gradients.hidden is not None:
                gradients.hidden[place[part]] = (d_logits @ matrix).to(hidden.dtype)
            if gradients.matrix is not None:
                gradients.matrix += d_logits.T @ rows
        if gradients is not None:
            ctx.made = (gradients.hidden, gradients.matrix, gradients.unseen, gradients.known)
        ctx.mark_non_differentiable(losses)
        return (losses * weight).sum(), losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _losses: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if made is None else made * gradient for made in ctx.made]
        return (*scaled, None, None, None, None)


def chunked_cross_entropy(
    hidden: Tensor,
    matrix: Tensor,
    unseen: Tensor,
    known: Tensor,
    place: Tensor,
    target: Tensor,
    weight: Tensor,
    context: Context,
    *,
    sample: OutputSample | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy at chosen positions, in nats.

    With a sample, the sum over the vocabulary is estimated from its tokens (importance sampling,
    Bengio and Senécal 2008, doi:10.1109/TNN.2007.912312): unbiased itself, its logarithm too low by
    half its relative variance.

    Args:
        hidden: (T, d).
        matrix: output layer (V, d).
        unseen: biases of the output layer (K, V), see `ContextBias`.
        known: (K, 2V).
        place: int64 (n,), distinct positions into `hidden`.
        target: int64 (n,), the token each position has to predict.
        weight: (n,), weight of each term.
        context: of the positions, made with the same sample.
        sample: holds the targets and the tokens of the contexts; None: logits of the whole
            vocabulary.

    Returns:
        The weighted sum, differentiable in the first four, and each unweighted term (n,).
    """
    if sample is not None:
        token, vocab_size = sample.token_id, unseen.shape[1]
        target = sample.columns(vocab_size)[target]
        matrix, unseen = matrix[token], unseen[:, token] + sample.log_weight
        known = known[:, torch.cat([token, token + vocab_size])]
    inputs = [hidden, matrix, unseen, known]
    if (
        not torch.is_grad_enabled()
    ):  # inside the function a parameter would still ask for its gradient
        inputs = [x.detach() for x in inputs]
    arguments = (*inputs, place, target, weight, context)
    total, losses = ChunkedCrossEntropy.apply(*arguments)  # type: ignore[no-untyped-call]
    return total, losses
