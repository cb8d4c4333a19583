"""Zero-shot risks from rollouts, and one-pass risks from a hazard head."""

from __future__ import annotations

from chronoward.packages import make_callable
from chronoward.score.calibration import Calibration, CalibrationConfig, calibrate
from chronoward.score.estimators import PathValues, RowEstimate, combine, path_values
from chronoward.score.job import ESTIMATORS, ScoreConfig
from chronoward.score.run import score

__all__ = [
    "ESTIMATORS",
    "Calibration",
    "CalibrationConfig",
    "PathValues",
    "RowEstimate",
    "ScoreConfig",
    "calibrate",
    "combine",
    "path_values",
    "score",
]

make_callable(__name__)
