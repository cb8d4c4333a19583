"""Rollouts to risks: count, scope and reach, with what they do not know.

With p_t the outcome's probability at draw t, H the horizon and D death:
- count: 1 if the outcome is drawn by H.
- scope: Σ p_t up to the first of outcome, D, H; unbiased, one pool for all outcomes, may exceed 1.
- reach: 1 − Π (1 − p_t) of a path on which the outcome was masked; unbiased, within [0, 1], so its
  variance is at most p(1 − p). Death ends the product: a cumulative incidence.
A draw counts when prediction time < clock ≤ prediction time + H. Paths that end at a cap are
undetermined beyond it; they are kept and bound the estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chronoward.engine import UNDETERMINED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from chronoward.engine import Rollout

SAMPLED = ("reach", "scope", "count")
N_CURVE = 20  # points of a cumulative incidence curve, at even shares of its horizon
_CLOCKS = 1 << 32  # more than there are minutes on a clock


@dataclass(frozen=True, eq=False)
class PathValues:
    """What n rollouts of one row say about one outcome.

    Attributes:
        curve: float64 (n, n_horizons, N_CURVE), each one's incidence by each share of each horizon.
        undetermined: bool (n, n_horizons), the path ended at a cap before the horizon, undecided.
    """

    curve: NDArray[np.float64]
    undetermined: NDArray[np.bool_]


def path_values(
    rollouts: Sequence[Rollout],
    estimator: str,
    set_index: int,
    outcome_ids: NDArray[np.int32],
    prediction_min: int,
    horizons_min: NDArray[np.int64],
) -> PathValues:
    """What each path says about one outcome.

    Args:
        rollouts: of one row; for reach of the pool that masks the outcome, else of the plain pool.
        estimator: "reach", "scope" or "count".
        set_index: column of the outcome in `outcome_p`.
        outcome_ids: tokens of the outcome, ascending.
        prediction_min: prediction time on the clock.
        horizons_min: int64 (n_horizons,), minutes.
    """
    ends_min = prediction_min + horizons_min
    is_capped = np.array([rollout.status in UNDETERMINED for rollout in rollouts])
    known_min = np.array([rollout.end_min for rollout in rollouts])
    is_cut = is_capped[:, None] & (known_min[:, None] < ends_min)
    shares = np.arange(1, N_CURVE + 1)
    grid = prediction_min + horizons_min[:, None] * shares // N_CURVE  # the last is the horizon
    if estimator == "reach":
        draws = _Draws(rollouts, set_index, prediction_min)
        with np.errstate(divide="ignore"):  # p = 1: the log of 0, an incidence of 1
            log_free = np.log1p(-draws.p)
        return PathValues(-np.expm1(draws.sums(log_free, grid)), is_cut)
    hit, hit_min = _first_hits(rollouts, outcome_ids, prediction_min)
    is_cut &= ends_min < hit_min[:, None]
    if estimator == "count":
        return PathValues((grid >= hit_min[:, None, None]).astype(np.float64), is_cut)
    draws = _Draws(rollouts, set_index, prediction_min)
    p = np.where(draws.step > hit[draws.path], 0.0, draws.p)  # the draw that hit still counts
    return PathValues(draws.sums(p, grid), is_cut)


class _Draws:
    """The draws of several paths, one after the other.

    Attributes:
        path, step: int64 (n_draws,), whose and the how manieth of its own each draw is.
        p: float64 (n_draws,), the outcome's probability, 0 before time at risk.
    """

    def __init__(self, rollouts: Sequence[Rollout], set_index: int, prediction_min: int) -> None:
        lengths = np.array([len(rollout.step_min) for rollout in rollouts])
        self._first = np.cumsum(lengths) - lengths
        self._longest = int(lengths.max())
        self.path = np.repeat(np.arange(len(rollouts)), lengths)
        self.step = np.arange(len(self.path)) - self._first[self.path]
        clock = np.concatenate([rollout.step_min for rollout in rollouts]).astype(np.int64)
        p = np.concatenate([rollout.outcome_p[:, set_index] for rollout in rollouts])
        self.p = np.where(clock > prediction_min, p.astype(np.float64), 0.0)
        self._clock = self.path * _CLOCKS + clock  # ascending over all paths

    def sums(self, terms: NDArray[np.float64], grid: NDArray[np.int64]) -> NDArray[np.float64]:
        """Σ of a path's terms whose draw lies at or before each minute of `grid`: (n, *grid)."""
        n = len(self._first)
        sums = np.zeros((n, self._longest + 1))
        sums[self.path, self.step + 1] = terms
        np.cumsum(sums, axis=1, out=sums)  # path by path, as each alone
        minute = np.arange(n)[:, None] * _CLOCKS + grid.ravel()
        place = np.searchsorted(self._clock, minute, side="right") - self._first[:, None]
        return np.take_along_axis(sums, place, axis=1).reshape(n, *grid.shape)


