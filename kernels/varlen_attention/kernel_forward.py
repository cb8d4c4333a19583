"""Forward pass: one program a tile of queries and a head, softmax on the way over the keys.

Keys that all queries of the tile see come first and need no mask; they exist where the tile lies in
one segment.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl
from chronoward.kernels.varlen_attention.kernel_scores import bias_coefficient, elapsed, falloff

LOWEST = tl.constexpr(-1.0e38)  # maximum of no scores; finite, so that no row ever is inf - inf


@triton.jit
def _fwd_keys(
    state,
    b_q,
    rows,
    p_k,
    p_v,
    time_min,
    limits,
    strides,
    bias,
    scale,
    BK: tl.constexpr,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    FAST: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Adds the keys in `limits` to (output, maximum, sum) of the tile's queries."""
    b_o, b_m, b_l = state
    t_i, lo, hi = rows
    coefficient, inverse_tau = bias
    begin, end = limits
    for start in range(begin, end, BK):
        o_j = start + tl.arange(0, BK)
        row = tl.cast(start, tl.int64)
        if MASKED:
            is_key = o_j < end
            b_k = tl.load(p_k + row * strides[0], mask=is_key[:, None], other=0.0)
            b_v = tl.load(p_v + row * strides[1], mask=is_key[:, None], other=0.0)
        else:
            b_k = tl.load(p_k + row * strides[0])
            b_v = tl.load(p_v + row * strides[1])
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
        if BIAS != "none":
            if MASKED:
                t_j = tl.load(time_min + o_j, mask=is_key, other=0)
            else:
                t_j = tl.load(time_min + o_j)
            b_s -= coefficient * falloff(elapsed(t_i, t_j), inverse_tau, BIAS, FAST)
        if MASKED:
            is_seen = (o_j[None, :] >= lo[:, None]) & (o_j[None, :] < hi[:, None])
            b_s = tl.where(is_seen, b_s, float("-inf"))
        m_new = tl.maximum(b_m, tl.max(b_s, 1))
        b_p = tl.exp2(b_s - m_new[:, None])
        shrink = tl.exp2(b_m - m_new)
        b_l = b_l * shrink + tl.sum(b_p, 1)
        b_o = tl.dot(b_p.to(b_v.dtype), b_v, b_o * shrink[:, None], input_precision=PRECISION)
        b_m = m_new
    return b_o, b_m, b_l


@triton.jit
def varlen_attention_fwd_kernel(
    q,
    k,
    v,
    time_min,
    bounds,
    a,
    tau,
    out,
    log_sum,
    n_tokens,
    n_heads,
    group,
    stride_qt,
    stride_qh,
    stride_kt,
    stride_kh,
    stride_vt,
    stride_vh,
    scale,
    D: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    FAST: tl.constexpr,
):
    """Output (T, H, D) and log2 of the sum of exp2 of the scores (H, T).

    `bounds` is what `varlen_attention_bounds_kernel` wrote, `scale` is log2(e) / sqrt(D).
    """
    i_h = tl.program_id(0) % n_heads
    i_t = (tl.program_id(0) // n_heads) * BQ
    last = tl.minimum(i_t + BQ, n_tokens) - 1
    o_i, o_d, o_k = i_t + tl.arange(0, BQ), tl.arange(0, D), tl.arange(0, BK).to(tl.int64)
    is_query = o_i < n_tokens
    p_hi = bounds + tl.cast(n_tokens, tl.int64)
    rows = (
        tl.load(time_min + o_i, mask=is_query, other=0),
        tl.load(bounds + o_i, mask=is_query, other=0),
        tl.load(p_hi + o_i, mask=is_query, other=0),
    )
    begin, end = tl.load(bounds + i_t), tl.load(p_hi + last)
    n_seen_by_all = tl.maximum(tl.load(p_hi + i_t) - begin, 0) // BK
    n_seen_by_all = tl.where(tl.load(bounds + last) == begin, n_seen_by_all, 0)
    middle = begin + n_seen_by_all * BK

    p_q = q + tl.cast(i_t, tl.int64) * stride_qt + tl.cast(i_h, tl.int64) * stride_qh
    p_q += tl.arange(0, BQ).to(tl.int64)[:, None] * stride_qt + o_d[None, :]
    b_q = tl.load(p_q, mask=is_query[:, None], other=0.0)
    p_k = k + tl.cast(i_h // group, tl.int64) * stride_kh + o_k[:, None] * stride_kt + o_d[None, :]
    p_v = v + tl.cast(i_h // group, tl.int64) * stride_vh + o_k[:, None] * stride_vt + o_d[None, :]
    coefficient, inverse_tau = 0.0, 0.0
    if BIAS != "none":
        inverse_tau = 1.0 / tl.load(tau + i_h)
        coefficient = bias_coefficient(tl.load(a + i_h), inverse_tau, BIAS)
    bias, strides = (coefficient, inverse_tau), (stride_kt, stride_vt)
    b_m, b_l = tl.full([BQ], LOWEST, tl.float32), tl.zeros([BQ], tl.float32)
    state = (tl.zeros([BQ, D], tl.float32), b_m, b_l)
    limits = (begin, middle)
    state = _fwd_keys(
        state, b_q, rows, p_k, p_v, time_min, limits, strides, bias, scale,
        BK, BIAS, PRECISION, FAST, False,
    )  # fmt: skip
    limits = (middle, end)
    b_o, b_m, b_l = _fwd_keys(
        state, b_q, rows, p_k, p_v, time_min, limits, strides, bias, scale,
        BK, BIAS, PRECISION, FAST, True,
    )  # fmt: skip
    b_l = tl.where(b_l > 0.0, b_l, 1.0)  # no keys: the output is 0, not 0 / 0
    b_o = b_o / b_l[:, None]
    p_o = out + (tl.cast(i_t, tl.int64) * n_heads + i_h) * D
    p_o += tl.arange(0, BQ)[:, None] * (n_heads * D) + o_d[None, :]
    tl.store(p_o, b_o.to(out.dtype.element_ty), mask=is_query[:, None])
    p_log_sum = log_sum + tl.cast(i_h, tl.int64) * n_tokens
    tl.store(p_log_sum + o_i, b_m + tl.log2(b_l), mask=is_query)
