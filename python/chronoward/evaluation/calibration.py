"""Do the numbers mean what they say: Brier, log loss, O/E, intercept, slope, ICI, ECE, the curve.

An ECE or ICI is never zero, even for a perfect model: each comes with its null floor, the mean over
outcomes drawn from the predictions themselves. The smooth curve is a logistic regression on a
natural cubic spline of logit(p); interval widths of slope, intercept and O/E are cluster-robust.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, logit

from chronoward.evaluation.intervals import Estimate, clustered_se, normal_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

SLOPE_CLIP = 1e-6
KNOT_QUANTILES = (0.05, 0.275, 0.5, 0.725, 0.95)


@dataclass(frozen=True)
class Rows:
    """What calibration is judged on: outcomes, predictions, weights and subjects of n rows."""

    event: Bools
    risk: Floats
    weight: Floats
    cluster: Ints
    n_clusters: int


def brier(event: Bools, risk: Floats, weight: Floats | None = None) -> float:
    """Weighted mean of (p - y)^2."""
    return float(np.average(np.square(risk - event), weights=weight))


def log_loss(
    event: Bools, risk: Floats, weight: Floats | None = None, eps: float = 2.220446049250313e-16
) -> float:
    """Weighted mean of -log of the probability given to what happened.

    Args:
        event: bool[n].
        risk: float64[n].
        weight: float64[n] or None.
        eps: predictions are kept inside [eps, 1 - eps].
    """
    kept = np.clip(risk, eps, 1.0 - eps)
    return float(np.average(-np.where(event, np.log(kept), np.log1p(-kept)), weights=weight))


def brier_interval(rows: Rows) -> Estimate:
    """Brier score with a clustered interval."""
    value = brier(rows.event, rows.risk, rows.weight)
    loss = np.square(rows.risk - rows.event)
    influence = rows.weight * (loss - value) / rows.weight.sum()
    return normal_interval(value, clustered_se(influence, rows.cluster, rows.n_clusters), "log")


def observed_expected(observed: Floats, rows: Rows) -> Estimate:
    """Sum of what happened over sum of what was predicted, interval on the log scale.

    Args:
        observed: float64[n], outcomes (0 or 1) or known probabilities.
        rows: the rows.
    """
    expected = float((rows.weight * rows.risk).sum())
    if expected <= 0:
        return Estimate(math.nan)
    ratio = float((rows.weight * observed).sum()) / expected
    influence = rows.weight * (observed - ratio * rows.risk) / expected
    return normal_interval(ratio, clustered_se(influence, rows.cluster, rows.n_clusters), "log")


def fit_logistic(
    design: Floats, event: Floats, weight: Floats, offset: Floats, ridge: float = 0.0
) -> Floats | None:
    """Newton's method for a few coefficients, with an offset (which scikit-learn has not).

    Args:
        design: float64[n, k].
        event: float64[n] in [0, 1].
        weight: float64[n].
        offset: float64[n], added to the linear predictor.
        ridge: penalty on all coefficients but the first.

    Returns:
        float64[k], or None where the likelihood has no maximum (separated data).
    """
    penalty = ridge * np.diag(np.r_[0.0, np.ones(design.shape[1] - 1)])
    beta = np.zeros(design.shape[1])
    for _ in range(60):
        mean = expit(design @ beta + offset)
        gradient = design.T @ (weight * (event - mean)) - penalty @ beta
        curvature = (design * (weight * mean * (1 - mean))[:, None]).T @ design + penalty
        try:
            step = np.linalg.solve(curvature, gradient)
        except np.linalg.LinAlgError:
            return None
        step *= min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-300))
        beta = beta + step
        if float(np.abs(step).max()) < 1e-10:
            return beta if np.isfinite(beta).all() else None
    return None


def _robust_covariance(design: Floats, residual: Floats, mean: Floats, rows: Rows) -> Floats:
    bread = np.linalg.inv((design * (rows.weight * mean * (1 - mean))[:, None]).T @ design)
    scores = np.zeros((rows.n_clusters, design.shape[1]))
    np.add.at(scores, rows.cluster, design * (rows.weight * residual)[:, None])
    n = rows.n_clusters
    return np.asarray(n / (n - 1) * bread @ (scores.T @ scores) @ bread)


def _recalibrate(rows: Rows, *, slope: bool) -> Estimate:
    predictor = logit(np.clip(rows.risk, SLOPE_CLIP, 1 - SLOPE_CLIP))
    ones = np.ones(len(predictor))
    event = rows.event.astype(np.float64)
    centre = float(np.average(predictor, weights=rows.weight))
    design = np.column_stack([ones, predictor - centre]) if slope else ones[:, None]
    offset = np.zeros(len(predictor)) if slope else predictor
    constant = float(np.ptp(predictor)) < 1e-12
    if rows.n_clusters < 2 or (slope and constant):
        return Estimate(math.nan)
    beta = fit_logistic(design, event, rows.weight, offset)
    if beta is None:
        return Estimate(math.nan)
    mean = expit(design @ beta + offset)
    covariance = _robust_covariance(design, event - mean, mean, rows)
    return normal_interval(float(beta[-1]), math.sqrt(covariance[-1, -1]))


def calibration_intercept(rows: Rows) -> Estimate:
    """alpha of logit(y) = alpha + offset(logit p): 0 when right on average."""
    return _recalibrate(rows, slope=False)


def calibration_slope(rows: Rows) -> Estimate:
    """beta of logit(y) = alpha + beta logit(p): below 1 when predictions are too extreme."""
    return _recalibrate(rows, slope=True)


def natural_spline(x: Floats, knots: Floats) -> Floats:
    """Natural cubic spline basis without the constant (Hastie, Tibshirani & Friedman, 5.2.1).

    Args:
        x: float64[n].
        knots: float64[k], ascending, k >= 3.

    Returns:
        float64[n, k - 1]: x itself, then k - 2 columns linear beyond the outer knots.
    """
    last = knots[-1]

    def ramp(knot: float) -> Floats:
        cubes = np.maximum(x - knot, 0.0) ** 3 - np.maximum(x - last, 0.0) ** 3
        return np.asarray(cubes / (last - knot))

    columns = [x] + [ramp(knot) - ramp(knots[-2]) for knot in knots[:-2]]
    return np.column_stack(columns)


@dataclass(frozen=True)
class SmoothCurve:
    """Observed frequency as a smooth function of the predicted one."""

    design: Floats
    beta: Floats

    @property
    def fitted(self) -> Floats:
        """Observed frequency at each row's own prediction, float64[n]."""
        return np.asarray(expit(self.design @ self.beta))


