"""Ranking: AUROC, average precision, their intervals, and both against a known truth.

Ties count one half and are handled by tie groups, never by argsort ranks (which call an all-tied
score perfect). Rows may carry weights (inverse probability of censoring). A statistic that does not
exist (one class only) is NaN here and null in the files, not 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chronoward.errors import DataError
from chronoward.evaluation.intervals import (
    Estimate,
    bootstrap_interval,
    clustered_se,
    normal_interval,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]


def check_probabilities(risk: Floats, name: str) -> None:
    """Refuses what is not a probability.

    Raises:
        DataError: NaN, infinite or outside [0, 1]; the message says how many.
    """
    bad = int((~np.isfinite(risk)).sum() + ((risk < 0) | (risk > 1)).sum())
    if bad:
        message = f"column {name}: {bad} of {len(risk)} values are not probabilities in [0, 1]"
        raise DataError(message)


@dataclass(frozen=True)
class TieGroups:
    """Scores sorted ascending once, with the bounds of equal ones."""

    order: Ints  # (n,) row of each sorted place
    starts: Ints  # (g,) first sorted place of each group
    group: Ints  # (n,) group of each row, in the row's own order

    @classmethod
    def of(cls, score: Floats) -> TieGroups:
        """Sorts and groups `score` (float64[n])."""
        order = np.argsort(score, kind="stable")
        ranked = score[order]
        is_start = np.ones(len(score), dtype=bool)
        is_start[1:] = ranked[1:] != ranked[:-1]
        group = np.empty(len(score), dtype=np.int64)
        group[order] = np.cumsum(is_start) - 1
        return cls(order.astype(np.int64), np.flatnonzero(is_start).astype(np.int64), group)

    def sums(self, values: Floats) -> Floats:
        """Sums of a row quantity over the groups: float64[g]."""
        return np.asarray(np.bincount(self.group, weights=values, minlength=len(self.starts)))


def _weights(weight: Floats | None, n: int) -> Floats:
    return np.ones(n) if weight is None else weight


def _half_below(sums: Floats) -> Floats:
    return np.cumsum(sums) - 0.5 * sums


def auroc(event: Bools, score: Floats, weight: Floats | None = None) -> float:
    """P(score of an event > score of a non-event) + half P(equal).

    Args:
        event: bool[n].
        score: float64[n], higher means more likely.
        weight: float64[n] or None.

    Returns:
        The area, NaN where a class is missing.
    """
    return _auroc_from(TieGroups.of(score), event, _weights(weight, len(score)))


def _auroc_from(groups: TieGroups, event: Bools, weight: Floats) -> float:
    positive = groups.sums(np.where(event, weight, 0.0))
    negative = groups.sums(np.where(event, 0.0, weight))
    total = positive.sum() * negative.sum()
    if total <= 0:
        return math.nan
    return float((positive * _half_below(negative)).sum() / total)


def auroc_influence(
    event: Bools, score: Floats, weight: Floats | None = None
) -> tuple[float, Floats]:
    """AUROC and its influence function (placement values less the area).

    Args:
        event: bool[n].
        score: float64[n].
        weight: float64[n] or None.

    Returns:
        The area and float64[n]; summing the latter within subjects and squaring gives Obuchowski's
        (1997) clustered form of DeLong's variance.
    """
    weights = _weights(weight, len(score))
    groups = TieGroups.of(score)
    positive = groups.sums(np.where(event, weights, 0.0))
    negative = groups.sums(np.where(event, 0.0, weights))
    m, n = positive.sum(), negative.sum()
    if m <= 0 or n <= 0:
        return math.nan, np.zeros(len(score))
    below = _half_below(negative) / n  # share of non-events below, by group
    above = 1.0 - _half_below(positive) / m
    area = float((positive * below).sum() / m)
    placement = np.where(event, below[groups.group], above[groups.group])
    return area, weights * (placement - area) / np.where(event, m, n)


def clustered_delong(
    event: Bools, score: Floats, cluster: Ints, n_clusters: int, weight: Floats | None = None
) -> Estimate:
    """AUROC with an interval for clustered rows (Obuchowski 1997), made on the logit scale.

    Args:
        event: bool[n].
        score: float64[n].
        cluster: int64[n] in 0..n_clusters-1.
        n_clusters: number of subjects.
        weight: float64[n] or None.
    """
    area, influence = auroc_influence(event, score, weight)
    if not math.isfinite(area):
        return Estimate(area)
    return normal_interval(area, clustered_se(influence, cluster, n_clusters), "logit")


def clustered_delong_difference(
    event: Bools,
    scores: tuple[Floats, Floats],
    cluster: Ints,
    n_clusters: int,
    weight: Floats | None = None,
) -> Estimate:
    """AUROC of the first score minus AUROC of the second, on the same rows.

    Args:
        event: bool[n].
        scores: two float64[n].
        cluster: int64[n] in 0..n_clusters-1.
        n_clusters: number of subjects.
        weight: float64[n] or None.
    """
    first, first_influence = auroc_influence(event, scores[0], weight)
    second, second_influence = auroc_influence(event, scores[1], weight)
    se = clustered_se(first_influence - second_influence, cluster, n_clusters)
    return normal_interval(first - second, se)


def _average_precision_from(groups: TieGroups, event: Bools, weight: Floats) -> float:
    positive = groups.sums(np.where(event, weight, 0.0))[::-1]
    everyone = groups.sums(weight)[::-1]
    total = positive.sum()
    if total <= 0:
        return math.nan
    flagged = np.cumsum(everyone)
    precision = np.divide(
        np.cumsum(positive), flagged, out=np.zeros_like(flagged), where=flagged > 0
    )
    return float((positive * precision).sum() / total)


def average_precision(event: Bools, score: Floats, weight: Floats | None = None) -> float:
    """Sum of (R_n - R_(n-1)) P_n over tie groups from the highest score; NaN without events.

    Args:
        event: bool[n].
        score: float64[n].
        weight: float64[n] or None.
    """
    return _average_precision_from(TieGroups.of(score), event, _weights(weight, len(score)))


def average_precision_interval(
    event: Bools,
    score: Floats,
    cluster: Ints,
    n_clusters: int,
    weight: Floats | None = None,
    *,
    n_replicates: int = 400,
    seed: int = 0,
) -> Estimate:
    """Average precision with a cluster bootstrap interval on the logit scale.

    Args:
        event: bool[n].
        score: float64[n].
        cluster: int64[n] in 0..n_clusters-1.
        n_clusters: number of subjects.
        weight: float64[n] or None.
        n_replicates: bootstrap draws.
        seed: key of the stream.
    """
    groups = TieGroups.of(score)
    weights = _weights(weight, len(score))

    def statistic(counts: Floats) -> float:
        return _average_precision_from(groups, event, weights * counts[cluster])

    return bootstrap_interval(
        statistic, n_clusters, n_replicates=n_replicates, seed=seed, scale="logit"
    )


def roc_points(
    event: Bools, score: Floats, weight: Floats | None = None, n_points: int = 101
) -> tuple[Floats, Floats]:
    """The ROC curve on an even grid of the false positive rate (fine steps would show single rows).

    Args:
        event: bool[n].
        score: float64[n].
        weight: float64[n] or None.
        n_points: size of the grid.

    Returns:
        False and true positive rates, float64[n_points] each.
    """
    weights = _weights(weight, len(score))
    groups = TieGroups.of(score)
    positive = groups.sums(np.where(event, weights, 0.0))[::-1]
    negative = groups.sums(np.where(event, 0.0, weights))[::-1]
    true_rate = np.concatenate([[0.0], np.cumsum(positive) / positive.sum()])
    false_rate = np.concatenate([[0.0], np.cumsum(negative) / negative.sum()])
    grid = np.linspace(0.0, 1.0, n_points)
    return grid, np.interp(grid, false_rate, true_rate)


def precision_recall_points(
    event: Bools, score: Floats, weight: Floats | None = None, n_points: int = 101
) -> tuple[Floats, Floats]:
    """Precision on an even grid of recall, each the best reachable there (a step curve).

    Args:
        event: bool[n].
        score: float64[n].
        weight: float64[n] or None.
        n_points: size of the grid.

    Returns:
        Recall and precision, float64[n_points - 1] each (recall 0 is left out).
    """
    weights = _weights(weight, len(score))
    groups = TieGroups.of(score)
    positive = np.cumsum(groups.sums(np.where(event, weights, 0.0))[::-1])
    everyone = np.cumsum(groups.sums(weights)[::-1])
    precision = np.divide(positive, everyone, out=np.zeros_like(positive), where=everyone > 0)
    recall = positive / positive[-1]
    grid = np.linspace(0.0, 1.0, n_points)[1:]
    place = np.minimum(np.searchsorted(recall, grid - 1e-12), len(recall) - 1)
    return grid, precision[place]


def _truth_auroc_from(groups: TieGroups, probability: Floats, weight: Floats) -> float:
    positive = groups.sums(weight * probability)
    negative = groups.sums(weight * (1.0 - probability))
    total = positive.sum() * negative.sum()
    return float((positive * _half_below(negative)).sum() / total) if total > 0 else math.nan


def truth_auroc(probability: Floats, score: Floats, weight: Floats | None = None) -> float:
    """AUROC against known probabilities, which takes the noise of drawn outcomes away.

    sum over all i, j of P_i (1 - P_j) 1[s_i > s_j] / sum of P_i (1 - P_j), ties one half.

    Args:
        probability: float64[n], the truth.
        score: float64[n], what is judged.
        weight: float64[n] or None: how often each row counts, as a bootstrap draws it.
    """
    return _truth_auroc_from(TieGroups.of(score), probability, _weights(weight, len(score)))


def truth_auroc_interval(
    probability: Floats,
    score: Floats,
    cluster: Ints,
    n_clusters: int,
    *,
    n_replicates: int = 200,
    seed: int = 0,
) -> Estimate:
    """`truth_auroc` with a cluster bootstrap interval.

    Args:
        probability: float64[n].
        score: float64[n].
        cluster: int64[n] in 0..n_clusters-1.
        n_clusters: number of subjects.
        n_replicates: bootstrap draws.
        seed: key of the stream.
    """
    groups = TieGroups.of(score)

    def statistic(counts: Floats) -> float:
        return _truth_auroc_from(groups, probability, counts[cluster])

    return bootstrap_interval(
        statistic, n_clusters, n_replicates=n_replicates, seed=seed, scale="logit"
    )
