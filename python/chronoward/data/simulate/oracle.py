"""How well one can do: AUROC of the truth, of age and sex, of order without times, without values.

Against probabilities instead of drawn outcomes, so that few events make no noise. The value-blind
oracle is exact: the same filter without the labs' values. The order-only one is E[P | order],
learned by gradient boosting on simulated rows; what it cannot learn makes it look worse than it is,
so its features are many: counts, what came in the last visits, how many visits since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from chronoward.data.simulate.chains import WEEKS_PER_YEAR
from chronoward.data.simulate.events import EVENTS, ROUTINE
from chronoward.data.simulate.panel import ABSENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.data.simulate.clinic import Clinic

LAST_VISITS: Final = (1, 2, 4, 8)
TEST_EVERY: Final = 3
"""Every third subject is kept for measuring what the others taught."""


def probability_auroc(p: NDArray[np.float64], score: NDArray[np.float64]) -> float:
    """Σᵢⱼ Pᵢ(1−Pⱼ)·1[sᵢ > sⱼ] / Σᵢⱼ Pᵢ(1−Pⱼ), ties ½: the AUROC expected of drawn outcomes.

    Args:
        p: float64 [n], probabilities.
        score: float64 [n].
    """
    order = np.argsort(score, kind="stable")
    p, score = p[order], score[order]
    starts = np.flatnonzero(np.diff(score, prepend=np.nan) != 0)
    cases, others = np.add.reduceat(p, starts), np.add.reduceat(1 - p, starts)
    below = np.cumsum(others) - others
    ties = float((p * (1 - p)).sum())  # no row is compared with itself
    won = float((cases * (below + others / 2)).sum()) - ties / 2
    return won / (float(p.sum()) * float((1 - p).sum()) - ties)


def _since_last(hit: NDArray[np.bool_], first: NDArray[np.int64]) -> NDArray[np.float32]:
    """Visits since the last hit (0 now), -1 before any; `first` is each row's subject's first."""
    index = np.arange(len(hit))
    last = np.maximum.accumulate(np.where(hit, index, -1))
    return np.where(last >= first, index - last, -1).astype(np.float32)


def _window_counts(
    amount: NDArray[np.float64], first: NDArray[np.int64]
) -> list[NDArray[np.float32]]:
    """Sums over the last 1, 2, 4, 8 visits and over all of them."""
    total = np.concatenate([[0.0], np.cumsum(amount)])
    index = np.arange(len(amount))
    starts = [np.maximum(index + 1 - k, first) for k in LAST_VISITS] + [first]
    return [(total[index + 1] - total[s]).astype(np.float32) for s in starts]


def demographics(clinic: Clinic, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Age at the visit and sex, float32 [n, 2]."""
    subject, week = clinic.course.subject[rows], clinic.course.week[rows]
    population = clinic.population
    age = (population.entry_day - population.birth_day)[subject] / 365.25 + week / WEEKS_PER_YEAR
    return np.stack([age, population.sex[subject]], axis=1).astype(np.float32)


def order_features(clinic: Clinic, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """What the order of a record tells, times taken out, at the given routine visits.

    Args:
        clinic: the simulation.
        rows: int64 [n], rows of the course.

    Returns:
        float32 [n, n_features].
    """
    course, population = clinic.course, clinic.population
    routine = np.flatnonzero(course.event == ROUTINE)
    subject = course.subject[routine]
    first = np.searchsorted(subject, subject)
    here = np.searchsorted(routine, rows)
    columns: list[NDArray[np.float32]] = [
        (np.arange(len(routine)) - first)[here].astype(np.float32),
        population.race[subject][here].astype(np.float32),
        population.site[subject][here].astype(np.float32),
        population.smoker[subject][here].astype(np.float32),
    ]
    for number in range(ROUTINE + 1, len(EVENTS)):
        running = np.concatenate([[0], np.cumsum(course.event == number)])
        # Events between the visit before (of the same subject) and this one.
        start = np.where(np.arange(len(routine)) > first, np.roll(routine, 1), routine)
        amount = (running[routine] - running[start]).astype(np.float64)
        columns += [c[here] for c in _window_counts(amount, first)]
        columns.append(_since_last(amount > 0, first)[here])
    for k, item in enumerate(clinic.panel.items):
        held = clinic.held[:, k]
        seen = held != ABSENT
        counts = _window_counts(seen.astype(np.float64), first)
        if item.centers is None:
            columns += [c[here] for c in counts]
            columns.append(_since_last(seen, first)[here])
        else:
            sums = _window_counts(np.where(seen, held, 0).astype(np.float64), first)
            means = [s / np.where(c > 0, c, np.nan) for s, c in zip(sums, counts, strict=True)]
            columns += [m[here].astype(np.float32) for m in means] + [counts[-1][here]]
    return np.concatenate([np.stack(columns, axis=1), demographics(clinic, rows)], axis=1)


def learned_auroc(
    features: NDArray[np.float32],
    p: NDArray[np.float64],
    subject: NDArray[np.int64],
    *,
    n_iterations: int,
) -> float:
    """AUROC of E[P | features], fitted on two thirds of the subjects, measured on the others."""
    test = subject % TEST_EVERY == 0
    model = HistGradientBoostingRegressor(
        max_iter=n_iterations,
        learning_rate=0.1,
        max_leaf_nodes=24,
        min_samples_leaf=40,
        early_stopping=False,
        random_state=0,
    )
    model.fit(features[~test], p[~test])
    return probability_auroc(p[test], model.predict(features[test]))