def smooth_design(risk: Floats) -> Floats:
    """Spline design of logit(p), standardized: float64[n, k]."""
    x = logit(np.clip(risk, SLOPE_CLIP, 1 - SLOPE_CLIP))
    scale = float(np.std(x)) or 1.0
    x = (x - float(np.mean(x))) / scale
    knots = np.unique(np.quantile(x, KNOT_QUANTILES))
    basis = natural_spline(x, knots) if len(knots) >= 3 else x[:, None]
    spread = np.std(basis, axis=0)
    return np.column_stack([np.ones(len(x)), basis / np.where(spread > 0, spread, 1.0)])


def smooth_curve(event: Floats, risk: Floats, weight: Floats) -> SmoothCurve | None:
    """Fits the smooth calibration curve; None where it cannot be fitted.

    Args:
        event: float64[n].
        risk: float64[n].
        weight: float64[n].
    """
    design = smooth_design(risk)
    beta = fit_logistic(design, event, weight, np.zeros(len(risk)), ridge=1e-3)
    return None if beta is None else SmoothCurve(design, beta)


def calibration_indices(event: Floats, risk: Floats, weight: Floats) -> dict[str, float]:
    """ICI, E50, E90 and Emax: |p - smooth observed frequency| over the rows (Austin 2019).

    Args:
        event: float64[n].
        risk: float64[n].
        weight: float64[n].
    """
    curve = smooth_curve(event, risk, weight)
    if curve is None:
        return dict.fromkeys(("ici", "e50", "e90", "emax"), math.nan)
    gap = np.abs(risk - curve.fitted)
    e50, e90 = np.quantile(gap, [0.5, 0.9])
    mean = float(np.average(gap, weights=weight))
    return {"ici": mean, "e50": float(e50), "e90": float(e90), "emax": float(gap.max())}


