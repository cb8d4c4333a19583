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
    from numpy.typing import NDArray

    from chronoward.engine import Rollout

SAMPLED = ("reach", "scope", "count")
N_CURVE = 20  # points of a cumulative incidence curve, at even shares of its horizon


@dataclass(frozen=True, eq=False)
class PathValues:
    """One rollout's contribution to one outcome.

    Attributes:
        curve: float64 (n_horizons, N_CURVE), its incidence by each share of each horizon.
        undetermined: bool (n_horizons,), the path ended at a cap before the horizon, undecided.
    """

    curve: NDArray[np.float64]
    undetermined: NDArray[np.bool_]


def curve_minutes(prediction_min: int, horizons_min: NDArray[np.int64]) -> NDArray[np.int64]:
    """Clock of each point of each curve, int64 (n_horizons, N_CURVE); the last is the horizon."""
    shares = np.arange(1, N_CURVE + 1)
    return prediction_min + horizons_min[:, None] * shares // N_CURVE


def path_values(
    rollout: Rollout,
    estimator: str,
    set_index: int,
    outcome_ids: NDArray[np.int32],
    prediction_min: int,
    horizons_min: NDArray[np.int64],
) -> PathValues:
    """What one path says about one outcome.

    Args:
        rollout: for reach, of the pool that masks the outcome; else of the plain pool.
        estimator: "reach", "scope" or "count".
        set_index: column of the outcome in `rollout.outcome_p`.
        outcome_ids: tokens of the outcome, ascending.
        prediction_min: prediction time on the clock.
        horizons_min: int64 (n_horizons,), minutes.
    """
    grid = curve_minutes(prediction_min, horizons_min)
    is_cut = np.full(len(horizons_min), rollout.status in UNDETERMINED)
    is_cut &= rollout.end_min < prediction_min + horizons_min
    if estimator == "reach":
        return PathValues(_reach(rollout, set_index, prediction_min, grid), is_cut)
    hit_min = _first_hit(rollout, outcome_ids, prediction_min)
    is_cut &= prediction_min + horizons_min < hit_min
    if estimator == "count":
        return PathValues((grid >= hit_min).astype(np.float64), is_cut)
    return PathValues(_scope(rollout, set_index, outcome_ids, prediction_min, grid), is_cut)


def _first_hit(rollout: Rollout, outcome_ids: NDArray[np.int32], prediction_min: int) -> float:
    """Clock of the first outcome token at risk; infinity without one."""
    hits = np.isin(rollout.token_id, outcome_ids) & (rollout.time_min > prediction_min)
    return float(rollout.time_min[np.argmax(hits)]) if hits.any() else math.inf


def _running(
    terms: NDArray[np.float64], step_min: NDArray[np.int32], grid: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Σ of the terms whose step lies at or before each minute of `grid`."""
    sums = np.concatenate([[0.0], np.cumsum(terms)])
    return sums[np.searchsorted(step_min, grid, side="right")]


def _at_risk(rollout: Rollout, set_index: int, prediction_min: int) -> NDArray[np.float64]:
    p = rollout.outcome_p[:, set_index].astype(np.float64)
    return np.where(rollout.step_min > prediction_min, p, 0.0)


def _reach(
    rollout: Rollout, set_index: int, prediction_min: int, grid: NDArray[np.int64]
) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):  # p = 1: the log of 0, an incidence of 1
        log_free = np.log1p(-_at_risk(rollout, set_index, prediction_min))
    return -np.expm1(_running(log_free, rollout.step_min, grid))


def _scope(
    rollout: Rollout,
    set_index: int,
    outcome_ids: NDArray[np.int32],
    prediction_min: int,
    grid: NDArray[np.int64],
) -> NDArray[np.float64]:
    p = _at_risk(rollout, set_index, prediction_min)
    hits = np.isin(rollout.token_id, outcome_ids) & (rollout.time_min > prediction_min)
    if hits.any():
        p[int(np.argmax(hits)) + 1 :] = 0.0  # the draw that hit still counts
    return _running(p, rollout.step_min, grid)


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


def combine(paths: list[PathValues], estimator: str) -> RowEstimate:
    """Means over paths, in the order given (sums depend on it in the last bit).

    The standard error of `count` uses p̃ = (k + ½)/(N + 1), so that 0 of N is not "without error";
    the others use the sample variance. `lower` is the mean of what is known, `upper` puts 1 for
    every undetermined path. Only means are clipped to [0, 1].
    """
    n = len(paths)
    curves = np.stack([path.curve for path in paths])  # (n, horizons, points)
    values = curves[:, :, -1]
    cut = np.stack([path.undetermined for path in paths])
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
