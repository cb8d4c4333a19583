"""Merges the parts of each row's softmax: a row's prefix first, then its own tokens, in order."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl
from chronoward.kernels.decode_attention.kernel_pages import LOWEST


@triton.jit
def _merged(state, parts, part_sums, first, last, stride, place, is_head, o_d, D: tl.constexpr):
    """Adds parts `first` up to `last` to (output, maximum, sum) of a row's heads."""
    b_o, b_m, b_l = state
    for i in range(first, last):
        target = i * stride + place
        b_s = tl.load(part_sums + target, mask=is_head, other=LOWEST)
        b_x = tl.load(parts + target[:, None] * D + o_d[None, :], mask=is_head[:, None], other=0.0)
        m_new = tl.maximum(b_m, b_s)
        shrink, weight = tl.exp2(b_m - m_new), tl.exp2(b_s - m_new)
        b_o = b_o * shrink[:, None] + b_x * weight[:, None]
        b_l = b_l * shrink + weight
        b_m = m_new
    return b_o, b_m, b_l


@triton.jit
def decode_attention_merge_kernel(
    parts,
    part_sums,
    length,
    prefix,
    prefix_length,
    out,
    n_rows,
    first_part,
    H: tl.constexpr,
    HP: tl.constexpr,
    D: tl.constexpr,
    PREFIX_PART: tl.constexpr,
    PART: tl.constexpr,
):
    """Output (R, H, D); zero where a row has no tokens. HP is H or the power of two above it."""
    i_r = tl.program_id(0)
    o_h, o_d = tl.arange(0, HP), tl.arange(0, D)
    is_head = o_h < H
    n_own = tl.load(length + i_r)
    number = tl.load(prefix + i_r)
    n_prefix = tl.load(prefix_length + number, mask=(number >= 0) & (n_own > 0), other=0)
    place = tl.cast(i_r, tl.int64) * H + o_h
    stride = tl.cast(n_rows, tl.int64) * H
    state = (
        tl.zeros([HP, D], tl.float32), tl.full([HP], LOWEST, tl.float32), tl.zeros([HP], tl.float32)
    )  # fmt: skip
    state = _merged(
        state, parts, part_sums, 0, tl.cdiv(n_prefix, PREFIX_PART), stride, place, is_head, o_d, D
    )
    last = first_part + tl.cdiv(n_own, PART)
    b_o, _, b_l = _merged(
        state, parts, part_sums, first_part, last, stride, place, is_head, o_d, D
    )  # fmt: skip
    b_o = b_o / tl.where(b_l > 0.0, b_l, 1.0)[:, None]
    p_out = out + place[:, None] * D + o_d[None, :]
    tl.store(p_out, b_o.to(out.dtype.element_ty), mask=is_head[:, None])
