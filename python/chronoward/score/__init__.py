"""Zero-shot risks from rollouts, and one-pass risks from a hazard head."""

from __future__ import annotations

from chronoward.packages import make_callable
from chronoward.score.estimators import PathValues, RowEstimate, combine, path_values
from chronoward.score.run import ESTIMATORS, ScoreConfig, score

__all__ = [
    "ESTIMATORS",
    "PathValues",
    "RowEstimate",
    "ScoreConfig",
    "combine",
    "path_values",
    "score",
]

make_callable(__name__)
