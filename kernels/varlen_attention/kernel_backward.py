"""Backward pass in two kernels that write every gradient once: no atomics, so equal bytes each run.

`dq` has one program a tile of queries and a head; it also makes delta (which `dkdv` reads) and one
partial sum of each bias parameter's gradient. `dkdv` has one program a tile of keys and a key head,
and goes over the queries of all heads that share it. The weights are computed again from log_sum.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl
from chronoward.kernels.varlen_attention.kernel_scores import (
    bias_coefficient,
    elapsed,
    falloff,
    log_slope,
)


@triton.jit
def _dq_keys(
    state,
    b_q,
    b_do,
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
    """Adds the keys in `limits` to the sums of the tile's queries: dS k, dS, and with the weights
    dS and P those of the bias and of its slope."""
    b_dq, b_ds_sum, b_da, b_fall, b_dtau, b_slope = state
    t_i, lo, hi, b_log_sum, b_delta = rows
    coefficient, inverse_tau = bias
    begin, end = limits
    for start in range(begin, end, BK):
        o_j = start + tl.arange(0, BK)
        row = tl.cast(start, tl.int64)
        if MASKED:
            is_key = o_j < end
            b_k = tl.load(p_k + row * strides[0], mask=is_key[:, None], other=0.0)
            b_v = tl.load(p_v + row * strides[1], mask=is_key[:, None], other=0.0)
            t_j = tl.load(time_min + o_j, mask=is_key, other=0)
        else:
            b_k = tl.load(p_k + row * strides[0])
            b_v = tl.load(p_v + row * strides[1])
            t_j = tl.load(time_min + o_j)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
        if BIAS != "none":
            dt = elapsed(t_i, t_j)
            fall = falloff(dt, inverse_tau, BIAS, FAST)
            b_s -= coefficient * fall
        if MASKED:
            is_seen = (o_j[None, :] >= lo[:, None]) & (o_j[None, :] < hi[:, None])
            b_s = tl.where(is_seen, b_s, float("-inf"))
        b_p = tl.exp2(b_s - b_log_sum[:, None])
        b_dp = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION)
        b_ds = b_p * (b_dp - b_delta[:, None])
        b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
        if BIAS != "none":
            b_ds_sum += tl.sum(b_ds, 1)
            b_da += tl.sum(b_ds * fall, 1)
            b_fall += tl.sum(b_p * fall, 1)
        if BIAS == "log":
            slope = log_slope(dt, inverse_tau, FAST)
            b_dtau += tl.sum(b_ds * slope, 1)
            b_slope += tl.sum(b_p * slope, 1)
    return b_dq, b_ds_sum, b_da, b_fall, b_dtau, b_slope


@triton.jit
def varlen_attention_dq_kernel(
    q,
    k,
    v,
    d_out,
    out,
    time_min,
    bounds,
    a,
    tau,
    log_sum,
    delta,
    d_q,
    d_bias,
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
    """d_q (T, H, D), delta (H, T) and, with a bias, (tiles, H, 2) sums of dS f and of dS x f'.

    `scale` is log2(e) / sqrt(D); f is what `falloff` says (x f' only with `log`).
    """
    i_h = tl.program_id(0) % n_heads
    i_t = (tl.program_id(0) // n_heads) * BQ
    last = tl.minimum(i_t + BQ, n_tokens) - 1
    o_i, o_d, o_k = i_t + tl.arange(0, BQ), tl.arange(0, D), tl.arange(0, BK).to(tl.int64)
    is_query = o_i < n_tokens
    p_hi = bounds + tl.cast(n_tokens, tl.int64)
    begin, end = tl.load(bounds + i_t), tl.load(p_hi + last)
    n_seen_by_all = tl.maximum(tl.load(p_hi + i_t) - begin, 0) // BK
    n_seen_by_all = tl.where(tl.load(bounds + last) == begin, n_seen_by_all, 0)
    middle = begin + n_seen_by_all * BK

    p_q = q + tl.cast(i_t, tl.int64) * stride_qt + tl.cast(i_h, tl.int64) * stride_qh
    p_q += tl.arange(0, BQ).to(tl.int64)[:, None] * stride_qt + o_d[None, :]
    b_q = tl.load(p_q, mask=is_query[:, None], other=0.0)
    own = (tl.cast(i_t, tl.int64) * n_heads + i_h) * D  # of the tile, in contiguous tensors
    o_own = tl.arange(0, BQ)[:, None] * (n_heads * D) + o_d[None, :]
    b_do = tl.load(d_out + own + o_own, mask=is_query[:, None], other=0.0)
    b_o = tl.load(out + own + o_own, mask=is_query[:, None], other=0.0)
    b_delta = tl.sum(b_do.to(tl.float32) * b_o.to(tl.float32), 1)
    o_lane = tl.cast(i_h, tl.int64) * n_tokens + o_i
    tl.store(delta + o_lane, b_delta, mask=is_query)
    rows = (
        tl.load(time_min + o_i, mask=is_query, other=0),
        tl.load(bounds + o_i, mask=is_query, other=0),
        tl.load(p_hi + o_i, mask=is_query, other=0),
        tl.load(log_sum + o_lane, mask=is_query, other=0.0),
        b_delta,
    )
    p_k = k + tl.cast(i_h // group, tl.int64) * stride_kh + o_k[:, None] * stride_kt + o_d[None, :]
    p_v = v + tl.cast(i_h // group, tl.int64) * stride_vh + o_k[:, None] * stride_vt + o_d[None, :]
    coefficient, inverse_tau = 0.0, 0.0
    if BIAS != "none":
        inverse_tau = 1.0 / tl.load(tau + i_h)
        coefficient = bias_coefficient(tl.load(a + i_h), inverse_tau, BIAS)
    bias, strides = (coefficient, inverse_tau), (stride_kt, stride_vt)
    zero = tl.zeros([BQ], tl.float32)
    state = (tl.zeros([BQ, D], tl.float32), zero, zero, zero, zero, zero)
    limits = (begin, middle)
    state = _dq_keys(
        state, b_q, b_do, rows, p_k, p_v, time_min, limits, strides, bias, scale,
        BK, BIAS, PRECISION, FAST, False,
    )  # fmt: skip
    limits = (middle, end)
    b_dq, b_ds_sum, b_da, b_fall, b_dtau, b_slope = _dq_keys(
        state, b_q, b_do, rows, p_k, p_v, time_min, limits, strides, bias, scale,
        BK, BIAS, PRECISION, FAST, True,
    )  # fmt: skip
    b_dq *= scale / 1.4426950408889634
    tl.store(d_q + own + o_own, b_dq.to(d_q.dtype.element_ty), mask=is_query[:, None])
    if BIAS != "none":
        # dS of a query sums to 0, but for the rounding of `out` in delta, which is taken out here
        p_bias = d_bias + tl.program_id(0) * 2
        tl.store(p_bias, tl.sum(b_da - b_ds_sum * b_fall, 0))
        tl.store(p_bias + 1, tl.sum(b_dtau - b_ds_sum * b_slope, 0))


@triton.jit
def _dkdv_queries(
    state,
    b_k,
    b_v,
    columns,
    p_q,
    p_do,
    lanes,
    limits,
    strides,
    bias,
    scale,
    BQ: tl.constexpr,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    FAST: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Adds the queries in `limits` to (sum dS q, sum P g); tiles are keys by queries."""
    b_dk, b_dv = state
    t_j, first, last = columns
    time_min, log_sum, delta = lanes
    coefficient, inverse_tau = bias
    begin, end = limits
    for start in range(begin, end, BQ):
        o_i = start + tl.arange(0, BQ)
        row = tl.cast(start, tl.int64)
        if MASKED:
            is_query = o_i < end
            b_q = tl.load(p_q + row * strides[0], mask=is_query[:, None], other=0.0)
            b_do = tl.load(p_do + row * strides[1], mask=is_query[:, None], other=0.0)
            b_log_sum = tl.load(log_sum + o_i, mask=is_query, other=0.0)
            b_delta = tl.load(delta + o_i, mask=is_query, other=0.0)
        else:
            b_q = tl.load(p_q + row * strides[0])
            b_do = tl.load(p_do + row * strides[1])
            b_log_sum = tl.load(log_sum + o_i)
            b_delta = tl.load(delta + o_i)
        b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION) * scale
        if BIAS != "none":
            if MASKED:
                t_i = tl.load(time_min + o_i, mask=is_query, other=0)
            else:
                t_i = tl.load(time_min + o_i)
            b_s -= coefficient * falloff(elapsed(t_j, t_i), inverse_tau, BIAS, FAST)
        if MASKED:
            is_seen = (o_i[None, :] >= first[:, None]) & (o_i[None, :] < last[:, None])
            is_seen &= is_query[None, :]
            b_s = tl.where(is_seen, b_s, float("-inf"))
        b_p = tl.exp2(b_s - b_log_sum[None, :])
        b_dv = tl.dot(b_p.to(b_do.dtype), b_do, b_dv, input_precision=PRECISION)
        b_dp = tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION)
        b_ds = b_p * (b_dp - b_delta[None, :])
        b_dk = tl.dot(b_ds.to(b_q.dtype), b_q, b_dk, input_precision=PRECISION)
    return b_dk, b_dv


