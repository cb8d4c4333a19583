"""How far two samples of subjects are apart: prevalences, pairs, gaps, ages, lengths, labs.

Every function returns the statistic as a function of subject weights, so that one subject
bootstrap serves all of them. R² is the coefficient of determination (1 is equality), not a squared
correlation, which forgives a wrong scale.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from chronoward.evaluation.intervals import Estimate, bootstrap_counts, percentile_interval

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from chronoward.evaluation.corpus import Corpus

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Statistic = Callable[[Floats, Floats], float]  # (reference weights, candidate weights)

N_PAIR_CODES = 300
FEWEST_LAB_VALUES = 50
FEWEST_LAB_SUBJECTS = 11
MOST_LABS = 30


def r_squared(real: Floats, synthetic: Floats) -> float:
    """1 - sum (real - synthetic)^2 / sum (real - mean real)^2; NaN for constant `real`."""
    total = float(np.square(real - real.mean()).sum()) if len(real) else 0.0
    return 1.0 - float(np.square(real - synthetic).sum()) / total if total > 0 else math.nan


def presence(subject: Ints, item: Ints, shape: tuple[int, int]) -> sparse.csr_array:
    """Binary matrix of which subject has which item.

    Args:
        subject: int64[k].
        item: int64[k].
        shape: (subjects, items).
    """
    matrix = sparse.csr_array((np.ones(len(item)), (subject, item)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def share_r_squared(
    reference: sparse.csr_array, candidate: sparse.csr_array, kept: Ints | None = None
) -> Statistic:
    """R² between the shares of subjects that have each item seen in either sample.

    Args:
        reference: (n, items) presence.
        candidate: (m, items) presence.
        kept: columns to compare, else all that occur in either.
    """
    seen = np.asarray(reference.sum(axis=0) + candidate.sum(axis=0)).ravel()
    columns = np.flatnonzero(seen > 0) if kept is None else kept
    first, second = reference[:, columns].T.tocsr(), candidate[:, columns].T.tocsr()

    def statistic(first_weight: Floats, second_weight: Floats) -> float:
        real = first @ first_weight / first_weight.sum()
        return r_squared(real, second @ second_weight / second_weight.sum())

    return statistic


def _visit_blocks(corpus: Corpus, codes: Ints) -> tuple[Ints, Ints, Ints]:
    """Events of the given codes: visit, place of the code, and where each subject's begin."""
    place = np.searchsorted(codes, corpus.event_code)
    place = np.minimum(place, len(codes) - 1)
    kept = codes[place] == corpus.event_code
    visit, code = corpus.event_visit[kept], place[kept]
    bounds = np.searchsorted(corpus.visit_subject[visit], np.arange(corpus.n_subjects + 1))
    return visit, code, bounds


