"""A row's own tokens: one program a row, a key head and a part of the row's pages.

The query heads that share a key head are one tile, so their keys are read once.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl
from chronoward.kernels.decode_attention.kernel_pages import attend_pages, bias_of


@triton.jit
def decode_attention_rows_kernel(
    q,
    keys,
    values,
    key_scale,
    value_scale,
    page_time,
    time_min,
    table,
    length,
    a,
    tau,
    parts,
    part_sums,
    n_rows,
    n_kv,
    n_table,
    n_parts,
    first_part,
    stride_qr,
    stride_qh,
    scale,
    GROUP: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    PART: tl.constexpr,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    FAST: tl.constexpr,
    FP8: tl.constexpr,
):
    """Part s of a row is its tokens from s · PART on; its output and log-sum go to
    `parts` (parts, R, H, D) and `part_sums` (parts, R, H) at `first_part` + s.

    Parts that a row does not reach are not written. GROUP query heads share a key head; M >= GROUP
    is the tile's height.
    """
    pid = tl.program_id(0)
    i_part, i_kv, i_r = pid % n_parts, (pid // n_parts) % n_kv, pid // (n_parts * n_kv)
    n_tokens = tl.load(length + i_r)
    if i_part * PART < n_tokens:
        o_m, o_d = tl.arange(0, M), tl.arange(0, D)
        is_head = o_m < GROUP
        head = i_kv * GROUP + o_m
        p_q = q + tl.cast(i_r, tl.int64) * stride_qr + head[:, None] * stride_qh + o_d[None, :]
        b_q = tl.load(p_q, mask=is_head[:, None], other=0.0)
        t_i = tl.zeros([M], tl.int32) + tl.load(time_min + i_r)
        bias = bias_of(a, tau, head, is_head, BIAS)
        end = tl.minimum(n_tokens, (i_part + 1) * PART)
        limits = (i_part * (PART // P), tl.cdiv(end, P))
        b_o, b_sum = attend_pages(
            b_q, t_i, bias, table + tl.cast(i_r, tl.int64) * n_table, limits, n_tokens,
            (keys, values), (key_scale, value_scale), page_time, i_kv, n_kv, scale,
            M, D, P, BIAS, PRECISION, FAST, FP8,
        )  # fmt: skip
        place = tl.cast(first_part + i_part, tl.int64) * n_rows + i_r
        place = place * (n_kv * GROUP) + head
        tl.store(parts + place[:, None] * D + o_d[None, :], b_o, mask=is_head[:, None])
        tl.store(part_sums + place, b_sum, mask=is_head)
