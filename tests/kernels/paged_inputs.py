"""Rows over pages for tests of decode attention, and what the NumPy oracle makes of the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from chronoward.kernels.decode_attention import ReferenceCache, Rows, grouped, make_pages
from chronoward.kernels.decode_attention.pages import FP8, Pages, as_fp8
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = 60_000_000  # minutes: late in life, where fp32 minutes would be wrong by whole ones


@dataclass
class Decoding:
    """Queries over pages, and the same keys and values one after the other.

    Attributes:
        q: (R, H, D).
        a, tau: (H,).
        tokens: of each buffer (prefixes, then rows), keys and values (n, Hkv, D) fp64 and times.
    """

    q: Tensor
    pages: Pages
    rows: Rows
    a: Tensor
    tau: Tensor
    tokens: list[tuple[Tensor, Tensor, Tensor]]


def make_decoding(
    own: Sequence[int],
    prefix: Sequence[int],
    prefixes: Sequence[int],
    *,
    heads: tuple[int, int] = (2, 1),
    d_head: int = 32,
    page_tokens: int = 16,
    dtype: torch.dtype = torch.float32,
    stored: torch.dtype | None = None,
    strides: str = "contiguous",
    times: str = "steps",
    seed: int = 0,
) -> Decoding:
    """Rows of `own` tokens after prefix `prefix[r]` (-1: none) of `prefixes` tokens.

    Pages are scattered, and hold NaN where no token is. Keys and values are rounded to `dtype`.
    """
    draw = torch.Generator().manual_seed(seed)
    n_heads, n_kv = heads
    lengths = [*prefixes, *own]
    counts = [math.ceil(n / page_tokens) for n in lengths]
    n_pages = sum(counts) + 3
    scattered = (1 + torch.randperm(n_pages - 1, generator=draw)).tolist()
    page_time = torch.full((n_pages, page_tokens), -(2**31), dtype=torch.int32)
    pages = make_pages(
        n_pages, n_kv_heads=n_kv, page_tokens=page_tokens, d_head=d_head,
        dtype=stored or dtype, time_min=page_time,
    )  # fmt: skip
    for part in (pages.keys, pages.values, pages.key_scale, pages.value_scale):
        (part.view(torch.uint8) if part.dtype == FP8 else part).fill_(
            0x7F if part.dtype == FP8 else float("nan")
        )
    tables, tokens = [], []
    for length, count in zip(lengths, counts, strict=True):
        mine = [scattered.pop() for _ in range(count)]
        tables.append(mine)
        k, v = (
            torch.randn(length, n_kv, d_head, generator=draw, dtype=torch.float64).to(dtype)
            for _ in range(2)
        )
        steps = torch.randint(0, 3000, (length,), generator=draw)
        clock = NOW - steps.cumsum(0).flip(0) if times == "steps" else torch.full((length,), NOW)
        tokens.append((k.double(), v.double(), clock.int()))
        for i in range(length):
            page, slot = mine[i // page_tokens], i % page_tokens
            page_time[page, slot] = clock[i]
            for numbers, scales, x in (
                (pages.keys, pages.key_scale, k), (pages.values, pages.value_scale, v)
            ):  # fmt: skip
                if numbers.dtype == FP8:
                    packed, scales[page, :, slot] = as_fp8(x[i])
                    numbers.view(torch.uint8)[page, :, slot] = packed.view(torch.uint8)
                else:
                    numbers[page, :, slot] = x[i]
    n_prefix = max(1, len(prefixes))
    number = torch.tensor(prefix, dtype=torch.int32)
    q = torch.randn(len(own), n_heads + 2 * n_kv, d_head, generator=draw, dtype=torch.float64)
    q = q.to(dtype)[:, :n_heads]  # a slice of a projection
    if strides == "contiguous":
        q = q.contiguous()
    elif strides == "last-dimension":
        q = q.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    rows = Rows(
        torch.tensor([newest(x) for x in tokens[len(prefixes) :]], dtype=torch.int32),
        _table(tables[len(prefixes) :], len(own)),
        torch.tensor(own, dtype=torch.int32),
        number,
        _table(tables[: len(prefixes)], n_prefix),
        torch.tensor(prefixes or [0], dtype=torch.int32),
        *grouped(number),
    )
    a = torch.rand(n_heads, generator=draw) * 2
    tau = 60 + 1e5 * torch.rand(n_heads, generator=draw)
    return Decoding(q, pages, rows, a, tau, tokens)


def newest(buffer: tuple[Tensor, Tensor, Tensor]) -> int:
    """Clock of a buffer's last token, which is the query's."""
    return int(buffer[2][-1]) if len(buffer[2]) else NOW


def _table(pages: list[list[int]], n_rows: int) -> Tensor:
    width = max([len(x) for x in pages], default=0) + 1  # one entry more than anybody needs
    table = torch.zeros(n_rows, width, dtype=torch.int32)
    for row, mine in enumerate(pages):
        table[row, : len(mine)] = torch.tensor(mine, dtype=torch.int32)
    return table


def plain(case: Decoding, bias: str) -> Tensor:
    """Plain torch in the queries' own precision, row by row, which errors are compared with."""
    group = case.q.shape[1] // case.tokens[0][0].shape[1]
    outputs = []
    for row in range(len(case.q)):
        number, n_prefixes = int(case.rows.prefix[row]), len(case.tokens) - len(case.q)
        mine = [case.tokens[n_prefixes + row]]
        if len(mine[0][2]) == 0:
            outputs.append(torch.zeros_like(case.q[row]))
            continue
        mine = ([case.tokens[number]] if number >= 0 else []) + mine
        k, v, clock = (torch.cat(x) for x in zip(*mine, strict=True))
        k, v = (x.to(case.q.dtype).repeat_interleave(group, 1) for x in (k, v))
        scores = (torch.einsum("hd,jhd->hj", case.q[row], k) * k.shape[2] ** -0.5).float()
        if bias != "none":
            x = (clock - case.rows.time_min[row]).abs().float() / case.tau[:, None]
            scores = scores - case.a[:, None] * (x.log1p() if bias == "log" else x)
        outputs.append(torch.einsum("hj,jhd->hd", scores.softmax(-1).to(v.dtype), v))
    return torch.stack(outputs)


