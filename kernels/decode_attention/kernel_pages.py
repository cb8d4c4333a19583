"""Softmax on the way over pages, for whoever brings a tile of queries: one page a turn.

Nothing beyond the last token of a page is read: memory that nobody wrote may hold NaN, and zero
times NaN is NaN.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl
from chronoward.kernels.varlen_attention.kernel_scores import bias_coefficient, elapsed, falloff

LOWEST = tl.constexpr(-1.0e38)  # maximum of no scores; finite, so that no row ever is inf - inf


@triton.jit
def unpacked(x, dtype: tl.constexpr, FP8: tl.constexpr):
    """Keys or values as the queries' dtype; an e4m3 number comes out as its 256th part.

    Its seven bits are fp16's exponent and mantissa with another bias, subnormals included, so this
    is exact, and the same on GPUs without fp8 (and in the interpreter).
    """
    if FP8:
        wide = x.to(tl.int16)
        bits = ((wide & 0x80) << 8) | ((wide & 0x7F) << 7)
        return bits.to(tl.float16, bitcast=True).to(dtype)
    else:  # noqa: RET505 - the compiler types both returns where there is no else
        return x


@triton.jit
def bias_of(a, tau, head, is_head, BIAS: tl.constexpr):
    """Coefficient and 1 / tau of the heads of a tile.  # (M, 1) each, or zeros without a bias"""
    if BIAS == "none":
        return 0.0, 0.0
    else:  # noqa: RET505 - as above
        inverse_tau = 1.0 / tl.load(tau + head, mask=is_head, other=1.0)
        strength = tl.load(a + head, mask=is_head, other=0.0)
        coefficient = bias_coefficient(strength, inverse_tau, BIAS)
        return coefficient[:, None], inverse_tau[:, None]


@triton.jit
def attend_pages(
    b_q,
    t_i,
    bias,
    p_table,
    limits,
    n_tokens,
    kv,
    scales,
    page_time,
    i_kv,
    n_kv,
    scale,
    M: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    FAST: tl.constexpr,
    FP8: tl.constexpr,
):
    """Output (M, D) and log2 of the sum of exp2 of the scores (M,) over the pages in `limits`.

    Args: queries (M, D), their times (M,), `bias_of` them, the table of pages, the first page and
    the one after the last, the tokens that the whole table holds, keys and values, their scales,
    the pages' times, the key head, the number of key heads, log2(e) / sqrt(D).
    """
    coefficient, inverse_tau = bias
    first, last = limits
    keys, values = kv
    key_scale, value_scale = scales
    o_p, o_d = tl.arange(0, P), tl.arange(0, D)
    inside = o_p[:, None] * D + o_d[None, :]
    b_o = tl.zeros([M, D], tl.float32)
    b_m, b_l = tl.full([M], LOWEST, tl.float32), tl.zeros([M], tl.float32)
    for i in range(first, last):
        page = tl.load(p_table + i).to(tl.int64)
        is_key = i * P + o_p < n_tokens
        block = page * n_kv + i_kv
        b_k = tl.load(keys + block * (P * D) + inside, mask=is_key[:, None], other=0)
        b_v = tl.load(values + block * (P * D) + inside, mask=is_key[:, None], other=0)
        b_k, b_v = unpacked(b_k, b_q.dtype, FP8), unpacked(b_v, b_q.dtype, FP8)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
        if FP8:
            b_s *= 256.0 * tl.load(key_scale + block * P + o_p, mask=is_key, other=0.0)[None, :]
        if BIAS != "none":
            t_j = tl.load(page_time + page * P + o_p, mask=is_key, other=0)
            b_s -= coefficient * falloff(elapsed(t_i, t_j), inverse_tau, BIAS, FAST)
        b_s = tl.where(is_key[None, :], b_s, float("-inf"))
        m_new = tl.maximum(b_m, tl.max(b_s, 1))
        b_p = tl.exp2(b_s - m_new[:, None])
        shrink = tl.exp2(b_m - m_new)
        b_l = b_l * shrink + tl.sum(b_p, 1)
        if FP8:
            b_p *= 256.0 * tl.load(value_scale + block * P + o_p, mask=is_key, other=0.0)[None, :]
        b_o = tl.dot(b_p.to(b_v.dtype), b_v, b_o * shrink[:, None], input_precision=PRECISION)
        b_m = m_new
    b_l = tl.where(b_l > 0.0, b_l, 1.0)
    return b_o / b_l[:, None], b_m + tl.log2(b_l)
