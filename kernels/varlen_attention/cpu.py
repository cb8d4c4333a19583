"""The fast path on a CPU: segments of like length share padded tiles, and the gradient is written
out by hand.

Autograd through a dense mask would keep (H, L, L) scores of every layer; here only the output and
the log-sum-exp are kept and the scores are computed again in the backward pass. Tiles run one after
the other in a fixed order, and no two threads add to one number, so the bytes do not depend on
timing. Inputs of any dtype are computed in fp32 (fp64 stays fp64).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_QUERIES = 256  # longer segments are cut into query blocks: causal tiles waste half of L x L
TILE_SCORES = 1 << 19  # scores a tile and head: what stays in the second-level cache
LENGTH_SLACK = 0.8  # segments down to this share of a tile's longest join it
NEGATIVE_INFINITY = float("-inf")


class Layout(NamedTuple):
    """Where the tokens of a packed row lie, in time and among segments."""

    time_min: Tensor  # int32 (T,)
    cu_seqlens: Tensor  # int32 (n + 1,)
    kv_end: Tensor | None  # int32 (T,)


class TimeBias(NamedTuple):
    """The time bias and its parameters."""

    kind: str
    a: Tensor  # (H,)
    tau: Tensor  # (H,)

    def to(self, dtype: torch.dtype) -> TimeBias:
        """The same in another dtype."""
        return TimeBias(self.kind, self.a.to(dtype), self.tau.to(dtype))


@dataclass(frozen=True, eq=False)
class Tile:
    """Queries of several segments, padded to one shape, and the keys they may see.

    Padded places repeat the segment's last token, so that every number in a tile is finite.
    """

    query: Tensor  # int64 (B, Lq), index into the packed row
    key: Tensor  # int64 (B, Lk)
    query_is_real: Tensor | None  # bool (B, Lq), None when nothing is padded
    key_is_real: Tensor | None  # bool (B, Lk)
    hidden: Tensor | None  # bool (Lq, Lk) or (B, Lq, Lk), True where a query must not look


def _blocks(lengths: Sequence[int], starts: Sequence[int]) -> Iterator[tuple[list[int], int, int]]:
    """Groups of segments and, for each, the query block [first, last) inside them."""
    order = sorted(range(len(lengths)), key=lambda s: (-lengths[s], starts[s]))
    at = 0
    while at < len(order):
        longest = lengths[order[at]]
        if longest > MAX_QUERIES:
            for first in range(0, longest, MAX_QUERIES):
                yield [order[at]], first, min(first + MAX_QUERIES, longest)
            at += 1
            continue
        members = [order[at]]
        room = max(1, TILE_SCORES // (longest * longest))
        at += 1
        while (
            at < len(order)
            and len(members) < room
            and lengths[order[at]] >= LENGTH_SLACK * longest - 4
        ):
            members.append(order[at])
            at += 1
        yield members, 0, longest


def _tile(
    members: list[int],
    bounds: tuple[int, int],
    starts: Sequence[int],
    lengths: Sequence[int],
    kv_end: Tensor | None,
) -> Tile:
    first, last = bounds
    start = torch.tensor([starts[s] for s in members])[:, None]
    length = torch.tensor([lengths[s] for s in members])[:, None]
    query_place = torch.arange(first, last)[None, :]
    query = start + torch.minimum(query_place, length - 1)
    n_keys = last
    if kv_end is not None:
        n_keys = int((kv_end[query].long() - start).max())
    key_place = torch.arange(n_keys)[None, :]
    key = start + torch.minimum(key_place, length - 1)
    if kv_end is None:
        hidden = key_place > query_place.T  # (Lq, Lk); padded keys come after every real query
    else:
        hidden = key_place[:, None, :] >= (kv_end[query].long() - start)[:, :, None]
    padded = len(members) > 1 and bool((length < last).any())
    beyond = n_keys > int(length.min())
    return Tile(
        query=query,
        key=key,
        query_is_real=(query_place < length) if padded else None,
        key_is_real=(key_place < length) if beyond else None,
        hidden=hidden,
    )


def _plan(cu_seqlens: Tensor, kv_end: Tensor | None) -> list[Tile]:
    bounds = cu_seqlens.tolist()
    starts = [b for b, e in itertools.pairwise(bounds) if e > b]
    lengths = [e - b for b, e in itertools.pairwise(bounds) if e > b]
    return [
        _tile(members, (first, last), starts, lengths, kv_end)
        for members, first, last in _blocks(lengths, starts)
    ]


@lru_cache(maxsize=8)
def _cached_causal_plan(bounds: bytes) -> list[Tile]:
    return _plan(torch.frombuffer(bytearray(bounds), dtype=torch.int32), None)


def plan(cu_seqlens: Tensor, kv_end: Tensor | None) -> list[Tile]:
    """Tiles of one packed row; the layers of one step share the causal plan."""
    if kv_end is not None:
        return _plan(cu_seqlens, kv_end)
    return _cached_causal_plan(cu_seqlens.to(torch.int32).numpy().tobytes())


def _split_heads(x: Tensor, index: Tensor, n_kv: int, dtype: torch.dtype) -> Tensor:
    """Gathers rows of (T, H, D) as (B * Hkv, (H / Hkv) * L, D): query heads share their keys."""
    n_segments, length = index.shape
    n_heads, d_head = x.shape[1:]
    gathered = (
        x[index.reshape(-1)].to(dtype).view(n_segments, length, n_kv, n_heads // n_kv, d_head)
    )
    return gathered.permute(0, 2, 3, 1, 4).reshape(n_segments * n_kv, -1, d_head)


def _merge_heads(x: Tensor, n_segments: int, n_kv: int, group: int) -> Tensor:
    """Inverse of `_split_heads`, without the scatter.  # (B * L, H, D)"""
    d_head = x.shape[-1]
    unfolded = x.view(n_segments, n_kv, group, -1, d_head).permute(0, 3, 1, 2, 4)
    return unfolded.reshape(-1, n_kv * group, d_head)