def oracle(case: Decoding, bias: str) -> Tensor:
    """What `ReferenceCache` says, fp64 sums of the inputs as they are.  # (R, H, D)"""
    n_rows, n_heads, d_head = case.q.shape
    n_kv = case.tokens[0][0].shape[1]
    capacity = max(len(x[2]) for x in case.tokens) + 1
    cache = ReferenceCache(
        len(case.tokens), n_layers=1, n_heads=n_heads, n_kv_heads=n_kv, d_head=d_head,
        capacity=capacity, bias=bias,
    )  # fmt: skip
    for buffer, (k, v, clock) in enumerate(case.tokens):
        for kept, x in ((cache.keys, k), (cache.values, v)):
            kept[buffer, 0, :, : len(x)] = x.transpose(0, 1).numpy()
        cache.times[buffer, : len(clock)] = clock.numpy()
    out = np.zeros((n_rows, n_heads, d_head), np.float32)
    n_prefixes = len(case.tokens) - n_rows
    q = case.q.float().contiguous().numpy()
    parameters = case.a.numpy(), (1 / case.tau).numpy()
    for row in range(n_rows):
        length, number = int(case.rows.length[row]), int(case.rows.prefix[row])
        if length == 0:
            continue
        own = n_prefixes + row
        last = [x[length - 1 : length].float().numpy() for x in case.tokens[own][:2]]
        n_prefix = int(case.rows.prefix_length[number]) if number >= 0 else 0
        place = np.array([(max(number, 0), n_prefix, own, length)], np.int32)
        cache.write_times(place, case.rows.time_min[row : row + 1].numpy())
        cache.attend(0, place, q[row : row + 1], *last, *parameters, out[row : row + 1])
    return torch.from_numpy(out)
