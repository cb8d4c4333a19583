"""Takes a drawn token into its row: clock, place in the grammar, and whether the row ends."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl
from chronoward.kernels.sample.kernel_clock import clock_after, silent_share
from chronoward.kernels.sample.tables import DEATH, END, SEX, Column, Status

_DEATH, _END, _SEX = tl.constexpr(DEATH), tl.constexpr(END), tl.constexpr(SEX)
STATE, SEX_COLUMN = tl.constexpr(int(Column.STATE)), tl.constexpr(int(Column.SEX))
PREVIOUS_CLASS = tl.constexpr(int(Column.PREVIOUS_CLASS))
PREVIOUS_TOKEN = tl.constexpr(int(Column.PREVIOUS_TOKEN))
CLOCK, STEP = tl.constexpr(int(Column.CLOCK)), tl.constexpr(int(Column.STEP))
PREDICTION = tl.constexpr(int(Column.PREDICTION))
DEADLINE_COLUMN = tl.constexpr(int(Column.DEADLINE))
ENDED_BY_DEADLINE = tl.constexpr(int(Status.DEADLINE))
DIED, ENDED = tl.constexpr(int(Status.DEATH)), tl.constexpr(int(Status.END))
TOKEN_CAP, CLOCK_CAP = tl.constexpr(int(Status.TOKEN_CAP)), tl.constexpr(int(Status.CLOCK_CAP))


@triton.jit
def accept(
    slot,
    token,
    u,
    clock_before,
    token_class,
    token_sex,
    next_state,
    moving_index,
    rule,
    duration,
    n_classes,
    max_new_tokens,
    max_clock,
):
    """Writes a row's line of `slots`, but its status; returns its clock and its status."""
    kind = tl.load(token_class + token)
    i = tl.load(moving_index + token)
    prediction = tl.load(slot + PREDICTION).to(tl.int64)
    clock = clock_before.to(tl.int64)
    if i >= 0:
        before = tl.load(slot + PREVIOUS_CLASS)
        silent = (prediction >= 0) & (clock <= prediction)
        if silent:
            share = silent_share(rule, duration, i, i >= 0, clock, prediction, before)
            u = (1.0 - share) + share * u
        after = clock_after(rule, duration, i, i >= 0, u, clock, before)
        after = tl.where(silent, tl.maximum(after, prediction + 1), after)
        clock = tl.minimum(after, tl.maximum(clock, max_clock))
    state = tl.load(next_state + tl.load(slot + STATE) * n_classes + kind)
    step = tl.load(slot + STEP) + 1
    tl.store(slot + STATE, state)
    if kind == _SEX:
        tl.store(slot + SEX_COLUMN, tl.load(token_sex + token))
    tl.store(slot + PREVIOUS_CLASS, kind)
    tl.store(slot + PREVIOUS_TOKEN, token)
    tl.store(slot + CLOCK, clock.to(tl.int32))
    tl.store(slot + STEP, step)
    deadline = tl.load(slot + DEADLINE_COLUMN).to(tl.int64)
    is_silent = (prediction >= 0) & (clock <= prediction)
    status = tl.where(step >= max_new_tokens, TOKEN_CAP, 0)
    status = tl.where(is_silent & (clock >= max_clock), CLOCK_CAP, status)
    status = tl.where((deadline >= 0) & (clock > deadline), ENDED_BY_DEADLINE, status)
    status = tl.where(kind == _END, ENDED, status)
    status = tl.where(kind == _DEATH, DIED, status)
    return clock.to(tl.int32), status