def _elapsed(time_min: Tensor, tile: Tile, dtype: torch.dtype) -> Tensor:
    """|t_i - t_j| in minutes, subtracted as integers.  # (B, 1, Lq, Lk)"""
    difference = time_min[tile.query][:, :, None] - time_min[tile.key][:, None, :]
    return difference.abs_().to(dtype)[:, None]


def _scores(q: Tensor, k: Tensor, tile: Tile, elapsed: Tensor | None, bias: TimeBias) -> Tensor:
    """Scaled scores with bias and mask.  # (B, H, Lq, Lk)"""
    n_segments, n_query = tile.query.shape
    scale = q.shape[-1] ** -0.5
    if elapsed is None:
        scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
        scores = scores.view(n_segments, -1, n_query, k.shape[1])
    else:
        if bias.kind == "linear":
            shift = elapsed * (-bias.a / bias.tau)[:, None, None]
        else:
            shift = (elapsed / bias.tau[:, None, None]).log1p_().mul_(-bias.a[:, None, None])
        flat = shift.view(k.shape[0], -1, k.shape[1])
        scores = torch.baddbmm(flat, q, k.transpose(1, 2), alpha=scale).view_as(shift)
    if tile.hidden is not None:
        hidden = tile.hidden if tile.hidden.dim() == 2 else tile.hidden[:, None]
        scores.masked_fill_(hidden, NEGATIVE_INFINITY)
    return scores


def _put(target: Tensor, index: Tensor, is_real: Tensor | None, values: Tensor) -> None:
    """Adds rows of `values` (B * L, ...) at `index`; each real place occurs once."""
    places = index.reshape(-1)
    if is_real is not None:
        kept = is_real.reshape(-1).nonzero().squeeze(1)
        places, values = places[kept], values[kept]
    target.index_add_(0, places, values)


def _compute_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def forward(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: TimeBias
) -> tuple[Tensor, Tensor]:
    """Output (T, H, D) in q's dtype and log-sum-exp of the scores (T, H); arguments as in
    `reference.varlen_attention_reference`, `kv_end` None for causal."""
    n_kv, group, dtype = k.shape[1], q.shape[1] // k.shape[1], _compute_dtype(q)
    bias = bias.to(dtype)
    out = torch.zeros(q.shape, dtype=dtype)
    log_sum = torch.zeros(q.shape[:2], dtype=dtype)
    for tile in plan(layout.cu_seqlens, layout.kv_end):
        n_segments, n_query = tile.query.shape
        q_t = _split_heads(q, tile.query, n_kv, dtype)
        k_t = _split_heads(k, tile.key, n_kv, dtype)
        v_t = _split_heads(v, tile.key, n_kv, dtype)
        elapsed = None if bias.kind == "none" else _elapsed(layout.time_min, tile, dtype)
        scores = _scores(q_t, k_t, tile, elapsed, bias)
        peak = scores.amax(dim=-1, keepdim=True)
        weights = scores.sub_(peak).exp_()
        total = weights.sum(dim=-1, keepdim=True)
        o_t = torch.bmm(weights.view(k_t.shape[0], -1, k_t.shape[1]), v_t)
        o_t.div_(total.view(o_t.shape[0], -1, 1))
        _put(out, tile.query, tile.query_is_real, _merge_heads(o_t, n_segments, n_kv, group))
        lse_t = (peak + total.log()).squeeze(-1).transpose(1, 2).reshape(n_segments * n_query, -1)
        _put(log_sum, tile.query, tile.query_is_real, lse_t)
    return out.to(q.dtype), log_sum


