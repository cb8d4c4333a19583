"""torch's FlexAttention with our mask and bias: an oracle on a GPU, and what we are timed against.

It holds a and tau constant: it would sum their gradients with atomics, in no fixed order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from chronoward.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from chronoward.kernels.varlen_attention.layout import Layout, TimeBias

    Score = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def block_mask(layout: Layout, row_tokens: int) -> BlockMask:
    """Which blocks of keys the blocks of queries see, in rows of `row_tokens`."""
    time_min, cu_seqlens, kv_end = layout
    position = torch.arange(len(time_min), device=time_min.device)
    place = torch.searchsorted(cu_seqlens.long(), position, right=True)
    is_inside = (place > 0) & (place < len(cu_seqlens))
    start = cu_seqlens.long()[(place - 1).clamp(min=0)]
    end = (position + 1) if kv_end is None else kv_end.long()
    end = torch.where(is_inside, end, 0)  # sees nothing

    def is_seen(b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        query, key = b * row_tokens + i, b * row_tokens + j
        return (key >= start[query]) & (key < end[query])

    n_rows = len(time_min) // row_tokens
    return create_block_mask(is_seen, n_rows, None, row_tokens, row_tokens, device=time_min.device)


def score_mod(layout: Layout, bias: TimeBias, row_tokens: int) -> Score | None:
    """What is taken from the score of a query and a key; None without a bias."""
    time_min, a, tau = layout.time_min, bias.a, bias.tau
    if bias.kind == "none":
        return None

    def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        query, key = b * row_tokens + i, b * row_tokens + j
        x = (time_min[query] - time_min[key]).abs().float() / tau[h]
        return score - a[h] * (torch.log1p(x) if bias.kind == "log" else x)

    return biased


def in_rows(x: Tensor, row_tokens: int) -> Tensor:
    """(T, H, D) as (rows, H, row_tokens, D), a view."""
    return x.reshape(-1, row_tokens, *x.shape[1:]).transpose(1, 2)


def flex_backend(q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: TimeBias) -> Tensor:
    """Attention of one packed row; arguments as in `cpu.forward`.

    Returns:
        (T, H, D); gradients reach q, k and v, on a GPU only.

    Raises:
        ConfigError: a or tau ask for a gradient.
    """
    if bias.a.requires_grad or bias.tau.requires_grad:
        message = "backend 'flex' gives no gradient of a and tau: pass them detached"
        raise ConfigError(message)
    n_tokens = q.shape[0]
    attend: Any = torch.compile(flex_attention) if q.is_cuda else flex_attention
    out: Tensor = attend(
        *(in_rows(x, n_tokens) for x in (q, k, v)),
        score_mod=score_mod(layout, bias, n_tokens),
        block_mask=block_mask(layout, n_tokens),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[0].transpose(0, 1)