def pair_presence(corpus: Corpus, codes: Ints) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Which subject has which pair of codes in one visit, and in two visits in a row.

    Args:
        corpus: the sample.
        codes: int64[k] ascending; only these are paired.

    Returns:
        Two presence matrices (n, k * k): unordered pairs {c, c'} of a visit, c < c'; ordered pairs
        (c in a visit, c' in the next).
    """
    k = len(codes)
    first_visit = np.searchsorted(corpus.visit_subject, np.arange(corpus.n_subjects + 1))
    visit, code, bounds = _visit_blocks(corpus, codes)
    within: list[Ints] = []
    follows: list[Ints] = []
    upper = np.triu(np.ones((k, k), dtype=bool), 1)
    for subject in range(corpus.n_subjects):
        rows = slice(bounds[subject], bounds[subject + 1])
        n_visits = int(first_visit[subject + 1] - first_visit[subject])
        block = np.zeros((n_visits, k), dtype=np.float32)
        block[visit[rows] - first_visit[subject], code[rows]] = 1.0
        used = np.flatnonzero(block.any(axis=0))
        small = block[:, used]
        both = (small.T @ small > 0) & upper[np.ix_(used, used)]
        a, b = np.nonzero(both)
        within.append(used[a] * k + used[b])
        a, b = np.nonzero(small[:-1].T @ small[1:] > 0)
        follows.append(used[a] * k + used[b])
    return _stack(within, k), _stack(follows, k)


def _stack(items: list[Ints], k: int) -> sparse.csr_array:
    subject = np.repeat(np.arange(len(items)), [len(item) for item in items])
    joined = np.concatenate(items) if items else np.zeros(0, dtype=np.int64)
    return presence(subject, joined, (len(items), k * k))


class Distance:
    """Distances between two weighted one-dimensional samples, sorted once."""

    def __init__(self, reference: tuple[Floats, Ints], candidate: tuple[Floats, Ints]) -> None:
        values = np.concatenate([reference[0], candidate[0]])
        self.order = np.argsort(values, kind="stable")
        self.sorted = values[self.order]
        self.owners = (reference[1], candidate[1])
        self.is_end = np.append(self.sorted[1:] != self.sorted[:-1], True)
        self.scale = (
            float(np.subtract(*np.quantile(reference[0], [0.75, 0.25])))
            if len(reference[0])
            else 0.0
        )

    def _cumulative(self, first: Floats, second: Floats) -> tuple[Floats, Floats]:
        ours, theirs = first[self.owners[0]], second[self.owners[1]]
        one = np.concatenate([ours, np.zeros(len(theirs))])[self.order]
        two = np.concatenate([np.zeros(len(ours)), theirs])[self.order]
        return np.cumsum(one) / ours.sum(), np.cumsum(two) / theirs.sum()

    def kolmogorov_smirnov(self, first: Floats, second: Floats) -> float:
        """Largest difference of the distribution functions."""
        if min(len(self.owners[0]), len(self.owners[1])) == 0:
            return math.nan
        one, two = self._cumulative(first, second)
        return float(np.abs(one - two)[self.is_end].max())

    def wasserstein_over_iqr(self, first: Floats, second: Floats) -> float:
        """Wasserstein-1 distance in interquartile ranges of the reference."""
        if min(len(self.owners[0]), len(self.owners[1])) == 0 or self.scale <= 0:
            return math.nan
        one, two = self._cumulative(first, second)
        return float((np.abs(one - two)[:-1] * np.diff(self.sorted)).sum() / self.scale)


def durations(corpus: Corpus) -> dict[str, tuple[Floats, Ints]]:
    """One-dimensional quantities by name: values and the subject of each.

    `gap_days` from a visit's end to the next one's start (not below 0), `age_years` at the first
    visit, `events` and `visits` a subject, `span_years` from first to last visit.
    """
    n = corpus.n_subjects
    everyone = np.arange(n)
    same = corpus.visit_subject[1:] == corpus.visit_subject[:-1]
    gap = np.maximum(corpus.visit_start[1:] - corpus.visit_end[:-1], 0.0)[same]
    known = np.isfinite(corpus.start_age)
    bounds = np.searchsorted(corpus.visit_subject, np.arange(n + 1))
    some = np.flatnonzero(bounds[1:] > bounds[:-1])
    span = corpus.visit_start[bounds[some + 1] - 1] - corpus.visit_start[bounds[some]]
    return {
        "gap_days": (gap, corpus.visit_subject[1:][same]),
        "age_years": (corpus.start_age[known], everyone[known]),
        "events": (np.bincount(corpus.event_subject, minlength=n).astype(float), everyone),
        "visits": (np.diff(bounds).astype(float), everyone),
        "span_years": (span / 365.25, some),
    }


def total_variation(reference: NDArray[Any], candidate: NDArray[Any]) -> Statistic:
    """Half the sum of absolute differences of category shares."""
    names, index = np.unique(
        np.concatenate([reference, candidate]).astype(str), return_inverse=True
    )
    ours, theirs = index[: len(reference)], index[len(reference) :]

    def statistic(first: Floats, second: Floats) -> float:
        one = np.bincount(ours, weights=first, minlength=len(names)) / first.sum()
        two = np.bincount(theirs, weights=second, minlength=len(names)) / second.sum()
        return float(0.5 * np.abs(one - two).sum())

    return statistic


def lab_distances(reference: Corpus, candidate: Corpus) -> dict[int, Distance]:
    """KS machinery of the commonest labs that both samples hold often enough, by lab number."""
    numbers, counts = np.unique(reference.lab_code, return_counts=True)
    found: dict[int, Distance] = {}
    for number in numbers[np.argsort(-counts, kind="stable")].tolist():
        pairs = []
        for corpus in (reference, candidate):
            rows = np.flatnonzero(corpus.lab_code == number)
            owners = corpus.lab_subject[rows]
            if len(rows) >= FEWEST_LAB_VALUES and len(np.unique(owners)) >= FEWEST_LAB_SUBJECTS:
                pairs.append((corpus.lab_value[rows], owners))
        if len(pairs) == 2:
            found[number] = Distance(pairs[0], pairs[1])
        if len(found) == MOST_LABS:
            break
    return found


def mean_lab_ks(distances: dict[int, Distance]) -> Statistic:
    """Mean over labs of the KS distance; NaN without a lab."""

    def statistic(first: Floats, second: Floats) -> float:
        found = [d.kolmogorov_smirnov(first, second) for d in distances.values()]
        return float(np.mean(found)) if found else math.nan

    return statistic


def subject_bootstrap(
    statistic: Statistic,
    sizes: tuple[int, int],
    *,
    range_: tuple[float, float],
    n_replicates: int = 100,
    seed: int = 0,
) -> Estimate:
    """The statistic with a percentile interval from drawing subjects in both samples.

    Args:
        statistic: of (reference weights, candidate weights).
        sizes: subjects in the reference and in the candidate.
        range_: the statistic's own bounds.
        n_replicates: draws.
        seed: key of the streams.
    """
    value = statistic(np.ones(sizes[0]), np.ones(sizes[1]))
    if not math.isfinite(value):
        return Estimate(value)
    first = bootstrap_counts(sizes[0], n_replicates, seed)
    second = bootstrap_counts(sizes[1], n_replicates, seed + 1)
    draws = np.array([statistic(one, two) for one, two in zip(first, second, strict=True)])
    return _centered(value, draws, range_)


def _centered(value: float, draws: Floats, range_: tuple[float, float]) -> Estimate:
    """Percentile interval, moved by the bootstrap's own bias.

    Drawing subjects again adds noise that every distance takes for distance, so the raw percentile
    interval of a distance lies beside its estimate; its width is right.
    """
    found = percentile_interval(value, draws)
    shift = value - float(np.median(draws[np.isfinite(draws)]))
    lower, upper = max(found.lower + shift, range_[0]), min(found.upper + shift, range_[1])
    return Estimate(value, found.se, min(lower, value), max(upper, value))
