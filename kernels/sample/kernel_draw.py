"""Draws a token for each row: one pass over its logits, then one block of them again.

A block keeps its largest legal logit and its masses relative to that, so that no second pass is
needed to know the total. Cutting off improbable tokens does need passes: the smallest mass that is
kept is found by bisection over the bits of fp32 numbers, whose order is that of the numbers.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl
from chronoward.kernels.sample.kernel_accept import accept
from chronoward.kernels.sample.kernel_legal import COLUMNS, NO_TOKEN, PAST_CAP
from chronoward.kernels.sample.tables import Column, Fault, Status

CLOCK, STEP = tl.constexpr(int(Column.CLOCK)), tl.constexpr(int(Column.STEP))
PREDICTION, MASKED = tl.constexpr(int(Column.PREDICTION)), tl.constexpr(int(Column.MASKED))
ROLLOUT, STATUS = tl.constexpr(int(Column.ROLLOUT)), tl.constexpr(int(Column.STATUS))
FAULT = tl.constexpr(int(Column.FAULT))
RUNNING = tl.constexpr(int(Status.RUNNING))
OUTCOME, CLOCK_CAP = tl.constexpr(int(Status.OUTCOME)), tl.constexpr(int(Status.CLOCK_CAP))
FAULTED = tl.constexpr(int(Status.FAULT))
NAN, NO_TOKEN_FAULT = tl.constexpr(int(Fault.NAN)), tl.constexpr(int(Fault.NO_TOKEN))
NO_FINITE, NO_MASS = tl.constexpr(int(Fault.NO_FINITE)), tl.constexpr(int(Fault.NO_MASS))
TOP_BITS = tl.constexpr(0x7F800000)  # above every finite fp32


@triton.jit
def block_of(row, v):
    """Logits of tokens v, whether they are legal, and the share of those that move the clock."""
    logits, words, limit, moving_index, share, n_vocab = row
    inside = v < n_vocab
    x = tl.load(logits + v, mask=inside, other=float("-inf")).to(tl.float32)
    word = tl.load(words + v // 32, mask=inside, other=0)
    word = word & tl.load(limit + v // 32, mask=inside, other=0)
    i = tl.load(moving_index + v, mask=inside, other=-1)
    part = tl.load(share + i, mask=i >= 0, other=1.0).to(tl.float32)
    legal = inside & (((word >> (v % 32)) & 1) != 0) & (part > 0.0)
    return x, legal, part


@triton.jit
def _is_masked(set_words, v, n_vocab):
    """Whether tokens are in the set that is not drawn; `set_words` of a row, n_vocab 0: no set."""
    word = tl.load(set_words + v // 32, mask=v < n_vocab, other=0)
    return ((word >> (v % 32)) & 1) != 0


@triton.jit
def _bits(row, v, top, inverse_temperature):
    """Masses relative to the top, as the bits of fp32, 0 where there is none."""
    x, legal, part = block_of(row, v)
    x = tl.where(legal, x - top, 0.0)  # what is not legal may be far above the top
    mass = tl.where(legal, tl.exp(x * inverse_temperature) * part, 0.0)
    return mass.to(tl.int32, bitcast=True), mass


@triton.jit
def _above(row, bits, top, inverse_temperature, n_blocks, BLOCK: tl.constexpr):
    """Tokens and mass (fp64) with at least so many bits, and with exactly so many: the number."""
    n, n_equal = 0, 0
    mass_above = tl.cast(0.0, tl.float64)
    for i in range(n_blocks):
        b, mass = _bits(row, i * BLOCK + tl.arange(0, BLOCK), top, inverse_temperature)
        n += tl.sum((b >= bits).to(tl.int32), 0)
        n_equal += tl.sum((b == bits).to(tl.int32), 0)
        mass_above += tl.sum(tl.where(b >= bits, mass, 0.0).to(tl.float64), 0)
    return n, n_equal, mass_above


@triton.jit
def _cut(
    row, top, inverse_temperature, n_blocks, top_k, top_p, min_p, BLOCK: tl.constexpr
):  # fmt: skip
    """(bits, ties, room, least): kept are masses with more bits, and of those with as many the
    first `ties` while they fit into `room`; none below `least`. Top-k, then top-p of what is left,
    then min-p; ties go to the smaller id."""
    low, high = 1, TOP_BITS
    if top_k > 0:
        while high - low > 1:
            middle = low + (high - low) // 2
            n, _, _ = _above(row, middle, top, inverse_temperature, n_blocks, BLOCK)
            low = tl.where(n >= top_k, middle, low)
            high = tl.where(n >= top_k, high, middle)
    n, n_equal, mass = _above(row, low, top, inverse_temperature, n_blocks, BLOCK)
    ties = n_equal
    if top_k > 0:
        ties = tl.minimum(n_equal, tl.maximum(top_k - (n - n_equal), 0))
    bits = low
    value = tl.cast(bits, tl.int32).to(tl.float32, bitcast=True).to(tl.float64)
    room = tl.cast(float("inf"), tl.float64)  # mass that ties may take up, by top-p
    if top_p < 1.0:
        aim = (mass - (n_equal - ties).to(tl.float64) * value) * top_p
        low, high = bits, TOP_BITS
        while high - low > 1:
            middle = low + (high - low) // 2
            _, _, above = _above(row, middle, top, inverse_temperature, n_blocks, BLOCK)
            low = tl.where(above >= aim, middle, low)
            high = tl.where(above >= aim, high, middle)
        _, n_equal, mass = _above(row, low, top, inverse_temperature, n_blocks, BLOCK)
        value = tl.cast(low, tl.int32).to(tl.float32, bitcast=True).to(tl.float64)
        room = aim - (mass - n_equal.to(tl.float64) * value)
        ties = tl.where(low == bits, ties, n_equal)
        bits = low
    least = tl.cast(0.0, tl.float64)
    if min_p > 0.0:
        largest = tl.cast(0.0, tl.float64)
        for i in range(n_blocks):
            _, part = _bits(row, i * BLOCK + tl.arange(0, BLOCK), top, inverse_temperature)
            largest = tl.maximum(largest, tl.max(part, 0).to(tl.float64))
        least = largest * min_p
    return bits, ties, room, least


@triton.jit
def _kept(b, mass, cut, n_before):
    """Masses of a block that the cut leaves; `n_before` ties lie in blocks before it."""
    bits, ties, room, least = cut
    is_tie = (b == bits).to(tl.int32)
    rank = n_before + tl.cumsum(is_tie, 0) - is_tie
    has_room = (rank == 0) | (rank.to(tl.float64) * mass.to(tl.float64) < room)
    is_kept = (b > bits) | ((is_tie != 0) & (rank < ties) & has_room)
    is_kept = is_kept & (mass.to(tl.float64) >= least)
    return tl.where(is_kept, mass, 0.0), tl.sum(is_tie, 0)


@triton.jit
def _pick(mass, target):
    """Place of the first mass whose running sum passes the target, else of the last one."""
    wide = mass.to(tl.float64)
    o = tl.arange(0, mass.shape[0])
    passes = (mass > 0.0) & (tl.cumsum(wide, 0) > target)
    first = tl.min(tl.where(passes, o, mass.shape[0]), 0)
    last = tl.max(tl.where(mass > 0.0, o, -1), 0)
    return tl.where(first < mass.shape[0], first, last)


@triton.jit
def sample_draw_kernel(
    logits,
    slots,
    keys,
    words,
    share,
    scope,
    limits,
    moving_index,
    token_class,
    token_sex,
    next_state,
    rule,
    duration,
    set_words,
    top_and_total,
    token_out,
    time_out,
    status_out,
    step_out,
    log_p_out,
    value_out,
    n_vocab,
    n_words,
    n_moving,
    n_classes,
    n_blocks,
    temperature,
    top_k,
    top_p,
    min_p,
    max_new_tokens,
    max_clock,
    TEMPERED: tl.constexpr,
    TRUNCATES: tl.constexpr,
    BLOCK: tl.constexpr,
    NB: tl.constexpr,
):
    """A step of each row, into its line of `slots` and the outputs (R,); the largest legal logit
    and the mass of all legal tokens relative to it go to `top_and_total` fp64 (R, 2), total 0 where
    nothing was to draw. NB is n_blocks or the power of two above it."""
    i_r = tl.program_id(0).to(tl.int64)
    slot = slots + i_r * COLUMNS
    kind = tl.load(scope + i_r)
    fault, status = 0, tl.load(slot + STATUS)
    clock = tl.load(slot + CLOCK)
    token, step_min = 0, -1
    log_p, value_u = tl.cast(0.0, tl.float32), tl.cast(0.0, tl.float64)
    top, total = tl.cast(0.0, tl.float64), tl.cast(0.0, tl.float64)
    if status == RUNNING:
        prediction = tl.load(slot + PREDICTION)
        masked = tl.load(slot + MASKED)
        masked = tl.where((prediction >= 0) & (clock <= prediction), -1, masked)
        n_masked = tl.where(masked >= 0, n_vocab, 0)
        set_words += tl.maximum(masked, 0).to(tl.int64) * n_words
        limit = limits + tl.where(kind < 3, kind, 0) * n_words
        row = (
            logits + i_r * n_vocab, words + i_r * n_words, limit, moving_index,
            share + i_r * n_moving, n_vocab,
        )  # fmt: skip
        o_b = tl.arange(0, NB)
        tops = tl.full([NB], float("-inf"), tl.float32)
        legal_sums, sums = tl.zeros([NB], tl.float64), tl.zeros([NB], tl.float64)
        inverse_temperature = 1.0 / temperature
        n_nan = 0
        for i in range(n_blocks):
            v = i * BLOCK + tl.arange(0, BLOCK)
            x, legal, part = block_of(row, v)
            n_nan += tl.sum((x != x).to(tl.int32), 0)
            x = tl.where(legal, x, float("-inf"))
            high = tl.max(x, 0)
            base = tl.where(tl.abs(high) < float("inf"), high, 0.0)
            legal = legal & (tl.abs(x) < float("inf"))  # +inf is a fault, found by `high`
            mass = tl.where(legal, tl.exp(x - base) * part, 0.0)
            legal_sums = tl.where(o_b == i, tl.sum(mass.to(tl.float64), 0), legal_sums)
            if TEMPERED:
                mass = tl.where(legal, tl.exp((x - base) * inverse_temperature) * part, 0.0)
            mass = tl.where(_is_masked(set_words, v, n_masked), 0.0, mass)
            sums = tl.where(o_b == i, tl.sum(mass.to(tl.float64), 0), sums)
            tops = tl.where(o_b == i, high, tops)
        high = tl.max(tops, 0)
        is_finite = tl.abs(high) < float("inf")
        high = tl.where(is_finite, high, 0.0)
        has_top = tl.abs(tops) < float("inf")
        below = tl.minimum(tl.where(has_top, tops, 0.0) - high, 0.0)
        below = tl.where(has_top, below, float("-inf")).to(tl.float64)
        legal_total = tl.sum(legal_sums * tl.exp(below), 0)
        has_mass = (legal_total > 0.0) & (legal_total < float("inf"))
        fault = tl.where(has_mass, 0, NO_MASS)
        fault = tl.where(is_finite, fault, NO_FINITE)
        status = tl.where(kind == PAST_CAP, CLOCK_CAP, status)
        fault = tl.where(kind == PAST_CAP, 0, tl.where(kind == NO_TOKEN, NO_TOKEN_FAULT, fault))
        fault = tl.where(n_nan > 0, NAN, fault)
        status = tl.where(fault != 0, FAULTED, status)
        if status == RUNNING:
            step_min, top, total = clock, high.to(tl.float64), legal_total
            weights = tl.exp(below * inverse_temperature)  # of a block's own masses
            cut = (0, 0, 0.0, 0.0)
            ties = tl.zeros([NB], tl.int32)
            if TRUNCATES:
                cut = _cut(
                    row, high, inverse_temperature, n_blocks, top_k, top_p, min_p, BLOCK
                )  # fmt: skip
                n_ties = 0
                for i in range(n_blocks):
                    v = i * BLOCK + tl.arange(0, BLOCK)
                    b, mass = _bits(row, v, high, inverse_temperature)
                    ties = tl.where(o_b == i, n_ties, ties)
                    mass, n_here = _kept(b, mass, cut, n_ties)
                    n_ties += n_here
                    mass = tl.where(_is_masked(set_words, v, n_masked), 0.0, mass)
                    sums = tl.where(o_b == i, tl.sum(mass.to(tl.float64), 0), sums)
                weights = tl.full([NB], 1.0, tl.float64)
            scaled = sums * weights
            left = tl.sum(scaled, 0)
            if left > 0.0:
                step, rollout = tl.load(slot + STEP), tl.load(slot + ROLLOUT)
                subject = tl.load(keys + 2 * i_r + 1)
                w_token, w_clock, w_value, _ = tl.philox(
                    tl.load(keys + 2 * i_r), step, rollout, subject.to(tl.int32),
                    (subject >> 32).to(tl.int32),
                )  # fmt: skip
                target = (w_token.to(tl.float64) + 0.5) * 2.3283064365386963e-10 * left
                i_b = _pick(scaled, target)
                target -= tl.sum(tl.where(o_b < i_b, scaled, 0.0), 0)
                weight = tl.sum(tl.where(o_b == i_b, weights, 0.0), 0)
                v = i_b * BLOCK + tl.arange(0, BLOCK)
                base = high
                if not TRUNCATES:
                    base = tl.max(tl.where(o_b == i_b, tops, float("-inf")), 0)
                b, mass = _bits(row, v, base, inverse_temperature)
                if TRUNCATES:
                    n_ties = tl.sum(tl.where(o_b == i_b, ties, 0), 0)
                    mass, _ = _kept(b, mass, cut, n_ties)
                mass = tl.where(_is_masked(set_words, v, n_masked), 0.0, mass)
                place = _pick(mass, target / weight)
                token = i_b * BLOCK + place
                chosen = tl.sum(tl.where(v == token, mass, 0.0).to(tl.float64), 0)
                log_p = tl.log(chosen * weight / left).to(tl.float32)
                value_u = (w_value.to(tl.float64) + 0.5) * 2.3283064365386963e-10
                u = (w_clock.to(tl.float64) + 0.5) * 2.3283064365386963e-10
                clock, status = accept(
                    slot, token, u, clock, token_class, token_sex, next_state, moving_index, rule,
                    duration, n_classes, max_new_tokens, max_clock,
                )  # fmt: skip
            else:  # only the masked outcome was possible: the path ends here
                status = OUTCOME
        tl.store(slot + STATUS, status)
        tl.store(slot + FAULT, fault)
    tl.store(top_and_total + 2 * i_r, top)
    tl.store(top_and_total + 2 * i_r + 1, total)
    tl.store(token_out + i_r, token)
    tl.store(time_out + i_r, clock)
    tl.store(status_out + i_r, status)
    tl.store(step_out + i_r, step_min)
    tl.store(log_p_out + i_r, log_p)
    tl.store(value_out + i_r, value_u)
