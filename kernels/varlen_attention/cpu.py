"""The fast path on a CPU: C++ over segments and key heads, its gradient written out by hand.

Only the output and the log-sum-exp are kept; the backward pass computes the scores again. Each task
(a part of a segment's queries and a key head) owns its queries' rows, and what several tasks add to
is summed in a fixed order, so the bytes do not depend on the number of threads. Computes in fp32,
or with products in bf16; fp64 inputs go to the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from chronoward.kernels.varlen_attention.layout import Layout, TimeBias, array
from torch import Tensor

from chronoward import _core

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def _floats(x: Tensor) -> NDArray[np.float32]:
    return array(x.float())


def forward(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: TimeBias, in_bf16: bool
) -> tuple[Tensor, Tensor]:
    """Output (T, H, D) in q's dtype and log-sum-exp of the scores fp32 (T, H); arguments as in
    `reference.varlen_attention_reference`, `kv_end` None for causal. `in_bf16` rounds what enters
    a product, where the processor has units for that (AMX)."""
    out = torch.zeros(q.shape, dtype=torch.float32)
    log_sum = torch.zeros(q.shape[:2], dtype=torch.float32)
    _core.packed_attention(
        _floats(q),
        _floats(k),
        _floats(v),
        *layout.arrays(),
        _floats(bias.a),
        _floats(bias.tau),
        bias.kind,
        in_bf16,
        out.numpy(),
        log_sum.numpy(),
        torch.get_num_threads(),
    )
    return out.to(q.dtype), log_sum


def backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    saved: tuple[Tensor, Tensor],
    layout: Layout,
    bias: TimeBias,
    in_bf16: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, a and tau; `saved` is what `forward` returned."""
    out, log_sum = saved
    d_q, d_k, d_v = (torch.zeros(x.shape, dtype=torch.float32) for x in (q, k, v))
    d_a, d_tau = (torch.zeros(x.shape, dtype=torch.float64) for x in (bias.a, bias.tau))
    _core.packed_attention_backward(
        _floats(d_out),
        _floats(q),
        _floats(k),
        _floats(v),
        _floats(out),
        _floats(log_sum),
        *layout.arrays(),
        _floats(bias.a),
        _floats(bias.tau),
        bias.kind,
        in_bf16,
        d_q.numpy(),
        d_k.numpy(),
        d_v.numpy(),
        d_a.numpy(),
        d_tau.numpy(),
        torch.get_num_threads(),
    )
    return (
        d_q.to(q.dtype),
        d_k.to(k.dtype),
        d_v.to(v.dtype),
        d_a.to(bias.a.dtype),
        d_tau.to(bias.tau.dtype),
    )