def _bias_gradients(d_scores: Tensor, elapsed: Tensor, bias: TimeBias) -> tuple[Tensor, Tensor]:
    """Sums of dS * ds/da and dS * ds/dtau over one tile, fp64.  # (H,), (H,)"""
    flat = d_scores.flatten(2)  # (B, H, Lq * Lk)
    a, tau = bias.a, bias.tau
    if bias.kind == "linear":
        moment = torch.bmm(flat, elapsed.flatten(2).transpose(1, 2)).squeeze(-1).double().sum(0)
        return -moment / tau.double(), moment * a.double() / tau.double() ** 2
    x = elapsed / tau[:, None, None]
    d_a = -(d_scores * x.log1p()).flatten(2).sum(-1).double().sum(0)
    slope = (d_scores * (x / (1 + x))).flatten(2).sum(-1).double().sum(0)
    return d_a, slope * a.double() / tau.double()


def backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    saved: tuple[Tensor, Tensor],
    layout: Layout,
    bias: TimeBias,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, a and tau; `saved` is what `forward` returned."""
    out, log_sum = saved
    n_kv, group, dtype = k.shape[1], q.shape[1] // k.shape[1], _compute_dtype(q)
    scale = q.shape[-1] ** -0.5
    dtypes = bias.a.dtype, bias.tau.dtype
    bias = bias.to(dtype)
    d_q = torch.zeros(q.shape, dtype=dtype)
    d_k, d_v = torch.zeros(k.shape, dtype=dtype), torch.zeros(v.shape, dtype=dtype)
    d_a = torch.zeros(bias.a.shape, dtype=torch.float64)
    d_tau = torch.zeros(bias.tau.shape, dtype=torch.float64)
    d_out = d_out.to(dtype)
    delta = (d_out * out.to(dtype)).sum(-1)  # (T, H)
    for tile in plan(layout.cu_seqlens, layout.kv_end):
        n_segments, n_query = tile.query.shape
        q_t = _split_heads(q, tile.query, n_kv, dtype)
        k_t = _split_heads(k, tile.key, n_kv, dtype)
        v_t = _split_heads(v, tile.key, n_kv, dtype)
        g_t = _split_heads(d_out, tile.query, n_kv, dtype)
        lse_t = _split_heads(log_sum[..., None], tile.query, n_kv, dtype)
        delta_t = _split_heads(delta[..., None], tile.query, n_kv, dtype)
        if tile.query_is_real is not None:  # padded queries repeat a real one: no gradient
            real = tile.query_is_real[:, None, None, :].expand(-1, n_kv, group, -1)
            real_t = real.reshape(n_segments * n_kv, -1, 1).to(dtype)
            g_t, delta_t = g_t * real_t, delta_t * real_t
        elapsed = None if bias.kind == "none" else _elapsed(layout.time_min, tile, dtype)
        scores = _scores(q_t, k_t, tile, elapsed, bias)
        weights = scores.view(k_t.shape[0], -1, k_t.shape[1]).sub_(lse_t).exp_()
        d_v_t = torch.bmm(weights.transpose(1, 2), g_t)
        d_scores = torch.bmm(g_t, v_t.transpose(1, 2)).sub_(delta_t).mul_(weights)
        d_q_t = torch.bmm(d_scores, k_t).mul_(scale)
        d_k_t = torch.bmm(d_scores.transpose(1, 2), q_t).mul_(scale)
        if elapsed is not None:
            per_head = d_scores.view(n_segments, n_kv * group, n_query, -1)
            tile_a, tile_tau = _bias_gradients(per_head, elapsed, bias)
            d_a += tile_a
            d_tau += tile_tau
        _put(d_q, tile.query, tile.query_is_real, _merge_heads(d_q_t, n_segments, n_kv, group))
        _put(d_k, tile.key, tile.key_is_real, _merge_heads(d_k_t, n_segments, n_kv, 1))
        _put(d_v, tile.key, tile.key_is_real, _merge_heads(d_v_t, n_segments, n_kv, 1))
    return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), d_a.to(dtypes[0]), d_tau.to(dtypes[1])
