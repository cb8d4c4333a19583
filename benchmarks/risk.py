"""R4: rollouts that `count` needs for the standard error that `reach` has, on a rare outcome.

The world is the enumerable Markov chain of the tests, so each estimate is first compared with the
exact risk. Standard errors fall with the square root of the rollouts, so the ratio of variances is
the ratio of rollouts at equal error; `count`'s variance is p(1 − p) with the exact p.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from benchmarks.record import Measurement, Stopwatch
from tests.engine.toy import OUTCOME, exact_risk, toy_engine, toy_probabilities, toy_prompt

from chronoward.engine import SamplingParams
from chronoward.score.units import ScoreTask, ScoreUnit, score_unit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chronoward.score import RowEstimate

DAYS = 5
TARGET_SE = 0.001


def _estimate(p: np.ndarray, estimator: str, n: int) -> RowEstimate:
    params = SamplingParams(
        outcome_sets=(np.array([OUTCOME], np.int32),), mask_outcomes=estimator == "reach"
    )
    task = ScoreTask(
        estimator=estimator,
        params=params,
        horizons_min=np.array([DAYS * 1440], np.int64),
        n_rollouts=n,
        target_se=TARGET_SE,
        max_rollouts=n,
    )
    return score_unit(toy_engine(p), ScoreUnit(task, [toy_prompt(1, n_days=DAYS)]))[0][0]


def measure(quick: bool) -> Iterator[Measurement]:
    """The line of R4; `extra` has the exact risk and both estimates."""
    p = toy_probabilities(outcome=0.0005, death=0.02)
    exact = exact_risk(p, DAYS)
    n = 4_000 if quick else 40_000
    with Stopwatch() as watch:
        rows = {name: _estimate(p, name, n) for name in ("count", "reach")}
    for name, row in rows.items():
        if abs(row.risk[0] - exact) > 4 * row.mc_se[0] or exact > 0.01:
            message = f"{name} gives {row.risk[0]:.6f} ± {row.mc_se[0]:.6f}, exact {exact:.6f}"
            raise AssertionError(message)
    variance = {"count": exact * (1 - exact), "reach": float(rows["reach"].variance[0])}
    needed = {name: v / TARGET_SE**2 for name, v in variance.items()}
    yield Measurement(
        id="R4",
        metric="rollouts",
        value=needed["reach"],
        unit=f"rollouts for a standard error of {TARGET_SE}",
        against="count",
        baseline=needed["count"],
        ratio=needed["count"] / needed["reach"],
        seconds=watch.wall,
        extra={
            "exact_risk": exact,
            **{name: float(row.risk[0]) for name, row in rows.items()},
            "n_rollouts": n,
        },
    )


MEASURES = {"R4": measure}
