"""Host side of the Triton kernels: allocate, choose tiles, launch; nothing here waits for the GPU.

fp32 inputs are multiplied as three TF32 products (`tf32x3`), which keeps fp32's error to a few
units in the last place and still runs on the tensor cores; one TF32 product would keep ten bits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import triton
from chronoward.kernels.varlen_attention import tiles
from chronoward.kernels.varlen_attention.kernel_backward import (
    varlen_attention_dkdv_kernel,
    varlen_attention_dq_kernel,
)
from chronoward.kernels.varlen_attention.kernel_bounds import varlen_attention_bounds_kernel
from chronoward.kernels.varlen_attention.kernel_forward import varlen_attention_fwd_kernel

if TYPE_CHECKING:
    from chronoward.kernels.varlen_attention.layout import Layout, TimeBias
    from torch import Tensor

BOUNDS_BLOCK = 256


def _launch(
    kernel: Any, n_programs: int, tile: tiles.Tile | None, *arguments: Any, **constants: Any
) -> None:
    options = {} if tile is None else {"num_warps": tile.warps, "num_stages": tile.stages}
    kernel[(n_programs,)](*arguments, **constants, **options)


def _rows(x: Tensor) -> Tensor:
    """`x` itself where its last dimension is contiguous, as that of a slice of a projection is."""
    return x if x.stride(2) == 1 else x.contiguous()


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for x in tensors for stride in x.stride()[:2]]


def _constants(q: Tensor, tile: tiles.Tile, bias: TimeBias) -> dict[str, Any]:
    return {
        "D": q.shape[2],
        "BQ": tile.queries,
        "BK": tile.keys,
        "BIAS": bias.kind,
        "PRECISION": "tf32x3" if q.dtype == torch.float32 else "tf32",  # of no effect below fp32
        "FAST": not tiles.interprets(),
    }


def _bounds(layout: Layout) -> Tensor:
    """int32 (4, T): see `varlen_attention_bounds_kernel`."""
    n_tokens, n_bounds = len(layout.time_min), len(layout.cu_seqlens)
    bounds = layout.time_min.new_empty(4, n_tokens)
    cu_seqlens = layout.cu_seqlens.contiguous()
    kv_end = cu_seqlens if layout.kv_end is None else layout.kv_end.contiguous()
    _launch(
        varlen_attention_bounds_kernel,
        triton.cdiv(n_tokens, BOUNDS_BLOCK),
        None,
        cu_seqlens,
        kv_end,
        bounds,
        n_tokens,
        n_bounds,
        n_bounds.bit_length(),
        n_tokens.bit_length(),
        CAUSAL=layout.kv_end is None,
        BLOCK=BOUNDS_BLOCK,
    )
    return bounds


def _parameters(bias: TimeBias) -> tuple[Tensor, Tensor]:
    return bias.a.float().contiguous(), bias.tau.float().contiguous()


def forward(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: TimeBias
) -> tuple[Tensor, Tensor]:
    """Output (T, H, D) in q's dtype and log2-sum-exp2 of the scores fp32 (H, T); arguments as in
    `reference.varlen_attention_reference`, `kv_end` None for causal."""
    n_tokens, n_heads, d_head = q.shape
    out = q.new_empty(q.shape)
    log_sum = q.new_empty(n_heads, n_tokens, dtype=torch.float32)
    if n_tokens == 0:
        return out, log_sum
    q, k, v = _rows(q), _rows(k), _rows(v)
    tile = tiles.tile("fwd", q)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        _launch(
            varlen_attention_fwd_kernel,
            triton.cdiv(n_tokens, tile.queries) * n_heads,
            tile,
            q,
            k,
            v,
            layout.time_min.contiguous(),
            _bounds(layout),
            *_parameters(bias),
            out,
            log_sum,
            n_tokens,
            n_heads,
            n_heads // k.shape[1],
            *_strides(q, k, v),
            math.log2(math.e) * d_head**-0.5,
            **_constants(q, tile, bias),
        )
    return out, log_sum


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
    d_q, d_k, d_v = (x.new_empty(x.shape) for x in (q, k, v))
    if q.shape[0] == 0:
        return d_q, d_k, d_v, torch.zeros_like(bias.a), torch.zeros_like(bias.tau)
    q, k, v = _rows(q), _rows(k), _rows(v)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        shared = (layout.time_min.contiguous(), _bounds(layout), *_parameters(bias), saved[1])
        sums, delta = _launch_dq(d_out.contiguous(), (q, k, v), saved[0], shared, bias, d_q)
        _launch_dkdv(d_out.contiguous(), (q, k, v), (*shared, delta), bias, (d_k, d_v))
        return d_q, d_k, d_v, *_bias_gradients(sums, bias)


def _launch_dq(
    d_out: Tensor,
    qkv: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    shared: tuple[Tensor, ...],
    bias: TimeBias,
    d_q: Tensor,
) -> tuple[Tensor, Tensor]:
    """Fills d_q; returns each program's sums for a and tau (tiles, H, 2) and delta (H, T)."""
    q, k, _ = qkv
    n_tokens, n_heads, d_head = q.shape
    tile = tiles.tile("dq", q)
    n_tiles = triton.cdiv(n_tokens, tile.queries)
    delta = torch.empty_like(shared[-1])
    n_sums = 0 if bias.kind == "none" else n_tiles
    sums = delta.new_empty(n_sums, n_heads, 2)
    _launch(
        varlen_attention_dq_kernel,
        n_tiles * n_heads,
        tile,
        *qkv,
        d_out,
        out,
        *shared,
        delta,
        d_q,
        sums,
        n_tokens,
        n_heads,
        n_heads // k.shape[1],
        *_strides(*qkv),
        math.log2(math.e) * d_head**-0.5,
        **_constants(q, tile, bias),
    )
    return sums, delta


def _launch_dkdv(
    d_out: Tensor,
    qkv: tuple[Tensor, Tensor, Tensor],
    shared: tuple[Tensor, ...],
    bias: TimeBias,
    gradients: tuple[Tensor, Tensor],
) -> None:
    q, k, _ = qkv
    n_tokens, n_kv_heads, d_head = k.shape
    tile = tiles.tile("dkdv", q)
    _launch(
        varlen_attention_dkdv_kernel,
        triton.cdiv(n_tokens, tile.keys) * n_kv_heads,
        tile,
        *qkv,
        d_out,
        *shared,
        *gradients,
        n_tokens,
        n_kv_heads,
        q.shape[1] // n_kv_heads,
        *_strides(*qkv),
        math.log2(math.e) * d_head**-0.5,
        **_constants(q, tile, bias),
    )


def _bias_gradients(sums: Tensor, bias: TimeBias) -> tuple[Tensor, Tensor]:
    """Adds the programs' sums in fp64, in their order, and makes d_a and d_tau of them."""
    if bias.kind == "none":
        return torch.zeros_like(bias.a), torch.zeros_like(bias.tau)
    fall, slope = sums.double().sum(0).unbind(1)
    a, tau = bias.a.double(), bias.tau.double()
    if bias.kind == "linear":  # fall is in minutes
        d_a, d_tau = -fall / tau, fall * a / tau**2
    else:  # fall is in units of log 2
        d_a, d_tau = -fall * math.log(2), slope * a / tau
    return d_a.to(bias.a.dtype), d_tau.to(bias.tau.dtype)
