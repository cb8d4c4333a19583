"""What each row may draw: grammar, sex, order of codes, the clock's cap, silence."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl
from chronoward.kernels.sample.kernel_clock import clock_after, silent_share
from chronoward.kernels.sample.tables import CODE, Column

_CODE = tl.constexpr(CODE)
COLUMNS = tl.constexpr(len(Column))
STATE, SEX = tl.constexpr(int(Column.STATE)), tl.constexpr(int(Column.SEX))
PREVIOUS_CLASS = tl.constexpr(int(Column.PREVIOUS_CLASS))
PREVIOUS_TOKEN = tl.constexpr(int(Column.PREVIOUS_TOKEN))
CLOCK, PREDICTION = tl.constexpr(int(Column.CLOCK)), tl.constexpr(int(Column.PREDICTION))
STATUS = tl.constexpr(int(Column.STATUS))

# what `scope` (R,) says of a row
ALL, MOVES, CLOSES = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # a row of `limits`
PAST_CAP, NO_TOKEN, NOT_RUNNING = tl.constexpr(3), tl.constexpr(4), tl.constexpr(5)


@triton.jit
def _word(state_words, sex_words, code_words, w, inside, last, CODES_ASCEND: tl.constexpr):
    """Words of the tokens that grammar, sex and the order of codes allow; without the last too.

    `last` is the code just drawn, -1 after anything else: a code with that id or a smaller one may
    not follow it.
    """
    word = tl.load(state_words + w, mask=inside, other=0)
    word = word & tl.load(sex_words + w, mask=inside, other=0)
    left = word
    if CODES_ASCEND:
        up_to = (2 << (last % 32)) - 1  # 2 << 31 is 0: all bits
        earlier = tl.where(w < last // 32, -1, tl.where(w == last // 32, up_to, 0))
        dropped = tl.load(code_words + w, mask=inside, other=0) & earlier
        left = tl.where(last >= 0, word & ~dropped, word)
    return word, left


@triton.jit
def _moving_part(o, n_moving, parts, who, MAX_CLOCK: tl.constexpr, CODES_ASCEND: tl.constexpr):
    """(is legal, is past the cap, ends latest at, share of silence) of a block of moving tokens."""
    state_words, sex_words, code_words, moving, rule, duration = parts
    clock, prediction, previous_class, last, silent = who
    inside = o < n_moving
    token = tl.load(moving + o, mask=inside, other=0)
    _, word = _word(state_words, sex_words, code_words, token // 32, inside, last, CODES_ASCEND)
    legal = inside & (((word >> (token % 32)) & 1) != 0)
    zero = tl.zeros(o.shape, tl.float64)
    starts = clock_after(rule, duration, o, legal, zero, clock, previous_class)
    past = legal & (starts > MAX_CLOCK)
    kept = legal & (past == 0)
    ends, share = starts, zero + 1.0
    if silent:
        ends = clock_after(rule, duration, o, kept, zero + 1.0, clock, previous_class)
        share = silent_share(rule, duration, o, kept, clock, prediction, previous_class)
    return kept, past, tl.where(kept, ends, -1), tl.where(kept, share, 0.0)


@triton.jit
def sample_legal_kernel(
    slots,
    state_words,
    sex_words,
    code_words,
    limits,
    moving,
    rule,
    duration,
    words,
    share,
    scope,
    n_words,
    n_moving,
    MAX_CLOCK: tl.constexpr,
    CODES_ASCEND: tl.constexpr,
    BW: tl.constexpr,
    BM: tl.constexpr,
):
    """Writes the words (R, W) and the shares of moving tokens fp64 (R, n) of each row; a token is
    legal where its bit is set in both `words` and the row of `limits` that `scope` (R,) names, and
    its share, if it moves the clock, is above 0.
    """
    i_r = tl.program_id(0).to(tl.int64)
    slot = slots + i_r * COLUMNS
    kind = tl.where(tl.load(slot + STATUS) == 0, ALL, NOT_RUNNING)
    if kind == ALL:
        state_words += tl.load(slot + STATE).to(tl.int64) * n_words
        sex_words += tl.load(slot + SEX).to(tl.int64) * n_words
        previous_class = tl.load(slot + PREVIOUS_CLASS)
        last = tl.where(previous_class == _CODE, tl.load(slot + PREVIOUS_TOKEN), -1)
        clock = tl.load(slot + CLOCK).to(tl.int64)
        prediction = tl.load(slot + PREDICTION).to(tl.int64)
        silent = (prediction >= 0) & (clock <= prediction)
        any_word = tl.zeros([BW], tl.int32)
        any_still, any_closing = any_word, any_word
        for start in range(0, n_words, BW):
            o = start + tl.arange(0, BW)
            inside = o < n_words
            word, left = _word(state_words, sex_words, code_words, o, inside, last, CODES_ASCEND)
            moves = tl.load(limits + n_words + o, mask=inside, other=0)
            closes = tl.load(limits + 2 * n_words + o, mask=inside, other=0)
            any_word |= (word != 0).to(tl.int32)
            any_still |= ((left & ~moves) != 0).to(tl.int32)
            any_closing |= ((left & closes) != 0).to(tl.int32)
            tl.store(words + i_r * n_words + o, left, mask=inside)
        any_move, any_past, any_reach = 0, 0, 0
        longest = tl.cast(-1, tl.int64)
        parts = (state_words, sex_words, code_words, moving, rule, duration)
        who = (clock, prediction, previous_class, last, silent)
        for start in range(0, n_moving, BM):
            o = start + tl.arange(0, BM)
            kept, past, ends, part = _moving_part(o, n_moving, parts, who, MAX_CLOCK, CODES_ASCEND)
            any_move = tl.maximum(any_move, tl.max(kept.to(tl.int32), 0))
            any_past = tl.maximum(any_past, tl.max(past.to(tl.int32), 0))
            any_reach = tl.maximum(any_reach, tl.max((part > 0).to(tl.int32), 0))
            longest = tl.maximum(longest, tl.max(ends, 0))
            tl.store(share + i_r * n_moving + o, part, mask=o < n_moving)
        if silent & (any_move > 0) & (any_reach == 0):  # none is long enough: the longest
            for start in range(0, n_moving, BM):
                o = start + tl.arange(0, BM)
                kept, _, ends, _ = _moving_part(o, n_moving, parts, who, MAX_CLOCK, CODES_ASCEND)
                part = (kept & (ends == longest)).to(tl.float64)
                tl.store(share + i_r * n_moving + o, part, mask=o < n_moving)
        still = tl.max(any_still, 0) > 0
        closing = tl.max(any_closing, 0) > 0
        kind = tl.where(silent & (any_move > 0), MOVES, kind)
        kind = tl.where(silent & (any_move == 0) & closing, CLOSES, kind)
        kind = tl.where((any_past > 0) & (any_move == 0) & (still == 0), PAST_CAP, kind)
        kind = tl.where(tl.max(any_word, 0) == 0, NO_TOKEN, kind)
    tl.store(scope + i_r, kind)
