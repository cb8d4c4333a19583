"""Zero-shot risks from rollouts, and one-pass risks from a hazard head.

The package can be called: `chronoward.score(run, …)` is `score` of its module `run`, whether or not
a module of it was imported before (which puts the package under that name).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

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


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> dict[str, Any]:
        return score(*args, **options)


sys.modules[__name__].__class__ = _CallablePackage
