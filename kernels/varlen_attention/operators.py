"""The backends with gradients of their own, as torch operators that torch.compile sees as one node.

Both take and return the same; only the layout of the saved log-sum differs, (T, H) on the CPU and
(H, T) in units of log 2 from Triton, and nobody but the backward pass reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from chronoward.kernels.varlen_attention import cpu
from chronoward.kernels.varlen_attention.layout import Layout, TimeBias, check_layout
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._library.custom_ops import CustomOpDef


def _triton() -> Any:
    from chronoward.kernels.varlen_attention import kernel

    return kernel


def _register(name: str, module: Callable[[], Any], device_types: str | None) -> CustomOpDef:
    """Registers forward and backward, their shapes, and the one as the other's gradient."""

    def choice(in_bf16: bool) -> dict[str, bool]:
        """On a GPU the inputs' type says what products are computed in."""
        return {"in_bf16": in_bf16} if name == "cpu" else {}

    @torch.library.custom_op(
        f"chronoward::varlen_attention_{name}", mutates_args=(), device_types=device_types
    )
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        time_min: Tensor,
        cu_seqlens: Tensor,
        kv_end: Tensor | None,
        a: Tensor,
        tau: Tensor,
        bias: str,
        in_bf16: bool = False,
    ) -> tuple[Tensor, Tensor]:
        if q.device.type == "cpu":
            check_layout(time_min, cu_seqlens, kv_end)
        layout = Layout(time_min, cu_seqlens, kv_end)
        result: tuple[Tensor, Tensor] = module().forward(
            q, k, v, layout, TimeBias(bias, a, tau), **choice(in_bf16)
        )
        return result

    @torch.library.custom_op(
        f"chronoward::varlen_attention_{name}_backward", mutates_args=(), device_types=device_types
    )
    def backward(
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
        in_bf16: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        layout = Layout(time_min, cu_seqlens, kv_end)
        result: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = module().backward(
            d_out, q, k, v, (out, log_sum), layout, TimeBias(bias, a, tau), **choice(in_bf16)
        )
        return result

    @forward.register_fake
    def forward_shapes(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        n_tokens, n_heads, _d_head = q.shape
        lanes = (n_tokens, n_heads) if name == "cpu" else (n_heads, n_tokens)
        return q.new_empty(q.shape), q.new_empty(lanes, dtype=torch.float32)

    @backward.register_fake
    def backward_shapes(*arguments: Any) -> tuple[Tensor, ...]:
        inputs = (*arguments[1:4], *arguments[9:11])  # q, k, v, a, tau
        return tuple(x.new_empty(x.shape) for x in inputs)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, time_min, cu_seqlens, kv_end, a, tau, *ctx.choices = inputs
        ctx.save_for_backward(q, k, v, *output, time_min, cu_seqlens, kv_end, a, tau)
        ctx.mark_non_differentiable(output[1])

    def gradients(ctx: Any, d_out: Tensor, _d_log_sum: Any) -> tuple[Tensor | None, ...]:
        d_q, d_k, d_v, d_a, d_tau = backward(d_out.contiguous(), *ctx.saved_tensors, *ctx.choices)
        return d_q, d_k, d_v, None, None, None, d_a, d_tau, None, None

    forward.register_autograd(gradients, setup_context=setup_context)
    return forward


cpu_attention = _register("cpu", lambda: cpu, "cpu")
triton_attention = _register("triton", _triton, None)  # any device: the interpreter runs on CPU
