"""Keys and values in pages on a device, and which of them each row sees.

A page holds the tokens of one buffer, for one layer, head by head: (Hkv, P, D) lies in one piece.
Rows with the same prefix name it by number, so that a kernel reads it once for all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from chronoward.errors import DataError

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
PAGE_TOKENS = (16, 32, 64)


class Pages(NamedTuple):
    """One layer's keys and values.

    Attributes:
        keys: (pages, Hkv, P, D), fp32, fp16, bf16 or fp8 (e4m3).
        values: (pages, Hkv, P, D).
        time_min: int32 (pages, P), clock of each token, the same for all layers.
        key_scale: fp32 (pages, Hkv, P), what an fp8 key is multiplied with; empty otherwise.
        value_scale: fp32 (pages, Hkv, P).
    """

    keys: Tensor
    values: Tensor
    time_min: Tensor
    key_scale: Tensor
    value_scale: Tensor

    @property
    def page_tokens(self) -> int:
        """P, tokens of a page."""
        return self.keys.shape[2]


class Rows(NamedTuple):
    """What each row sees: a prefix that others may share, then its own tokens.

    Attributes:
        time_min: int32 (R,), the clock of each query.
        table: int32 (R, n), pages of each row's own tokens, in order.
        length: int32 (R,), own tokens, the query's included; 0: the row is idle.
        prefix: int32 (R,), number of the prefix, -1 without.
        prefix_table: int32 (B, m), pages of each prefix.
        prefix_length: int32 (B,), tokens of each prefix.
        order: int32 (R,), rows by their prefix; `first`: where the run of each one's prefix begins
            in `order`. Both as `grouped` makes them.
        first: int32 (R,).
    """

    time_min: Tensor
    table: Tensor
    length: Tensor
    prefix: Tensor
    prefix_table: Tensor
    prefix_length: Tensor
    order: Tensor
    first: Tensor


def grouped(prefix: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in the order of their prefixes, for `Rows`; needs no word from the device.

    Args:
        prefix: int32 (R,).

    Returns:
        int32 (R,) and int32 (R,): `order` and `first`.
    """
    ordered, order = torch.sort(prefix, stable=True)
    return order.int(), torch.searchsorted(ordered, ordered).int()


def make_pages(
    n_pages: int,
    *,
    n_kv_heads: int,
    page_tokens: int,
    d_head: int,
    dtype: torch.dtype,
    time_min: Tensor,
) -> Pages:
    """Room for one layer; `time_min` int32 (n_pages, page_tokens) is shared by the layers."""
    device = time_min.device
    shape = (n_pages, n_kv_heads, page_tokens, d_head)
    keys, values = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
    n_scaled = n_pages if dtype == FP8 else 0
    scales = (torch.empty((n_scaled, *shape[1:3]), device=device) for _ in range(2))
    return Pages(keys, values, time_min, *scales)


def as_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (…, D) as e4m3 numbers and the scale (…) that brings their largest entry to 448."""
    largest = x.float().abs().amax(-1)
    scale = torch.where(largest > 0, largest / FP8_MAX, 1.0)
    return (x.float() / scale[..., None]).to(FP8), scale


def places(rows: Rows, page_tokens: int) -> Tensor:
    """Where the rows' own newest tokens lie: page · P + slot, int64 (R,). What an idle row writes
    goes to page 0, which belongs to nobody."""
    last = (rows.length.long() - 1).clamp(min=0)
    page = rows.table.long().gather(1, (last // page_tokens)[:, None])[:, 0]
    return torch.where(rows.length > 0, page * page_tokens + last % page_tokens, 0)


def check_shapes(q: Tensor, pages: Pages, rows: Rows) -> None:
    """Checks what can be checked without reading the tensors.

    Raises:
        DataError: shapes or dtypes that do not fit each other.
    """
    n_rows, n_heads, d_head = q.shape
    n_pages, n_kv, page_tokens, d_key = pages.keys.shape
    if d_key != d_head or pages.values.shape != pages.keys.shape or n_heads % n_kv:
        message = f"pages {tuple(pages.keys.shape)} do not fit queries {tuple(q.shape)}"
        raise DataError(message)
    if page_tokens not in PAGE_TOKENS or pages.time_min.shape != (n_pages, page_tokens):
        message = f"pages hold one of {PAGE_TOKENS} tokens and a time for each, got {page_tokens}"
        raise DataError(message)
    if pages.keys.dtype not in (q.dtype, FP8):
        message = f"keys must be {q.dtype} as the queries, or {FP8}, got {pages.keys.dtype}"
        raise DataError(message)
    scaled = (n_pages, n_kv, page_tokens) if pages.keys.dtype == FP8 else (0, n_kv, page_tokens)
    if pages.key_scale.shape != scaled or pages.value_scale.shape != scaled:
        message = f"scales must be {scaled}, got {tuple(pages.key_scale.shape)}"
        raise DataError(message)
    for name, x in (*rows._asdict().items(), ("time_min of pages", pages.time_min)):
        if x.dtype != torch.int32:
            message = f"{name} must be int32, got {x.dtype}"
            raise DataError(message)
    per_row = (rows.time_min, rows.length, rows.prefix, rows.order, rows.first, rows.table[:, 0])
    if any(x.shape != (n_rows,) for x in per_row) or len(rows.prefix_table) != len(
        rows.prefix_length
    ):
        message = f"rows must have one entry for each of {n_rows} queries"
        raise DataError(message)
