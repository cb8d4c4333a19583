"""Censoring and competing death: weights, cumulative incidence, concordance.

Times are days of follow-up. Whoever was followed for the whole horizon is known, so a censoring at
exactly the horizon is a known non-event, and all censoring probabilities are left limits G(t-).
Death is a known non-event, not a censoring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

CENSORED, OUTCOME, DEATH = 0, 1, 2
CAUSES = {"censored": CENSORED, "outcome": OUTCOME, "death": DEATH}  # as outcomes.parquet says it
SMALLEST_CENSORING_SURVIVAL = 0.05


@dataclass(frozen=True)
class StepFunction:
    """Right-continuous steps: `value[i]` from `time[i]` on, 1 before the first."""

    time: Floats
    value: Floats

    def left_limit(self, at: Floats) -> Floats:
        """Value just before `at`: float64, the shape of `at`."""
        return np.concatenate([[1.0], self.value])[np.searchsorted(self.time, at, side="left")]

    def __call__(self, at: Floats) -> Floats:
        """Value at `at`: float64, the shape of `at`."""
        return np.concatenate([[1.0], self.value])[np.searchsorted(self.time, at, side="right")]


def censoring_survival(time: Floats, cause: NDArray[np.int64]) -> StepFunction:
    """Kaplan-Meier of the censoring time; events of the same time come first.

    Args:
        time: float64[n] days.
        cause: int64[n], `CENSORED`, `OUTCOME` or `DEATH`.
    """
    times, inverse = np.unique(time, return_inverse=True)
    censored = np.bincount(inverse, weights=(cause == CENSORED).astype(float), minlength=len(times))
    leaving = np.bincount(inverse, minlength=len(times)).astype(np.float64)
    at_risk = len(time) - np.concatenate([[0.0], np.cumsum(leaving)[:-1]])
    eligible = at_risk - (leaving - censored)
    hazard = np.divide(censored, eligible, out=np.zeros(len(times)), where=eligible > 0)
    return StepFunction(times, np.asarray(np.cumprod(1.0 - hazard), dtype=np.float64))


@dataclass(frozen=True)
class HorizonLabels:
    """Labels at a horizon with inverse-probability-of-censoring weights."""

    event: Bools  # (n,)
    known: Bools  # (n,) false: censored before the horizon
    weight: Floats  # (n,) 0 where unknown; all 1 where nobody is censored
    censoring_survival: float  # G(h-)
    n_truncated: int


def horizon_labels(time: Floats, cause: NDArray[np.int64], horizon: float) -> HorizonLabels:
    """Who had the outcome by `horizon`, and what each known row stands for.

    Args:
        time: float64[n] days to whatever ended follow-up first.
        cause: int64[n], what that was.
        horizon: days.

    Returns:
        Weights 1/G(min(T, h)-), with G cut at 0.05 and the number of rows cut.
    """
    event = (cause == OUTCOME) & (time <= horizon)
    known = event | ((cause == DEATH) & (time <= horizon)) | (time >= horizon)
    survival = censoring_survival(time, cause)
    at = survival.left_limit(np.minimum(time, horizon))
    truncated = known & (at < SMALLEST_CENSORING_SURVIVAL)
    weight = np.where(known, 1.0 / np.maximum(at, SMALLEST_CENSORING_SURVIVAL), 0.0)
    at_horizon = float(survival.left_limit(np.array([horizon]))[0])
    return HorizonLabels(event, known, weight, at_horizon, int(truncated.sum()))


def aalen_johansen(
    time: Floats, cause: NDArray[np.int64], grid: Floats, of: int = OUTCOME
) -> Floats:
    """Cumulative incidence of one cause with the others competing.

    Args:
        time: float64[n] days.
        cause: int64[n].
        grid: float64[k] days.
        of: the cause.

    Returns:
        float64[k].
    """
    if len(time) == 0:
        return np.full(len(grid), math.nan)
    times, inverse = np.unique(time, return_inverse=True)
    any_event = np.bincount(inverse, weights=(cause != CENSORED).astype(float))
    this_event = np.bincount(inverse, weights=(cause == of).astype(float))
    leaving = np.bincount(inverse)
    at_risk = len(time) - np.concatenate([[0], np.cumsum(leaving)[:-1]])
    survival = np.cumprod(1.0 - any_event / at_risk)
    before = np.concatenate([[1.0], survival[:-1]])
    incidence = np.concatenate([[0.0], np.cumsum(before * this_event / at_risk)])
    return np.asarray(incidence[np.searchsorted(times, grid, side="right")])


def uno_c(time: Floats, cause: NDArray[np.int64], risk: Floats, tau: float) -> float:
    """Concordance up to tau, weighted for censoring; whoever died stays as a control.

    Wolbers et al. (2014): a pair of a case at T_i and somebody still followed weighs
    1/(G(T_i-) G(T_i)); a case and somebody who died before weighs 1/(G(T_i-) G(T_j-)).

    Args:
        time: float64[n] days.
        cause: int64[n].
        risk: float64[n].
        tau: days; only cases before it count.

    Returns:
        The concordance, ties one half; NaN without a comparable pair.
    """
    survival = censoring_survival(time, cause)
    floor = SMALLEST_CENSORING_SURVIVAL
    before = np.maximum(survival.left_limit(time), floor)
    at = np.maximum(survival(time), floor)
    concordant = total = 0.0
    died = cause == DEATH
    for i in np.flatnonzero((cause == OUTCOME) & (time < tau)):
        later = time > time[i]
        weight = later / at[i] + (died & ~later) / before
        better = (risk[i] > risk) + 0.5 * (risk[i] == risk)
        concordant += float((weight * better).sum() / before[i])
        total += float(weight.sum() / before[i])
    return concordant / total if total > 0 else math.nan
