"""A run's length and its learning rate: functions of the step only, so resuming is exact."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chronoward.train.config import TrainConfig

SETTLING_SHARE = 0.1  # of a run's steps: batches that the model looks at to settle its biases
SETTLING_ROWS = 1000  # at most


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


def run_length(config: TrainConfig, steps_per_epoch: int, seconds_per_step: float | None) -> int:
    """Number of steps: the smallest of what epochs, `max_steps` and `minutes` allow.

    Args:
        config: of the run.
        steps_per_epoch: steps of the first epoch.
        seconds_per_step: measured before the start; needed when `minutes` is set.
    """
    limits = [math.ceil(config.epochs * steps_per_epoch)]
    if config.max_steps is not None:
        limits.append(config.max_steps)
    if config.minutes is not None and seconds_per_step is not None:
        limits.append(int(config.minutes * 60 / seconds_per_step))
    return max(1, min(limits))


def evaluation_steps(n_steps: int, config: TrainConfig) -> list[int]:
    """Steps after which the tuning split is looked at; the last one is the end of the run."""
    n = min(config.evaluations, n_steps)
    return sorted({round(n_steps * (i + 1) / n) for i in range(n)})


def settling_steps(n_steps: int, steps_per_epoch: int, config: TrainConfig) -> int:
    """Steps' batches that a trained model looks at to settle its biases: a share of the run, at
    most an epoch and `SETTLING_ROWS`."""
    limits = (int(n_steps * SETTLING_SHARE), steps_per_epoch, SETTLING_ROWS // config.n_rows)
    return max(1, min(limits))
