"""Estimates with 95 % intervals, clustered by subject.

A subject contributes several rows, so rows are not independent: i.i.d. intervals covered 76 %
where 95 % was promised, clustered ones 95 %. Every smooth statistic here hands over its influence
function a row; those are summed within subjects before they are squared. What is not smooth
(average precision) is bootstrapped by drawing subjects, never rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from chronoward.files import finite_or_none

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

Z_95 = 1.959963984540054
Scale = Literal["identity", "log", "logit"]


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error and 95 % interval (NaN where there is none)."""

    value: float
    se: float = math.nan
    lower: float = math.nan
    upper: float = math.nan

    def to_json(self) -> dict[str, Any]:
        """The estimate with None for what is not a number."""
        names = ("value", "lower", "upper", "se")
        return {name: finite_or_none(float(getattr(self, name))) for name in names}


def cluster_index(subject_id: NDArray[np.int64]) -> tuple[Ints, int]:
    """Numbers subjects 0..n-1.

    Args:
        subject_id: int64[n].

    Returns:
        int64[n] with each row's subject number, and the number of subjects.
    """
    unique, index = np.unique(subject_id, return_inverse=True)
    return index.astype(np.int64), len(unique)


def clustered_se(influence: Floats, cluster: Ints, n_clusters: int) -> float:
    """Standard error of a statistic from its influence function.

    Args:
        influence: float64[n], already divided by the sample size: the statistic's deviation is
            approximately their sum.
        cluster: int64[n] in 0..n_clusters-1.
        n_clusters: number of subjects.

    Returns:
        sqrt(I/(I-1) * sum over subjects of squared sums); NaN for fewer than two subjects.
    """
    if n_clusters < 2:
        return math.nan
    sums = np.bincount(cluster, weights=influence, minlength=n_clusters)
    return float(np.sqrt(n_clusters / (n_clusters - 1) * np.square(sums).sum()))


def normal_interval(value: float, se: float, scale: Scale = "identity") -> Estimate:
    """Normal 95 % interval, made on another scale where the statistic is bounded.

    Args:
        value: the estimate.
        se: its standard error on the identity scale.
        scale: `logit` for shares, `log` for ratios.
    """
    if not (math.isfinite(value) and math.isfinite(se)) or se == 0.0:
        return Estimate(value, se)
    if scale == "log" and value > 0:
        half = Z_95 * se / value
        return Estimate(value, se, value * math.exp(-half), value * math.exp(half))
    if scale == "logit" and 0 < value < 1:
        centre = math.log(value / (1 - value))
        half = Z_95 * se / (value * (1 - value))
        lower, upper = (1 / (1 + math.exp(-(centre + sign * half))) for sign in (-1, 1))
        return Estimate(value, se, lower, upper)
    return Estimate(value, se, value - Z_95 * se, value + Z_95 * se)


def bootstrap_counts(n_clusters: int, n_replicates: int, seed: int) -> Iterator[Floats]:
    """Draws subjects with replacement.

    Args:
        n_clusters: number of subjects.
        n_replicates: how many draws.
        seed: key of the Philox stream.

    Yields:
        float64[n_clusters]: how often each subject was drawn.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    for _ in range(n_replicates):
        draws = (generator.random(n_clusters) * n_clusters).astype(np.int64)
        yield np.bincount(draws, minlength=n_clusters).astype(np.float64)


def bootstrap_interval(
    statistic: Callable[[Floats], float],
    n_clusters: int,
    *,
    n_replicates: int = 400,
    seed: int = 0,
    scale: Scale = "identity",
) -> Estimate:
    """Interval of a statistic from its cluster bootstrap standard error on `scale`.

    Args:
        statistic: from subject weights float64[n_clusters] to a number.
        n_clusters: number of subjects.
        n_replicates: bootstrap draws.
        seed: key of the stream.
        scale: where the normal interval is made.
    """
    value = statistic(np.ones(n_clusters))
    draws = np.array(
        [statistic(counts) for counts in bootstrap_counts(n_clusters, n_replicates, seed)]
    )
    draws = draws[np.isfinite(draws)]
    if not math.isfinite(value) or len(draws) < n_replicates // 2 or len(draws) < 2:
        return Estimate(value)
    if scale == "logit" and 0 < value < 1:
        inside = draws[(draws > 0) & (draws < 1)]
        if len(inside) > 1:
            spread = float(np.std(np.log(inside / (1 - inside)), ddof=1))
            return normal_interval(value, spread * value * (1 - value), "logit")
    if scale == "log" and value > 0 and (draws > 0).all():
        return normal_interval(value, float(np.std(np.log(draws), ddof=1)) * value, "log")
    return normal_interval(value, float(np.std(draws, ddof=1)), "identity")


def percentile_interval(
    value: float, draws: Floats, *, lower_bound: float = -math.inf, upper_bound: float = math.inf
) -> Estimate:
    """Percentile interval of bootstrap draws, kept inside the statistic's range."""
    draws = draws[np.isfinite(draws)]
    if len(draws) < 2:
        return Estimate(value)
    low, high = np.quantile(draws, [0.025, 0.975])
    spread = float(np.std(draws, ddof=1))
    return Estimate(value, spread, max(float(low), lower_bound), min(float(high), upper_bound))
