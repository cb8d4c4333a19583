"""Cross-entropy whose logits never exist for all positions at once.

The gradient of a chunk's loss is known as soon as its logits are, so all gradients are made in the
forward pass, chunk by chunk, and the logits are overwritten: memory is one chunk times V, and the
output layer's product is not computed a second time. On a CPU what lies between the products is one
C++ pass over each row; elsewhere, and in fp64, it is torch (the oracle of the others), or liger's
Triton kernel where that is asked for.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from chronoward import _core
from chronoward.errors import ConfigError
from chronoward.kernels.varlen_attention.tiles import interprets
from chronoward.model.fused_rows import weights_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chronoward.model.batch import OutputSample
    from chronoward.model.context_bias import Context

CHUNK = 1024  # positions whose logits exist together
LOSS_BACKENDS = ("liger",)


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


def _torch_losses(
    logits: Tensor, chunk: _Chunk, gradients: _Gradients | None
) -> tuple[Tensor, Tensor]:
    """Losses of logits with their biases, and the logits' gradient, which takes their place."""
    aim = chunk.target[:, None]
    chosen = logits.gather(1, aim)
    peak = logits.amax(dim=1, keepdim=True)
    odds = logits.sub_(peak).exp_()
    total = odds.sum(dim=1, keepdim=True)
    losses = (peak + total.log() - chosen).squeeze(1)
    if gradients is not None:
        odds.mul_(chunk.weight[:, None] / total).scatter_add_(1, aim, -chunk.weight[:, None])
    return losses, odds


def _liger_losses(
    logits: Tensor, chunk: _Chunk, gradients: _Gradients | None
) -> tuple[Tensor, Tensor]:
    """`_torch_losses` by liger's kernel, which goes over each row twice."""
    from liger_kernel.transformers.functional import liger_cross_entropy

    with torch.enable_grad():
        leaf = logits.detach().requires_grad_(gradients is not None)
        losses = liger_cross_entropy(leaf, chunk.target, reduction="none")
    if gradients is None:
        return losses, logits
    (d_logits,) = torch.autograd.grad(losses, leaf, chunk.weight)
    return losses.detach(), d_logits


def _torch_rows(
    logits: Tensor,
    chunk: _Chunk,
    gradients: _Gradients | None,
    losses_of: Callable[..., tuple[Tensor, Tensor]] = _torch_losses,
) -> tuple[Tensor, Tensor]:
    """Adds the biases and, from the logits' gradient, the biases' gradients.

    Returns:
        The losses (n,), and the gradient (n, V) where one is asked for.
    """
    kind, entry = chunk.context.kind, chunk.context.entry.long()
    row = chunk.context.rows()
    column, cell = entry % logits.shape[1], (kind[row], entry)
    logits.add_(chunk.unseen[kind])
    logits.index_put_((row, column), chunk.known[cell].to(logits.dtype), accumulate=True)
    losses, d_logits = losses_of(logits, chunk, gradients)
    if gradients is not None:
        if gradients.unseen is not None:
            gradients.unseen.index_add_(0, kind, d_logits.to(gradients.unseen.dtype))
        if gradients.known is not None:
            d_known = d_logits[row, column].to(gradients.known.dtype)
            gradients.known.index_put_(cell, d_known, accumulate=True)
    return losses, d_logits


def _liger_rows(
    logits: Tensor, chunk: _Chunk, gradients: _Gradients | None
) -> tuple[Tensor, Tensor]:
    """`_torch_rows` with liger's losses."""
    return _torch_rows(logits, chunk, gradients, _liger_losses)


def _cpu_rows(logits: Tensor, chunk: _Chunk, gradients: _Gradients | None) -> tuple[Tensor, Tensor]:
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
    return losses, logits


def check_loss_backend(name: str | None) -> None:
    """Raises ConfigError for a backend of the loss that is not known or not installed."""
    if name is None:
        return
    if name not in LOSS_BACKENDS:
        message = f"the loss's backend must be one of {LOSS_BACKENDS} or None, got {name!r}"
        raise ConfigError(message)
    if find_spec("liger_kernel") is None or find_spec("triton") is None:
        message = "the loss's backend 'liger' needs liger-kernel: pip install 'chronoward[liger]'"
        raise ConfigError(message)


def _pass_over(
    hidden: Tensor, wide: torch.dtype, backend: str | None
) -> Callable[..., tuple[Tensor, Tensor]]:
    """What goes over the rows of logits."""
    if backend == "liger":
        if not (hidden.is_cuda or interprets()) or wide != torch.float32:
            message = (
                f"the loss's backend 'liger' needs a CUDA device and fp32, fp16 or bf16, got "
                f"{hidden.dtype} on {hidden.device.type}; leave it out"
            )
            raise ConfigError(message)
        return _liger_rows
    is_fast = hidden.device.type == "cpu" and wide == torch.float32
    return _cpu_rows if is_fast else _torch_rows


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
        terms: tuple[Tensor, Tensor, Tensor],
        context: Context,
        backend: str | None,
    ) -> tuple[Tensor, Tensor]:
        place, target, weight = terms
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        needed = ctx.needs_input_grad[:4]
        inputs = (hidden, matrix, unseen, known)
        gradients = _Gradients(inputs, needed) if any(needed) else None
        unseen, known, weight = weights_of(unseen), weights_of(known), weight.to(wide)
        losses = torch.empty(place.shape[0], dtype=wide, device=hidden.device)
        pass_over = _pass_over(hidden, wide, backend)
        for first in range(0, place.shape[0], CHUNK):
            part = slice(first, first + CHUNK)
            rows = hidden[place[part]]
            logits = (rows @ matrix.T).to(wide)
            held = context.part(first, first + len(rows))
            chunk = _Chunk(target[part], weight[part], unseen, known, held)
            losses[part], d_logits = pass_over(logits, chunk, gradients)
            if gradients is None:
                continue
            d_logits = d_logits.to(rows.dtype)
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
        return (*scaled, None, None, None)


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
    backend: str | None = None,
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
        backend: `liger` on a GPU: its kernel makes losses and their gradient of logits; None
            chooses by device and dtype.

    Returns:
        The weighted sum, differentiable in the first four, and each unweighted term (n,).

    Raises:
        ConfigError: a backend that does not take these tensors.
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
    arguments = (*inputs, (place, target, weight), context, backend)
    total, losses = ChunkedCrossEntropy.apply(*arguments)  # type: ignore[no-untyped-call]
    return total, losses
