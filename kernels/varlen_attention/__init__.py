"""Attention over packed rows with a learned, time-aware bias; the backend is chosen here.

`reference` is the truth (plain torch, any device), `cpu` the fast path on a CPU, `triton` that on a
GPU. The mathematics is in this folder's README.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from chronoward.kernels.varlen_attention import tiles
from chronoward.kernels.varlen_attention.layout import (
    Layout,
    TimeBias,
    check_layout,
    check_shapes,
)
from chronoward.kernels.varlen_attention.operators import cpu_attention, triton_attention
from chronoward.kernels.varlen_attention.reference import varlen_attention_reference
from torch import Tensor

from chronoward.errors import ConfigError

__all__ = ["BACKENDS", "BIASES", "check_layout", "choose_backend", "varlen_attention"]

BACKENDS = ("triton", "cpu", "reference", "flash", "flex")
BIASES = ("log", "linear", "none")
_HAS_TRITON = find_spec("triton") is not None


def choose_backend(q: Tensor) -> str:
    """The backend that `varlen_attention` uses for this input when none is named."""
    if q.device.type == "cpu":
        return "reference" if q.dtype == torch.float64 else "cpu"
    is_fast = q.is_cuda and _HAS_TRITON and tiles.supports(q)
    return "triton" if is_fast else "reference"


def _check_backend(backend: str, q: Tensor, kv_end: Tensor | None, bias: str) -> None:
    """Raises ConfigError where a backend cannot do what is asked of it."""
    if backend not in BACKENDS:
        message = f"backend must be one of {BACKENDS}, got {backend!r}"
        raise ConfigError(message)
    if backend == "cpu" and q.device.type != "cpu":
        message = f"backend 'cpu' takes tensors on the CPU, got {q.device.type}"
        raise ConfigError(message)
    if backend == "flash" and (bias != "none" or kv_end is not None):
        message = "backend 'flash' is causal and has no time bias: bias='none' without kv_end"
        raise ConfigError(message)
    if backend in ("flash", "triton") and not (q.is_cuda or tiles.interprets()):
        message = f"backend {backend!r} needs a CUDA device, got {q.device.type}"
        raise ConfigError(message)
    if backend == "triton":
        tiles.check(q)
        if not _HAS_TRITON:
            message = "backend 'triton' needs the package triton: pip install 'chronoward[gpu]'"
            raise ConfigError(message)


def _time_bias(q: Tensor, bias: str, a: Tensor | None, tau: Tensor | None) -> TimeBias:
    if bias not in BIASES:
        message = f"bias must be one of {BIASES}, got {bias!r}"
        raise ConfigError(message)
    if bias == "none":
        nothing = q.new_zeros(0, dtype=torch.float32)
        return TimeBias(bias, nothing, nothing)
    if a is None or tau is None or a.shape != q.shape[1:2] or tau.shape != q.shape[1:2]:
        message = f"bias {bias!r} needs a and tau with one entry for each of {q.shape[1]} heads"
        raise ConfigError(message)
    return TimeBias(bias, a, tau)


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    time_min: Tensor,
    cu_seqlens: Tensor,
    *,
    kv_end: Tensor | None = None,
    bias: str = "none",
    a: Tensor | None = None,
    tau: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Attention inside each segment of a packed row, less the closer two tokens lie in time.

    s_ij = q_i·k_j / √D − a_h f(|t_i − t_j| / τ_h), f(x) = log(1 + x) or x; query i sees the keys of
    its segment with j < kv_end[i]. Products are computed in q's type; on a CPU also in bf16 where
    autocast asks for it and the processor has AMX, of fp32 inputs as of bf16 ones.

    Args:
        q: (T, H, D).
        k: (T, Hkv, D); H is a multiple of Hkv.
        v: (T, Hkv, D).
        time_min: int32 (T,), the clock in minutes; does not fall inside a segment.
        cu_seqlens: int32 (n + 1,), bounds of the segments; repeated bounds are empty segments.
        kv_end: int32 (T,), absolute, i < kv_end[i] <= end of i's segment, non-decreasing inside a
            segment; None is causal (i + 1).
        bias: `log`, `linear` or `none`.
        a: (H,), >= 0; needed unless bias is `none`.
        tau: (H,), minutes, > 0; needed unless bias is `none`.
        backend: one of `BACKENDS`; None chooses by device, dtype and head dimension.

    Returns:
        (T, H, D), zero for tokens outside every segment. Differentiable in q, k, v, a and tau
        (`flex`: in q, k and v).

    Raises:
        DataError: shapes or dtypes that do not fit; on a CPU also what `check_layout` refuses.
        ConfigError: an unknown bias or backend, a or tau missing, or an input that the named
            backend does not take.
        LimitError: 2**31 tokens or more.
    """
    layout = Layout(time_min, cu_seqlens, kv_end)
    check_shapes(q, k, v, layout)
    time_bias = _time_bias(q, bias, a, tau)
    chosen = backend or choose_backend(q)
    _check_backend(chosen, q, kv_end, bias)
    if chosen in ("triton", "cpu"):
        attend = triton_attention if chosen == "triton" else cpu_attention
        out: Tensor
        in_bf16 = q.dtype == torch.bfloat16 or (
            torch.is_autocast_enabled(q.device.type)
            and torch.get_autocast_dtype(q.device.type) == torch.bfloat16
        )
        out, _ = attend(q, k, v, *layout, time_bias.a, time_bias.tau, bias, in_bf16)
        return out
    if q.device.type == "cpu" and not torch.compiler.is_compiling():
        check_layout(time_min, cu_seqlens, kv_end)
    if chosen == "flash":
        from chronoward.kernels.varlen_attention.flash import flash_attention

        return flash_attention(q, k, v, cu_seqlens)
    if chosen == "flex":
        from chronoward.kernels.varlen_attention.flex import flex_backend

        return flex_backend(q, k, v, layout, time_bias)
    if kv_end is None:
        kv_end = torch.arange(1, q.shape[0] + 1, device=q.device, dtype=torch.int32)
    a, tau = time_bias.a, time_bias.tau
    return varlen_attention_reference(q, k, v, time_min, cu_seqlens, kv_end, a, tau, bias)
