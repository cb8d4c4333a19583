"""A run's length and its learning rate: functions of the step and the planned length only, so
resuming is exact."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chronoward.train.config import TrainConfig

SETTLING_SHARE = 0.1  # of a run's steps: batches that the model looks at to settle its biases
SETTLING_ROWS = 1000  # at most
SETTLING_COST = 1.4  # of one of them and the batches counted for it, as a share of a step
LEAST_TAIL = 0.1  # of the steps done: still to come after planning anew, for the learning rate


def learning_rate(step: int, n_steps: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine down to `final_share` of the peak.

    Args:
        step: number of the step, 0 for the first.
        n_steps: length of the run.
        config: of the run.
    """
    peak = config.peak_learning_rate
    warmup = min(config.warmup_steps, max(n_steps // 10, 1))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min((step - warmup) / max(n_steps - warmup, 1), 1.0)
    low = config.final_share
    return peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def run_length(
    config: TrainConfig, steps_per_epoch: int, seconds_per_step: float | None, *, done: int = 0
) -> int:
    """Number of steps: the smallest of what epochs, `max_steps` and `minutes` allow. The minutes
    pay for settling the biases too.

    Args:
        config: of the run.
        steps_per_epoch: steps of the first epoch.
        seconds_per_step: mean, evaluations included; needed when `minutes` is set.
        done: steps done; a run whose minutes turn out to be fewer steps than thought still has
            `LEAST_TAIL` more, in which the learning rate falls to its end.
    """
    limits = [math.ceil(config.epochs * steps_per_epoch)]
    if config.max_steps is not None:
        limits.append(config.max_steps)
    if config.minutes is not None and seconds_per_step is not None:
        fit = config.minutes * 60 / seconds_per_step
        most_looks = _most_settling_steps(steps_per_epoch, config)
        fit = max(fit / (1 + SETTLING_SHARE * SETTLING_COST), fit - SETTLING_COST * most_looks)
        limits.append(max(int(fit), done + math.ceil(LEAST_TAIL * done)))
    return max(1, min(limits))


def next_evaluation(n_steps: int, evaluations: int, config: TrainConfig) -> int:
    """Step after which the tuning split is looked at again, after so many `evaluations`; the last
    one is the end of the run."""
    return round(n_steps * (evaluations + 1) / min(config.evaluations, n_steps))


def settling_steps(n_steps: int, steps_per_epoch: int, config: TrainConfig) -> int:
    """Steps' batches that a trained model looks at to settle its biases: a share of the run, at
    most an epoch and `SETTLING_ROWS`."""
    return max(1, min(int(n_steps * SETTLING_SHARE), _most_settling_steps(steps_per_epoch, config)))


def _most_settling_steps(steps_per_epoch: int, config: TrainConfig) -> int:
    return min(steps_per_epoch, SETTLING_ROWS // config.n_rows)
