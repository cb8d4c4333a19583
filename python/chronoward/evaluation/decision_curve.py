"""Net benefit at thresholds fixed beforehand, never tuned on the evaluated rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

THRESHOLDS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)


def net_benefit(
    event: NDArray[np.bool_], risk: Floats, thresholds: Floats, weight: Floats | None = None
) -> Floats:
    """NB(t) = TP/n - FP/n * t/(1-t), acting on everybody with risk >= t.

    Args:
        event: bool[n].
        risk: float64[n].
        thresholds: float64[k] in (0, 1).
        weight: float64[n] or None.

    Returns:
        float64[k].
    """
    weights = np.ones(len(risk)) if weight is None else weight
    acted = risk[:, None] >= thresholds[None, :]  # (n, k)
    hits = (weights * event) @ acted
    false_alarms = (weights * ~event) @ acted
    odds = thresholds / (1.0 - thresholds)
    return np.asarray((hits - false_alarms * odds) / weights.sum())


def treat_all(prevalence: float, thresholds: Floats) -> Floats:
    """Net benefit of acting on everybody: pi - (1 - pi) t/(1-t); float64[k]."""
    return np.asarray(prevalence - (1.0 - prevalence) * thresholds / (1.0 - thresholds))
