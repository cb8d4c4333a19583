"""Which keys each query sees and which queries see each key, found once for all heads.

Visible keys of a query are one interval [lo, hi), and neither bound falls from one token to the
next: a tile of consecutive tokens needs the keys from its first `lo` to its last `hi`, whatever
segments it touches. So the grid does not depend on the number of segments, no list of tiles is
made on the host, and nothing waits for the device.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def count_below(values, aim, first, last, n_steps, inside):
    """Smallest p in [first, last] with values[p] > aim, or last; values do not fall.  # (BLOCK,)"""
    for _ in range(n_steps):
        middle = (first + last) // 2
        is_open = inside & (first < last)
        is_after = tl.load(values + middle, mask=is_open, other=0) > aim
        last = tl.where(is_open & is_after, middle, last)
        first = tl.where(is_open & (is_after == 0), middle + 1, first)
    return first


@triton.jit
def varlen_attention_bounds_kernel(
    cu_seqlens,
    kv_end,
    bounds,
    n_tokens,
    n_bounds,
    n_bound_steps,
    n_token_steps,
    CAUSAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes lo, hi (of a query) and first, last (of a key) as the rows of int32 (4, T).

    Tokens outside every segment get empty intervals that keep the rows from falling. Bounds are
    held inside [0, T], so that faulty ones give wrong numbers and no stray reads.
    """
    o_i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = o_i < n_tokens
    zero = tl.zeros([BLOCK], dtype=tl.int32)
    place = count_below(cu_seqlens, o_i, zero, zero + n_bounds, n_bound_steps, inside)
    in_segment = inside & (place > 0) & (place < n_bounds)
    outside = tl.where(place == 0, 0, tl.load(cu_seqlens + n_bounds - 1))
    start = tl.load(cu_seqlens + place - 1, mask=in_segment, other=0)
    end = tl.load(cu_seqlens + place, mask=in_segment, other=0)
    start = tl.maximum(tl.where(in_segment, start, outside), 0)
    end = tl.minimum(tl.where(in_segment, end, outside), n_tokens)
    hi = o_i + 1
    first = o_i
    if not CAUSAL:
        hi = tl.load(kv_end + o_i, mask=in_segment, other=0)
        first = count_below(kv_end, o_i, start, o_i, n_token_steps, in_segment)
    hi = tl.where(in_segment, tl.minimum(tl.maximum(hi, o_i + 1), end), end)
    first = tl.where(in_segment, first, end)
    row = tl.cast(n_tokens, tl.int64)
    tl.store(bounds + o_i, start, mask=inside)
    tl.store(bounds + row + o_i, hi, mask=inside)
    tl.store(bounds + 2 * row + o_i, first, mask=inside)
    tl.store(bounds + 3 * row + o_i, end, mask=inside)
