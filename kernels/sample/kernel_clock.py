"""How a token moves a row's clock: the same numbers as csrc/core/sample.cpp, in fp64 and int64."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl
from chronoward.kernels.sample.tables import INPATIENT_GAP, VISIT_TYPE

_VISIT_TYPE = tl.constexpr(VISIT_TYPE)
_INPATIENT_GAP = tl.constexpr(INPATIENT_GAP)
_DAY = tl.constexpr(1440)
_LAST_MINUTE = tl.constexpr(2**31 - 1)
KNOTS = tl.constexpr(33)


@triton.jit
def clock_after(rule, duration, i, inside, u, clock, previous_class):
    """The clock after the i-th moving token when its duration's quantile is u (fp64).  # int64

    Args: how each moving token moves it, their quantile functions, places in these, which of them
    are there, the quantile, the clock int64, the class before.
    """
    kind = tl.load(rule + i, mask=inside, other=0)
    q = duration + i.to(tl.int64) * KNOTS
    place = u * (KNOTS - 1)
    j = tl.minimum(place.to(tl.int32), KNOTS - 2)
    low = tl.load(q + j, mask=inside, other=0).to(tl.float64)
    high = tl.load(q + j + 1, mask=inside, other=0).to(tl.float64)
    drawn = clock + tl.floor(low + (place - j.to(tl.float64)) * (high - low) + 0.5).to(tl.int64)
    fixed = tl.load(q, mask=inside, other=0).to(tl.int64)
    midnight = clock - clock % _DAY
    day = tl.where(fixed > 0, midnight + fixed * _DAY, clock)
    is_of_day = (previous_class == _VISIT_TYPE) | (previous_class == _INPATIENT_GAP)
    hour = clock + fixed * 60
    hour = tl.where(is_of_day, tl.maximum(clock, midnight + fixed * 60), hour)
    after = tl.where(kind == 1, drawn, tl.where(kind == 2, day, hour))
    after = tl.where(kind == 0, clock, after)
    return tl.minimum(after, _LAST_MINUTE)


@triton.jit
def silent_share(rule, duration, i, inside, clock, prediction, previous_class):
    """P(the clock after the i-th moving token lies beyond the prediction time).  # fp64

    Durations are rounded half up: one beyond d minutes needs a quantile of at least d + 1/2.
    """
    kind = tl.load(rule + i, mask=inside, other=0)
    q = duration + i.to(tl.int64) * KNOTS
    needed = (prediction - clock).to(tl.float64) + 0.5
    n = tl.zeros_like(i)
    for j in range(KNOTS):
        n += (tl.load(q + j, mask=inside, other=0).to(tl.float64) < needed).to(tl.int32)
    j = tl.minimum(tl.maximum(n, 1), KNOTS - 1)
    low = tl.load(q + j - 1, mask=inside, other=0).to(tl.float64)
    high = tl.load(q + j, mask=inside, other=0).to(tl.float64)
    part = (needed - low) / tl.where(high > low, high - low, 1.0)
    share = 1.0 - ((j - 1).to(tl.float64) + part) / (KNOTS - 1)
    share = tl.where(n == 0, 1.0, tl.where(n == KNOTS, 0.0, share))
    half = needed * 0.0 + 0.5 + tl.zeros_like(low)
    after = clock_after(rule, duration, i, inside, half, clock, previous_class)
    return tl.where(kind == 1, share, (after > prediction).to(tl.float64))