def equal_mass_bins(risk: Floats, n_bins: int = 10) -> Ints:
    """Bin of each row, bins holding equally many rows; equal predictions share a bin.

    Args:
        risk: float64[n].
        n_bins: at most this many bins.
    """
    edges = np.unique(np.quantile(risk, np.linspace(0, 1, n_bins + 1)[1:-1]))
    return np.searchsorted(edges, risk, side="left").astype(np.int64)


def expected_calibration_error(
    event: Floats, risk: Floats, weight: Floats, bins: Ints | None = None
) -> float:
    """Sum over equal-mass bins of n_b/n |mean y - mean p|.

    Args:
        event: float64[n].
        risk: float64[n].
        weight: float64[n].
        bins: int64[n], else `equal_mass_bins(risk)`.
    """
    place = equal_mass_bins(risk) if bins is None else bins
    gap = np.bincount(place, weights=weight * (event - risk))
    return float(np.abs(gap).sum() / weight.sum())


def null_floor(
    risk: Floats, weight: Floats, *, n_replicates: int = 200, seed: int = 0
) -> dict[str, float]:
    """Mean ECE and ICI of a perfect model: outcomes drawn from the predictions themselves.

    Args:
        risk: float64[n].
        weight: float64[n].
        n_replicates: draws (a quarter of them for the ICI, which needs a fit each).
        seed: key of the stream.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    bins, design = equal_mass_bins(risk), smooth_design(risk)
    zeros = np.zeros(len(risk))
    ece, ici = [], []
    for replicate in range(n_replicates):
        event = (generator.random(len(risk)) < risk).astype(np.float64)
        ece.append(expected_calibration_error(event, risk, weight, bins))
        if replicate % 4 == 0:
            beta = fit_logistic(design, event, weight, zeros, ridge=1e-3)
            if beta is not None:
                gap = np.abs(risk - expit(design @ beta))
                ici.append(float(np.average(gap, weights=weight)))
    return {
        "ece": float(np.mean(ece)) if ece else math.nan,
        "ici": float(np.mean(ici)) if ici else math.nan,
    }


def reliability_bins(rows: Rows, *, smallest: int, n_bins: int = 10) -> list[dict[str, float]]:
    """Equal-mass bins, merged with the next until each has `smallest` events and non-events.

    Args:
        rows: the rows.
        smallest: fewest events, and fewest non-events, a bin may show.
        n_bins: how many to start from.

    Returns:
        One dict a bin: n, predicted, observed, lower, upper (Wilson-like, clustered).
    """
    place = equal_mass_bins(rows.risk, n_bins)
    merged: list[NDArray[np.bool_]] = []
    current = np.zeros(len(place), dtype=bool)
    for index in np.unique(place):
        current = current | (place == index)
        events = int(rows.event[current].sum())
        if min(events, int(current.sum()) - events) >= smallest:
            merged.append(current)
            current = np.zeros(len(place), dtype=bool)
    if current.any() and merged:
        merged[-1] = merged[-1] | current
    return [_one_bin(rows, inside) for inside in merged]


def _one_bin(rows: Rows, inside: NDArray[np.bool_]) -> dict[str, float]:
    weight = np.where(inside, rows.weight, 0.0)
    total = float(weight.sum())
    observed = float((weight * rows.event).sum() / total)
    influence = weight * (rows.event - observed) / total
    interval = normal_interval(
        observed, clustered_se(influence, rows.cluster, rows.n_clusters), "logit"
    )
    return {
        "n": float(inside.sum()),
        "predicted": float((weight * rows.risk).sum() / total),
        "observed": observed,
        "lower": interval.lower,
        "upper": interval.upper,
    }