@triton.jit
def varlen_attention_dkdv_kernel(
    q,
    k,
    v,
    d_out,
    time_min,
    bounds,
    a,
    tau,
    log_sum,
    delta,
    d_k,
    d_v,
    n_tokens,
    n_kv_heads,
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
    """d_k and d_v (T, Hkv, D); `delta` is what the dq kernel wrote."""
    i_kv = tl.program_id(0) % n_kv_heads
    i_t = (tl.program_id(0) // n_kv_heads) * BK
    o_j, o_d, o_q = i_t + tl.arange(0, BK), tl.arange(0, D), tl.arange(0, BQ).to(tl.int64)
    is_key = o_j < n_tokens
    p_first = bounds + 2 * tl.cast(n_tokens, tl.int64)
    p_last = bounds + 3 * tl.cast(n_tokens, tl.int64)
    columns = (
        tl.load(time_min + o_j, mask=is_key, other=0),
        tl.load(p_first + o_j, mask=is_key, other=0),
        tl.load(p_last + o_j, mask=is_key, other=0),
    )
    last_key = tl.minimum(i_t + BK, n_tokens) - 1
    begin, end = tl.load(p_first + i_t), tl.load(p_last + last_key)
    # queries that see the last key of a tile in one segment see all of it
    n_see_all = tl.maximum(end - tl.load(p_first + last_key), 0) // BQ
    n_see_all = tl.where(tl.load(p_last + i_t) == end, n_see_all, 0)
    middle = end - n_see_all * BQ

    o_tile = tl.arange(0, BK).to(tl.int64)[:, None]
    p_k = k + tl.cast(i_t, tl.int64) * stride_kt + tl.cast(i_kv, tl.int64) * stride_kh
    p_v = v + tl.cast(i_t, tl.int64) * stride_vt + tl.cast(i_kv, tl.int64) * stride_vh
    b_k = tl.load(p_k + o_tile * stride_kt + o_d[None, :], mask=is_key[:, None], other=0.0)
    b_v = tl.load(p_v + o_tile * stride_vt + o_d[None, :], mask=is_key[:, None], other=0.0)
    n_heads = n_kv_heads * group
    strides = (stride_qt, n_heads * D)
    b_dk, b_dv = tl.zeros([BK, D], tl.float32), tl.zeros([BK, D], tl.float32)
    for i_h in range(i_kv * group, i_kv * group + group):
        p_q = q + tl.cast(i_h, tl.int64) * stride_qh + o_q[:, None] * stride_qt + o_d[None, :]
        p_do = d_out + i_h * D + o_q[:, None] * (n_heads * D) + o_d[None, :]
        lane = tl.cast(i_h, tl.int64) * n_tokens
        lanes = (time_min, log_sum + lane, delta + lane)
        coefficient, inverse_tau = 0.0, 0.0
        if BIAS != "none":
            inverse_tau = 1.0 / tl.load(tau + i_h)
            coefficient = bias_coefficient(tl.load(a + i_h), inverse_tau, BIAS)
        bias = (coefficient, inverse_tau)
        state = (b_dk, b_dv)
        limits = (begin, middle)
        state = _dkdv_queries(
            state, b_k, b_v, columns, p_q, p_do, lanes, limits, strides, bias, scale,
            BQ, BIAS, PRECISION, FAST, True,
        )  # fmt: skip
        limits = (middle, end)
        b_dk, b_dv = _dkdv_queries(
            state, b_k, b_v, columns, p_q, p_do, lanes, limits, strides, bias, scale,
            BQ, BIAS, PRECISION, FAST, False,
        )  # fmt: skip
    b_dk *= scale / 1.4426950408889634
    own = (tl.cast(i_t, tl.int64) * n_kv_heads + i_kv) * D
    o_own = o_tile * (n_kv_heads * D) + o_d[None, :]
    tl.store(d_k + own + o_own, b_dk.to(d_k.dtype.element_ty), mask=is_key[:, None])
    tl.store(d_v + own + o_own, b_dv.to(d_v.dtype.element_ty), mask=is_key[:, None])
