"""Attention over packed rows with a learned, time-aware bias; the backend is chosen here.

`reference` is the truth (plain torch, any device), `cpu` the fast path on a CPU. The mathematics is
in this folder's README.
"""

from __future__ import annotations

import torch
from chronoward.kernels.varlen_attention import cpu
from chronoward.kernels.varlen_attention.reference import varlen_attention_reference
from torch import Tensor

__all__ = ["BACKENDS", "BIASES", "choose_backend", "varlen_attention"]

BACKENDS = ("reference", "cpu")
BIASES = ("log", "linear", "none")


@torch.library.custom_op("chronoward::varlen_attention_cpu", mutates_args=(), device_types="cpu")
def _varlen_attention_cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    time_min: Tensor,
    cu_seqlens: Tensor,
    kv_end: Tensor | None,
    a: Tensor,
    tau: Tensor,
    bias: str,
) -> tuple[Tensor, Tensor]:
    layout = cpu.Layout(time_min, cu_seqlens, kv_end)
    return cpu.forward(q, k, v, layout, cpu.TimeBias(bias, a, tau))


@torch.library.custom_op(
    "chronoward::varlen_attention_cpu_backward", mutates_args=(), device_types="cpu"
)
def _varlen_attention_cpu_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    log_sum: Tensor,
    time_min: Tensor,
    cu_seqlens: Tensor,
    kv_end: Tensor | None,
    a: Tensor,
    tau: Tensor,
    bias: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    layout = cpu.Layout(time_min, cu_seqlens, kv_end)
    bias_ = cpu.TimeBias(bias, a, tau)
    return cpu.backward(d_out, q, k, v, (out, log_sum), layout, bias_)


@_varlen_attention_cpu.register_fake
def _fake_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    time_min: Tensor,
    cu_seqlens: Tensor,
    kv_end: Tensor | None,
    a: Tensor,
    tau: Tensor,
    bias: str,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.float32)


@_varlen_attention_cpu_backward.register_fake
def _fake_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    log_sum: Tensor,
    time_min: Tensor,
    cu_seqlens: Tensor,
    kv_end: Tensor | None,
    a: Tensor,
    tau: Tensor,
    bias: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(torch.empty_like(x) for x in (q, k, v, a, tau))  # type: ignore[return-value]


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, time_min, cu_seqlens, kv_end, a, tau, bias = inputs
    out, log_sum = output
    ctx.bias = bias
    ctx.save_for_backward(q, k, v, out, log_sum, time_min, cu_seqlens, kv_end, a, tau)
    ctx.mark_non_differentiable(log_sum)


def _backward(ctx, d_out, _d_log_sum):  # type: ignore[no-untyped-def]
    q, k, v, out, log_sum, time_min, cu_seqlens, kv_end, a, tau = ctx.saved_tensors
    d_q, d_k, d_v, d_a, d_tau = _varlen_attention_cpu_backward(
        d_out.contiguous(), q, k, v, out, log_sum, time_min, cu_seqlens, kv_end, a, tau, ctx.bias
    )
    return d_q, d_k, d_v, None, None, None, d_a, d_tau, None


_varlen_attention_cpu.register_autograd(_backward, setup_context=_setup_context)


def choose_backend(q: Tensor) -> str:
    """The backend that `varlen_attention` uses for this input when none is named."""
    is_fast = q.device.type == "cpu" and q.dtype != torch.float64
    return "cpu" if is_fast else "reference"


def _check(
    q: Tensor, k: Tensor, v: Tensor, time_min: Tensor, cu_seqlens: Tensor, kv_end: Tensor | None
) -> None:
    n_tokens, n_heads, d_head = q.shape
    n_kv = k.shape[1]
    if k.shape != v.shape or k.shape != (n_tokens, n_kv, d_head):
        message = f"k and v must be (T, Hkv, D) beside q {tuple(q.shape)}, got {tuple(k.shape)}"
        raise ValueError(message)
    if n_heads % n_kv:
        message = f"{n_heads} query heads are not a multiple of {n_kv} key heads"
        raise ValueError(message)
    for name, x in (("time_min", time_min), ("cu_seqlens", cu_seqlens), ("kv_end", kv_end)):
        if x is not None and x.dtype != torch.int32:
            message = f"{name} must be int32, got {x.dtype}"
            raise TypeError(message)
    if time_min.shape != (n_tokens,) or (kv_end is not None and kv_end.shape != (n_tokens,)):
        message = f"time_min and kv_end need one entry for each of {n_tokens} tokens"
        raise ValueError(message)


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
    its segment with j < kv_end[i].

    Args:
        q: (T, H, D).
        k: (T, Hkv, D); H is a multiple of Hkv.
        v: (T, Hkv, D).
        time_min: int32 (T,), the clock in minutes.
        cu_seqlens: int32 (n + 1,), bounds of the segments; repeated bounds are empty segments.
        kv_end: int32 (T,), absolute, i < kv_end[i] <= end of i's segment, non-decreasing inside a
            segment; None is causal (i + 1).
        bias: `log`, `linear` or `none`.
        a: (H,), >= 0; needed unless bias is `none`.
        tau: (H,), minutes, > 0; needed unless bias is `none`.
        backend: one of `BACKENDS`; None chooses by device.

    Returns:
        (T, H, D), zero for tokens outside every segment. Differentiable in q, k, v, a and tau.

    Raises:
        ValueError: shapes that do not fit, an unknown bias or backend, a or tau missing.
        TypeError: times or bounds that are not int32.
    """
    _check(q, k, v, time_min, cu_seqlens, kv_end)
    if bias not in BIASES:
        message = f"bias must be one of {BIASES}, got {bias!r}"
        raise ValueError(message)
    if bias == "none":
        a = tau = q.new_zeros(0, dtype=torch.float32)
    elif a is None or tau is None or a.shape != q.shape[1:2] or tau.shape != q.shape[1:2]:
        message = f"bias {bias!r} needs a and tau with one entry for each of {q.shape[1]} heads"
        raise ValueError(message)
    chosen = backend or choose_backend(q)
    if chosen == "cpu":
        out: Tensor
        out, _ = _varlen_attention_cpu(q, k, v, time_min, cu_seqlens, kv_end, a, tau, bias)
        return out
    if chosen == "reference":
        if kv_end is None:
            kv_end = torch.arange(1, q.shape[0] + 1, device=q.device, dtype=torch.int32)
        return varlen_attention_reference(q, k, v, time_min, cu_seqlens, kv_end, a, tau, bias)
    message = f"backend must be one of {BACKENDS}, got {backend!r}"
    raise ValueError(message)
