"""A prefix that rows share: its keys are read once for all of them, as one small matrix product.

Rows stand in the order of their prefixes. Every row has a program; the first of each run of rows
with one prefix, and then every so manieth that a tile holds, does the work of those after it, and
the others have nothing to do. So the grid depends on no number that the device only knows.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl
from chronoward.kernels.decode_attention.kernel_pages import attend_pages, bias_of


@triton.jit
def decode_attention_prefix_kernel(
    q,
    keys,
    values,
    key_scale,
    value_scale,
    page_time,
    time_min,
    length,
    prefix,
    prefix_table,
    prefix_length,
    order,
    first,
    a,
    tau,
    parts,
    part_sums,
    n_rows,
    n_kv,
    n_table,
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
    """Part s of a prefix goes to part s of `parts` (parts, R, H, D) and `part_sums` (parts, R, H)
    of each of its rows; parts that a prefix does not reach are not written.

    The tile's M queries are M // GROUP rows with the GROUP heads that share a key head.
    """
    pid = tl.program_id(0)
    i_s, i_kv, i_part = pid % n_rows, (pid // n_rows) % n_kv, pid // (n_rows * n_kv)
    number = tl.load(prefix + tl.load(order + i_s))
    is_leader = (number >= 0) & ((i_s - tl.load(first + i_s)) % (M // GROUP) == 0)
    n_tokens = tl.load(prefix_length + number, mask=is_leader, other=0)
    if i_part * PART < n_tokens:
        o_m, o_d = tl.arange(0, M), tl.arange(0, D)
        place = i_s + o_m // GROUP
        inside = (o_m // GROUP < M // GROUP) & (place < n_rows)
        row = tl.load(order + place, mask=inside, other=0)
        inside = inside & (tl.load(prefix + row, mask=inside, other=-1) == number)
        inside = inside & (tl.load(length + row, mask=inside, other=0) > 0)
        head = i_kv * GROUP + o_m % GROUP
        p_q = q + row.to(tl.int64)[:, None] * stride_qr + head[:, None] * stride_qh + o_d[None, :]
        b_q = tl.load(p_q, mask=inside[:, None], other=0.0)
        t_i = tl.load(time_min + row, mask=inside, other=0)
        bias = bias_of(a, tau, head, inside, BIAS)
        end = tl.minimum(n_tokens, (i_part + 1) * PART)
        limits = (i_part * (PART // P), tl.cdiv(end, P))
        b_o, b_sum = attend_pages(
            b_q, t_i, bias, prefix_table + tl.cast(number, tl.int64) * n_table, limits, n_tokens,
            (keys, values), (key_scale, value_scale), page_time, i_kv, n_kv, scale,
            M, D, P, BIAS, PRECISION, FAST, FP8,
        )  # fmt: skip
        target = (tl.cast(i_part, tl.int64) * n_rows + row) * (n_kv * GROUP) + head
        tl.store(parts + target[:, None] * D + o_d[None, :], b_o, mask=inside[:, None])
        tl.store(part_sums + target, b_sum, mask=inside)