def _first_hits(
    rollouts: Sequence[Rollout], outcome_ids: NDArray[np.int32], prediction_min: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Number and clock of each path's first outcome token at risk; the number past its last and
    infinity without one."""
    lengths = np.array([len(rollout.token_id) for rollout in rollouts])
    tokens = np.concatenate([rollout.token_id for rollout in rollouts])
    clock = np.concatenate([rollout.time_min for rollout in rollouts])
    hits = np.flatnonzero(np.isin(tokens, outcome_ids) & (clock > prediction_min))
    path, first = np.unique(np.repeat(np.arange(len(rollouts)), lengths)[hits], return_index=True)
    hit, hit_min = lengths.copy(), np.full(len(rollouts), np.inf)
    hit[path] = hits[first] - (np.cumsum(lengths) - lengths)[path]
    hit_min[path] = clock[hits[first]]
    return hit, hit_min


@dataclass(frozen=True, eq=False)
class RowEstimate:
    """One row's risks of one outcome, arrays over horizons.

    Attributes:
        risk, mc_se, undetermined, lower, upper: float64 (n_horizons,).
        cif: float64 (n_horizons, N_CURVE).
        variance: float64 (n_horizons,), of one path's value.
    """

    n_rollouts: int
    risk: NDArray[np.float64]
    mc_se: NDArray[np.float64]
    undetermined: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    cif: NDArray[np.float64]
    variance: NDArray[np.float64]


def combine(paths: PathValues, estimator: str) -> RowEstimate:
    """Means over paths, in their order (sums depend on it in the last bit).

    The standard error of `count` uses p̃ = (k + ½)/(N + 1), so that 0 of N is not "without error";
    the others use the sample variance. `lower` is the mean of what is known, `upper` puts 1 for
    every undetermined path. Only means are clipped to [0, 1].
    """
    curves, cut = paths.curve, paths.undetermined
    n, values = len(curves), curves[:, :, -1]
    lower = values.mean(axis=0)
    upper = np.where(cut, np.maximum(values, 1.0), values).mean(axis=0)
    if estimator == "count":
        smoothed = (values.sum(axis=0) + 0.5) / (n + 1)
        variance = smoothed * (1 - smoothed)
    else:
        variance = values.var(axis=0, ddof=1) if n > 1 else np.full(len(lower), np.nan)
    return RowEstimate(
        n_rollouts=n,
        risk=np.clip(lower, 0.0, 1.0),
        mc_se=np.sqrt(variance / n),
        undetermined=cut.mean(axis=0),
        lower=np.clip(lower, 0.0, 1.0),
        upper=np.clip(upper, 0.0, 1.0),
        cif=np.clip(curves.mean(axis=0), 0.0, 1.0),
        variance=variance,
    )


def mean_undetermined(estimates: list[list[RowEstimate]]) -> float:
    """Share of undetermined rollouts, mean over rows and outcomes, each at its worst horizon."""
    return float(np.mean([e.undetermined.max() for row in estimates for e in row]))


def wanted_rollouts(pilot: list[RowEstimate], target_se: float, *, least: int, most: int) -> int:
    """N = σ²/SE² from a pilot's variances, over outcomes and horizons the largest.

    The pilot's own rollouts are not used again: stopping on what one estimates is biased.
    """
    variance = max(float(np.nanmax(row.variance, initial=0.0)) for row in pilot)
    return int(np.clip(math.ceil(variance / target_se**2), least, most))
