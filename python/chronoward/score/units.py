"""A unit of scoring work: some rows' prompts to their estimates, inside one engine."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING

from chronoward.score.estimators import RowEstimate, combine, path_values, wanted_rollouts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chronoward.engine import Engine, Prompt, Rollout, SamplingParams

N_PILOT = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreTask:
    """What is estimated for every row.

    Attributes:
        estimator: "reach", "scope" or "count".
        params: outcome sets and names, seed; the stream is set per batch of rollouts.
        horizons_min: int64 (n_horizons,).
        n_rollouts: fixed number, None: from a pilot by `target_se`.
        target_se: wanted standard error.
        max_rollouts: most that a pilot may ask for.
    """

    estimator: str
    params: SamplingParams
    horizons_min: NDArray[np.int64]
    n_rollouts: int | None
    target_se: float
    max_rollouts: int


@dataclass(frozen=True, eq=False)
class ScoreUnit:
    """Some prompts (their rollout ranges are not used) and the task."""

    task: ScoreTask
    prompts: list[Prompt]


def score_unit(engine: Engine, unit: ScoreUnit) -> list[list[RowEstimate]]:
    """Estimates of each prompt for each outcome."""
    task = unit.task
    if task.n_rollouts is not None:
        counts = [task.n_rollouts] * len(unit.prompts)
    else:
        pilot = _estimates(engine, unit, [N_PILOT] * len(unit.prompts), "pilot")
        counts = [
            wanted_rollouts(row, task.target_se, least=N_PILOT, most=task.max_rollouts)
            for row in pilot
        ]
    return _estimates(engine, unit, counts, "main")


def _estimates(
    engine: Engine, unit: ScoreUnit, counts: list[int], stream: str
) -> list[list[RowEstimate]]:
    task = unit.task
    prompts = [
        replace(prompt, rollouts=range(n)) for prompt, n in zip(unit.prompts, counts, strict=True)
    ]
    place = {(p.subject_id, p.prediction_time_us): i for i, p in enumerate(prompts)}
    sets = task.params.outcome_sets
    ended: defaultdict[tuple[int, int], list[Rollout]] = defaultdict(list)
    found: dict[tuple[int, int], RowEstimate] = {}
    for rollout in engine.generate(prompts, replace(task.params, stream=stream)):
        row, pool = place[rollout.subject_id, rollout.prediction_time_us], rollout.pool
        ended[row, pool].append(rollout)
        if len(ended[row, pool]) < counts[row]:
            continue
        paths = sorted(ended.pop((row, pool)), key=attrgetter("rollout"))
        prediction_min = prompts[row].prediction_min
        assert prediction_min is not None
        for k in [pool] if pool >= 0 else range(len(sets)):
            values = path_values(
                paths, task.estimator, k, sets[k], prediction_min, task.horizons_min
            )
            found[row, k] = combine(values, task.estimator)
    return [[found[row, k] for k in range(len(sets))] for row in range(len(prompts))]
