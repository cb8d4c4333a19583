"""Attention over pages in plain torch: every row's keys are gathered, then one dense softmax.

Memory grows with rows times the longest context, so this is for tests and as the fallback where
Triton does not run. Computes in fp32 (fp64 queries stay fp64), whatever the pages' dtype.
"""

from __future__ import annotations

import torch
from chronoward.kernels.decode_attention.pages import FP8, Pages, Rows
from torch import Tensor


def _unpacked(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) * scale.to(dtype)[..., None] if x.dtype == FP8 else x.to(dtype)


def _tokens(table: Tensor, length: Tensor, page_tokens: int) -> tuple[Tensor, Tensor]:
    """Page and slot in it of each place up to the table's width, and whether a token is there."""
    place = torch.arange(table.shape[1] * page_tokens, device=table.device)
    is_there = place < length[:, None]
    page = table.long().repeat_interleave(page_tokens, dim=1)
    return torch.where(is_there, page, 0) * page_tokens + place % page_tokens, is_there


def paged_attention_reference(
    q: Tensor, pages: Pages, rows: Rows, a: Tensor, tau: Tensor, bias: str
) -> Tensor:
    """One query a row over its prefix and its own tokens.

    Args:
        q: (R, H, D).
        pages: see `Pages`.
        rows: see `Rows`; `order` and `first` are not used.
        a: (H,), strength of the bias, >= 0 (unused for `none`).
        tau: (H,), scale of the bias in minutes, > 0 (unused for `none`).
        bias: `log`, `linear` or `none`.

    Returns:
        (R, H, D) in q's dtype; zero for idle rows.
    """
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    n_heads, d_head = q.shape[1:]
    has_prefix = (rows.prefix >= 0) & (rows.length > 0)
    prefix = rows.prefix.clamp(min=0).long()
    parts = (
        (rows.prefix_table[prefix], rows.prefix_length[prefix] * has_prefix),
        (rows.table, rows.length),
    )
    found = [_tokens(table, length, pages.page_tokens) for table, length in parts]
    place, is_key = (torch.cat(x, dim=1) for x in zip(*found, strict=True))  # (R, T)
    page, slot = place // pages.page_tokens, place % pages.page_tokens
    scales = (pages.key_scale, pages.value_scale)
    if pages.keys.dtype == FP8:
        scales = tuple(x[page, :, slot] for x in scales)  # type: ignore[assignment]
    group = n_heads // pages.keys.shape[1]
    k, v = (
        _unpacked(x[page, :, slot], scale, dtype)
        .masked_fill(~is_key[..., None, None], 0.0)
        .repeat_interleave(group, dim=2)
        for x, scale in zip((pages.keys, pages.values), scales, strict=True)
    )  # (R, T, H, D)
    scores = torch.einsum("rhd,rthd->rht", q.to(dtype), k) * d_head**-0.5
    if bias != "none":
        elapsed = (rows.time_min[:, None] - pages.time_min[page, slot]).abs().to(dtype)
        x = elapsed[:, None] / tau.to(dtype)[:, None]
        scores = scores - a.to(dtype)[:, None] * (torch.log1p(x) if bias == "log" else x)
    busy = is_key.any(dim=1)[:, None, None]
    scores = scores.masked_fill(~is_key[:, None] & busy, float("-inf"))
    weights = torch.softmax(scores, dim=-1) * busy
    return torch.einsum("rht,rthd->rhd", weights, v).to(q.dtype)
