"""Files of `score`: one table for all rows, and per outcome and horizon the rows with a label.

`OUT/<outcome>/<horizon_days>/predictions.parquet` has the meds-evaluation columns and holds the
rows whose label is known at the horizon; `OUT/predictions_detail.parquet` holds every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chronoward.files import atomic_path
from chronoward.score.rows import find_outcomes, read_outcomes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from chronoward.score.estimators import RowEstimate
    from chronoward.score.rows import CohortRows, Prefixes

_TIME = pa.timestamp("us")
DETAIL_SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", _TIME, nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("horizon_days", pa.int32(), nullable=False),
        pa.field("estimator", pa.string(), nullable=False),
        pa.field("risk", pa.float64(), nullable=False),
        pa.field("mc_se", pa.float64(), nullable=False),
        pa.field("n_rollouts", pa.int32(), nullable=False),
        pa.field("undetermined", pa.float64(), nullable=False),
        pa.field("lower", pa.float64(), nullable=False),
        pa.field("upper", pa.float64(), nullable=False),
        pa.field("cif", pa.list_(pa.float64()), nullable=False),
    ]
)
PREDICTION_SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", _TIME, nullable=False),
        pa.field("boolean_value", pa.bool_(), nullable=False),
        pa.field("predicted_boolean_value", pa.bool_()),
        pa.field("predicted_boolean_probability", pa.float64()),
    ]
)


@dataclass(frozen=True, eq=False)
class Scores:
    """Everything that was estimated; `estimates[i][k]` is prompt i, outcome k."""

    prefixes: Prefixes
    outcomes: Sequence[str]
    horizons_days: Sequence[int]
    estimator: str
    estimates: list[list[RowEstimate]]

    def column(self, field: str, outcome: int, horizon: int) -> list[Any]:
        """One field of all rows for an outcome and horizon."""
        return [getattr(row[outcome], field)[horizon] for row in self.estimates]


def detail_table(scores: Scores) -> pa.Table:
    """All rows of all outcomes and horizons."""
    subjects = pa.array([p.subject_id for p in scores.prefixes.prompts], pa.int64())
    times = pa.array([p.prediction_time_us for p in scores.prefixes.prompts], pa.int64())
    n = len(subjects)
    parts = []
    for k, outcome in enumerate(scores.outcomes):
        for h, days in enumerate(scores.horizons_days):
            columns = {
                "subject_id": subjects,
                "prediction_time": times.cast(_TIME),
                "outcome": [outcome] * n,
                "horizon_days": [days] * n,
                "estimator": [scores.estimator] * n,
                "n_rollouts": [row[k].n_rollouts for row in scores.estimates],
            }
            for name in ("risk", "mc_se", "undetermined", "lower", "upper", "cif"):
                columns[name] = scores.column(name, k, h)
            parts.append(
                pa.Table.from_arrays(
                    [pa.array(columns[f.name], f.type) for f in DETAIL_SCHEMA], schema=DETAIL_SCHEMA
                )
            )
    return pa.concat_tables(parts)


def read_labels(
    rows: CohortRows, outcomes: Sequence[str], horizons_days: Sequence[int]
) -> dict[tuple[str, int], list[bool | None]]:
    """Label of each cohort row for each outcome and horizon; None where it is not known.

    From `outcomes.parquet` beside the cohort: an outcome by the horizon is True; death before it,
    or follow-up to the horizon, is False; leaving earlier is unknown. Without that file the
    cohort's own `boolean_value` serves a single outcome and horizon.

    Raises:
        DataError: `outcomes.parquet` lacks a column.
    """
    table = read_outcomes(rows, ("days_to_event", "event"))
    if table is None:
        only = [(o, h) for o in outcomes for h in horizons_days]
        return {only[0]: rows.label} if len(only) == 1 else {}
    labels: dict[tuple[str, int], list[bool | None]] = {}
    for outcome in outcomes:
        mine = table.filter(pc.equal(table["outcome"], outcome))
        place = find_outcomes(rows, mine).tolist()
        ended, event = mine["days_to_event"].to_pylist(), mine["event"].to_pylist()
        for days in horizons_days:
            labels[outcome, days] = [
                _label(ended[i], event[i], days) if i >= 0 else None for i in place
            ]
    return labels


def _label(days_to_event: float, event: str, horizon_days: int) -> bool | None:
    if days_to_event <= horizon_days and event != "censored":
        return event == "outcome"
    return False if days_to_event >= horizon_days else None


def write_predictions(
    out: Path, scores: Scores, rows: CohortRows, *, threshold: float
) -> dict[str, dict[str, dict[str, int]]]:
    """Writes `predictions.parquet` of each outcome and horizon.

    Returns:
        outcome → horizon → number of rows with a known and an unknown label.
    """
    labels = read_labels(rows, scores.outcomes, scores.horizons_days)
    counts: dict[str, dict[str, dict[str, int]]] = {}
    numbers = scores.prefixes.row
    for k, outcome in enumerate(scores.outcomes):
        for h, days in enumerate(scores.horizons_days):
            column = labels.get((outcome, days), [None] * len(rows))
            known = [i for i, row in enumerate(numbers) if column[row] is not None]
            risk = np.array(scores.column("risk", k, h), np.float64)[known]
            arrays = [
                pa.array(rows.subject_id[numbers[known]], pa.int64()),
                pa.array(rows.time_us[numbers[known]], pa.int64()).cast(_TIME),
                pa.array([column[numbers[i]] for i in known], pa.bool_()),
                pa.array(risk >= threshold, pa.bool_()),
                pa.array(risk, pa.float64()),
            ]
            folder = out / outcome / str(days)
            folder.mkdir(parents=True, mode=0o700)
            write_table(
                folder / "predictions.parquet",
                pa.Table.from_arrays(arrays, schema=PREDICTION_SCHEMA),
            )
            counts.setdefault(outcome, {})[str(days)] = {
                "known": len(known),
                "unknown": len(numbers) - len(known),
            }
    return counts


def write_table(path: Path, table: pa.Table) -> None:
    """Writes Parquet, whole or not at all."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
