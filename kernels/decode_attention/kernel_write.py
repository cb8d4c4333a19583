"""Writes new tokens' keys and values into their pages."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def decode_attention_write_kernel(
    k,
    v,
    keys,
    values,
    place,
    stride_kt,
    stride_kh,
    stride_vt,
    stride_vh,
    HKV: tl.constexpr,
    HP: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
):
    """Token t's key and value (Hkv, D) go to page place[t] // P, slot place[t] % P.

    HP is Hkv or the power of two above it.
    """
    i_t = tl.program_id(0).to(tl.int64)
    target = tl.load(place + i_t)
    o_h, o_d = tl.arange(0, HP), tl.arange(0, D)
    is_head = (o_h < HKV)[:, None]
    p_k = k + i_t * stride_kt + o_h[:, None] * stride_kh + o_d[None, :]
    p_v = v + i_t * stride_vt + o_h[:, None] * stride_vh + o_d[None, :]
    base = (target // P) * (HKV * P * D) + (target % P) * D
    inside = base + o_h[:, None] * (P * D) + o_d[None, :]
    tl.store(keys + inside, tl.load(p_k, mask=is_head), mask=is_head)
    tl.store(values + inside, tl.load(p_v, mask=is_head), mask=is_head)
