"""Scored rows beside the truth, and the lines that R5 prints about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.record import Measurement

from chronoward.evaluation import discrimination as disc
from chronoward.evaluation.intervals import Estimate, bootstrap_interval, cluster_index
from chronoward.score.calibration import corrected

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from chronoward.evaluation.intervals import Scale

    Floats = NDArray[np.float64]

N_REPLICATES = 1000


@dataclass(frozen=True, eq=False)
class Judged:
    """Scored rows of one outcome beside what is known of them, n rows."""

    outcome: str
    subject: NDArray[np.int64]
    risk: Floats
    truth: Floats
    """P(outcome recorded within the horizon | observed history)."""
    age_sex: Floats
    happened: NDArray[np.bool_]
    facts: dict[str, Any] = field(default_factory=dict)
    """Keys of every line about these rows."""
    seconds: float = 0.0
    exponent: float = 1.0
    """By which `risk` was corrected (`chronoward.score.calibration`)."""

    @property
    def uncorrected(self) -> Floats:
        """The risks before their level was corrected."""
        return corrected(self.risk, 1.0 / self.exponent)

    def auroc(self, score: Floats, weight: Floats | None = None) -> float:
        """AUROC of a score against the truth."""
        return disc.truth_auroc(self.truth, score, weight)

    def interval(self, statistic: Callable[[Floats], float], scale: Scale = "identity") -> Estimate:
        """A statistic of row weights float64 (n,) with its interval from draws of subjects."""
        cluster, n_clusters = cluster_index(self.subject)
        return bootstrap_interval(
            lambda counts: statistic(counts[cluster]),
            n_clusters,
            n_replicates=N_REPLICATES,
            scale=scale,
        )


def bounds(estimate: Estimate) -> dict[str, Any]:
    """An interval as a line holds it: null where there is none."""
    kept = estimate.to_json()
    return {"interval": [kept["lower"], kept["upper"]]}


def rows_line(
    rows: Judged, metric: str, value: float, unit: str, *, more: dict[str, Any], **fields: Any
) -> Measurement:
    """A line of R5 about scored rows."""
    fields.setdefault("seconds", rows.seconds)
    return Measurement(
        id="R5",
        metric=metric,
        value=value,
        unit=unit,
        extra={**rows.facts, **more},
        **fields,
    )
