"""Host side of the Triton kernels: allocate, choose tiles, launch; nothing here waits for the GPU.

The grids come from shapes alone: only the device knows how long rows are and which share a prefix.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import triton
from chronoward.kernels.decode_attention import tiles
from chronoward.kernels.decode_attention.kernel_merge import decode_attention_merge_kernel
from chronoward.kernels.decode_attention.kernel_prefix import decode_attention_prefix_kernel
from chronoward.kernels.decode_attention.kernel_rows import decode_attention_rows_kernel
from chronoward.kernels.decode_attention.kernel_write import decode_attention_write_kernel
from chronoward.kernels.decode_attention.pages import FP8

if TYPE_CHECKING:
    from chronoward.kernels.decode_attention.pages import Pages, Rows
    from torch import Tensor


def _launch(
    kernel: Any, n_programs: int, tile: tiles.Tile | None, *arguments: Any, **constants: Any
) -> None:
    options = {} if tile is None else {"num_warps": tile.warps, "num_stages": tile.stages}
    kernel[(n_programs,)](*arguments, **constants, **options)


def _rows_of(x: Tensor) -> Tensor:
    """`x` itself where its last dimension is contiguous, as that of a slice of a projection is."""
    return x if x.stride(2) == 1 else x.contiguous()


def _stored(pages: Pages) -> tuple[Tensor, ...]:
    """Keys, values and their scales as the kernels take them: fp8 numbers as bytes."""
    kv = (pages.keys, pages.values)
    if pages.keys.dtype == FP8:
        kv = (pages.keys.view(torch.uint8), pages.values.view(torch.uint8))
    return (*kv, pages.key_scale, pages.value_scale)


def _constants(q: Tensor, pages: Pages, tile: tiles.Tile, bias: str) -> dict[str, Any]:
    return {
        "GROUP": q.shape[1] // pages.keys.shape[1],
        "M": tile.queries,
        "D": q.shape[2],
        "P": pages.page_tokens,
        "PART": tile.part,
        "BIAS": bias,
        "PRECISION": "tf32x3" if q.dtype == torch.float32 else "tf32",  # of no effect below fp32
        "FAST": not tiles.interprets(),
        "FP8": pages.keys.dtype == FP8,
    }


def attend(q: Tensor, pages: Pages, rows: Rows, a: Tensor, tau: Tensor, bias: str) -> Tensor:
    """Output (R, H, D) in q's dtype; arguments as of `paged_attention_reference`."""
    n_rows, n_heads, d_head = q.shape
    out = torch.empty((n_rows, n_heads, d_head), dtype=q.dtype, device=q.device)
    if n_rows == 0:
        return out
    q, a, tau = _rows_of(q), a.float().contiguous(), tau.float().contiguous()
    n_kv, page = pages.keys.shape[1], pages.page_tokens
    own, prefix = (tiles.tile(name, q, n_heads // n_kv) for name in tiles.KERNELS)
    n_own = triton.cdiv(rows.table.shape[1] * page, own.part)
    n_prefix = triton.cdiv(rows.prefix_table.shape[1] * page, prefix.part)
    parts = torch.empty(
        (n_prefix + n_own, n_rows, n_heads, d_head), dtype=torch.float32, device=q.device
    )
    part_sums = parts.new_empty(parts.shape[:3])
    shared = (q, *_stored(pages), pages.time_min, rows.time_min)
    sizes = (*q.stride()[:2], math.log2(math.e) * d_head**-0.5)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        _launch(
            decode_attention_prefix_kernel,
            n_rows * n_kv * n_prefix,
            prefix,
            *shared,
            *(rows.length, rows.prefix, rows.prefix_table, rows.prefix_length),
            *(rows.order, rows.first, a, tau, parts, part_sums),
            *(n_rows, n_kv, rows.prefix_table.shape[1], *sizes),
            **_constants(q, pages, prefix, bias),
        )
        _launch(
            decode_attention_rows_kernel,
            n_rows * n_kv * n_own,
            own,
            *shared,
            *(rows.table, rows.length, a, tau, parts, part_sums),
            *(n_rows, n_kv, rows.table.shape[1], n_own, n_prefix, *sizes),
            **_constants(q, pages, own, bias),
        )
        _launch(
            decode_attention_merge_kernel,
            n_rows,
            None,
            *(parts, part_sums, rows.length, rows.prefix, rows.prefix_length, out),
            *(n_rows, n_prefix),
            H=n_heads,
            HP=triton.next_power_of_2(n_heads),
            D=d_head,
            PREFIX_PART=prefix.part,
            PART=own.part,
        )
    return out


def write(k: Tensor, v: Tensor, pages: Pages, place: Tensor) -> None:
    """Writes k and v (T, Hkv, D), of the pages' dtype, where `place` int64 (T,) says."""
    n_tokens, n_kv, d_head = k.shape
    if n_tokens == 0:
        return
    if k.dtype == FP8:
        k, v = k.view(torch.uint8), v.view(torch.uint8)
    k, v = _rows_of(k), _rows_of(v)
    with torch.cuda.device_of(k):  # type: ignore[no-untyped-call]
        _launch(
            decode_attention_write_kernel,
            n_tokens,
            None,
            *(k, v, *_stored(pages)[:2], place.contiguous()),
            *(*k.stride()[:2], *v.stride()[:2]),
            HKV=n_kv,
            HP=triton.next_power_of_2(n_kv),
            D=d_head,
            P=pages.page_tokens,
        )
