"""The truth: one dense (T, T) score matrix over a packed row, in plain torch.

Memory grows with the square of the row, so this is for tests and as the fallback where no faster
backend runs. Computes in fp32 (fp64 inputs stay fp64), whatever the inputs' dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_of(cu_seqlens: Tensor, n_tokens: int) -> Tensor:
    """Index of each token's segment, -1 for tokens past the last bound.  # (T,)"""
    position = torch.arange(n_tokens, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    segment = torch.searchsorted(cu_seqlens, position, right=True) - 1
    return torch.where(position < cu_seqlens[-1], segment, -1)


def time_bias(
    time_min: Tensor, bias: str, a: Tensor, tau: Tensor, dtype: torch.dtype
) -> Tensor | float:
    """-a_h * f(|t_i - t_j| / tau_h), or 0 without a bias.  # (H, T, T)

    Minutes are subtracted as integers: fp32 minutes since birth would lose whole minutes.
    """
    if bias == "none":
        return 0.0
    elapsed = (time_min[:, None] - time_min[None, :]).abs().to(dtype)
    x = elapsed / tau.to(dtype)[:, None, None]
    return -a.to(dtype)[:, None, None] * (torch.log1p(x) if bias == "log" else x)


def varlen_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    time_min: Tensor,
    cu_seqlens: Tensor,
    kv_end: Tensor,
    a: Tensor,
    tau: Tensor,
    bias: str,
) -> Tensor:
    """Attention of each query over the keys of its segment before `kv_end`.

    Args:
        q: (T, H, D).
        k: (T, Hkv, D); H is a multiple of Hkv.
        v: (T, Hkv, D).
        time_min: int32 (T,), minutes.
        cu_seqlens: int32 (n_segments + 1,), non-decreasing.
        kv_end: int32 (T,), absolute end of the keys that query i sees.
        a: (H,), strength of the bias, >= 0 (unused for `none`).
        tau: (H,), scale of the bias in minutes, > 0 (unused for `none`).
        bias: `log`, `linear` or `none`.

    Returns:
        (T, H, D) in q's dtype; zero for tokens outside every segment.
    """
    n_tokens, n_heads, d_head = q.shape
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    group = n_heads // k.shape[1]
    k_all = k.to(dtype).repeat_interleave(group, dim=1)
    v_all = v.to(dtype).repeat_interleave(group, dim=1)
    segment = segment_of(cu_seqlens, n_tokens)
    position = torch.arange(n_tokens, device=q.device)
    visible = (
        (segment[:, None] == segment[None, :])
        & (segment[:, None] >= 0)
        & (position[None, :] < kv_end[:, None])
    )
    scores = torch.einsum("ihd,jhd->hij", q.to(dtype), k_all) * d_head**-0.5
    scores = scores + time_bias(time_min, bias, a, tau, dtype)
    # rows that see nothing: softmax over zeros, then zeroed (softmax of all -inf would be NaN)
    inside = visible.any(dim=1)
    scores = scores.masked_fill(~visible & inside[:, None], float("-inf"))
    weights = torch.softmax(scores, dim=-1) * inside[:, None].to(dtype)
    return torch.einsum("hij,jhd->ihd", weights, v_all).to(q.dtype)
