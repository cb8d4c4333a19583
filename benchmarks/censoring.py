"""R5's control of censoring: do light and heavy censoring of one clinic give the same mean risks?

One run of each cannot tell. Two runs of minutes that differ in their seed alone have mean risks up
to a quarter apart, more under heavy censoring, so a ratio of two runs is a draw of that noise. The
control therefore trains several runs of each, all of the same number of steps, light and heavy side
by side with a core each, scores the same rows with all of them, each run's level corrected by the
record that it trained on (`chronoward calibrate`), and compares geometric means over runs. The
ratio without the correction stands beside. The interval knows how far runs of one kind lie apart,
who was scored, and how many events there were to learn from.
"""

from __future__ import annotations

import math
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from benchmarks.judged import bounds, rows_line
from scipy.stats import t as student_t

from chronoward.evaluation.intervals import Z_95, normal_interval
from chronoward.score import ScoreConfig
from chronoward.train import train

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.clinic_study import Study
    from benchmarks.judged import Judged
    from benchmarks.record import Measurement
    from numpy.typing import NDArray

    Arm = Literal["main", "heavy"]

ARMS: tuple[Arm, Arm] = ("main", "heavy")
ASKED = (0.9, 1.1)


def _folder(study: Study, arm: Arm, number: int) -> Path:
    return study.folder / f"control_{arm}_{number}"


def _train_and_score(arm: Arm, study: Study, number: int) -> None:
    """One run, in a process of its own; goes on where it was interrupted."""
    torch.set_num_threads(1)
    sizes, folder = study.sizes, _folder(study, arm, number)
    config = study.training(max_steps=sizes.control_steps, seed=number)
    run, scores = folder / "run", folder / "scores"
    train(study.tokens(arm), run, config, resume=True)
    shutil.rmtree(scores, ignore_errors=True)
    level = study.find_level(run, arm, scores, threads=1)
    asked = ScoreConfig(estimator="hazard", calibration=level)
    study.score_cohort(run, arm, scores, asked, threads=1)


def _run_pair(study: Study, number: int) -> None:
    for arm in ARMS:
        study.unseen_tokens(arm)  # made once, not by both processes
        study.known_rows(arm)
    study.cohort()
    with ProcessPoolExecutor(len(ARMS), mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(_train_and_score, study=study, number=number), ARMS))


def control_scores(study: Study) -> tuple[dict[Arm, list[Path]], float]:
    """Folders of each arm's scores, by run, and the wall seconds of all runs together."""
    numbers = range(study.sizes.n_control_runs)
    seconds = 0.0
    for number in numbers:
        step = study.step(f"control_{number}", partial(_run_pair, study, number))
        seconds += float(step["seconds"])
    return {arm: [_folder(study, arm, n) / "scores" for n in numbers] for arm in ARMS}, seconds


def spread_of_runs(*arms: NDArray[np.float64]) -> float:
    """Standard error of a difference of means over runs, widened from a normal quantile to
    Student's for the few runs that it comes from; NaN from single runs.

    Args:
        arms: values of each arm's runs.
    """
    degrees = sum(len(values) - 1 for values in arms)
    if any(len(values) < 2 for values in arms):
        return math.nan
    variance = sum(float(values.var(ddof=1)) / len(values) for values in arms)
    return math.sqrt(variance) * float(student_t.ppf(0.975, degrees)) / Z_95


def _mean_log_before(runs: Sequence[Judged]) -> float:
    """Mean over runs of the log of the mean risk before its level was corrected."""
    return float(np.mean([math.log(run.uncorrected.mean()) for run in runs]))


def mean_risk_line(light: Sequence[Judged], heavy: Sequence[Judged]) -> Measurement:
    """Mean risk after training under heavy censoring over that under light.

    The events that heavy records hold are some of those of light ones, so what each could learn
    from adds a variance of 1/n_heavy − 1/n_light to that of the log ratio.

    Args:
        light: the rows as each run of the light arm scored them.
        heavy: the same rows, by the runs of the other arm.
    """

    def mean_log(runs: Sequence[Judged], weight: NDArray[np.float64]) -> float:
        return float(np.mean([np.log(np.average(run.risk, weights=weight)) for run in runs]))

    first = light[0]
    scored = first.interval(lambda w: math.exp(mean_log(heavy, w) - mean_log(light, w)), "log")
    means = [np.array([run.risk.mean() for run in runs]) for runs in (light, heavy)]
    n_light, n_heavy = (runs[0].facts["n_training_events"] for runs in (light, heavy))
    rarer = max(1 / n_heavy - 1 / n_light, 0.0) if n_heavy and n_light else math.inf
    between = spread_of_runs(*(np.log(values) for values in means))
    error = math.hypot(scored.se, scored.value * math.sqrt(rarer), scored.value * between)
    ratio = normal_interval(scored.value, error, "log")
    low, high = ASKED
    more = {
        **bounds(ratio),
        "mean_risks": means[0].tolist(),
        "mean_risks_heavy": means[1].tolist(),
        "uncorrected": math.exp(_mean_log_before(heavy) - _mean_log_before(light)),
        "exponents": [run.exponent for run in light],
        "exponents_heavy": [run.exponent for run in heavy],
        "se_between_runs": None if math.isnan(between) else between,
        "n_training_events_heavy": n_heavy,
        "asked": f"{low} to {high}",
        "met": low <= ratio.value <= high,
    }
    return rows_line(
        first,
        f"heavy_over_light_{first.outcome}",
        ratio.value,
        "ratio of mean risks on the same rows, geometric means over runs",
        against="light censoring",
        baseline=float(np.exp(np.log(means[0]).mean())),
        ratio=ratio.value,
        more=more,
    )
