"""The summed probability of each outcome set, one program a row and set."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl
from chronoward.kernels.sample.kernel_draw import block_of


@triton.jit
def sample_outcomes_kernel(
    logits,
    words,
    share,
    scope,
    limits,
    moving_index,
    set_tokens,
    set_offsets,
    top_and_total,
    outcome_p,
    n_vocab,
    n_words,
    n_moving,
    n_sets,
    BLOCK: tl.constexpr,
):
    """Probability of each set among the legal tokens at temperature 1, before any masking, fp32
    (R, K); 0 where nothing was to draw."""
    i_r = (tl.program_id(0) // n_sets).to(tl.int64)
    i_k = tl.program_id(0) % n_sets
    top = tl.load(top_and_total + 2 * i_r).to(tl.float32)
    total = tl.load(top_and_total + 2 * i_r + 1)
    found = tl.cast(0.0, tl.float64)
    if total > 0.0:
        kind = tl.load(scope + i_r)
        row = (
            logits + i_r * n_vocab, words + i_r * n_words, limits + kind * n_words, moving_index,
            share + i_r * n_moving, n_vocab,
        )  # fmt: skip
        last = tl.load(set_offsets + i_k + 1)
        for start in range(tl.load(set_offsets + i_k), last, BLOCK):
            o = start + tl.arange(0, BLOCK)
            v = tl.load(set_tokens + o, mask=o < last, other=n_vocab)
            x, legal, part = block_of(row, v)
            mass = tl.where(legal, tl.exp(tl.where(legal, x - top, 0.0)) * part, 0.0)
            found += tl.sum(mass.to(tl.float64), 0)
        found = tl.minimum(found / total, 1.0)
    tl.store(outcome_p + i_r * n_sets + i_k, found.to(tl.float32))
