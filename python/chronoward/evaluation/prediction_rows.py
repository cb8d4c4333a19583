"""Joins scores, outcomes, covariates and truth by (subject, prediction time).

Scores may come from any model: `predictions_detail.parquet` (all scored rows) is preferred, else
the meds-evaluation files `<outcome>/<horizon>/predictions.parquet`, whose labels then stand in
where the cohort folder has no outcomes.parquet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse

from chronoward.errors import DataError
from chronoward.evaluation.baselines import Covariates
from chronoward.evaluation.discrimination import check_probabilities
from chronoward.survival import CAUSES, CENSORED, OUTCOME, HorizonLabels, horizon_labels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

DETAIL = "predictions_detail.parquet"


@dataclass(frozen=True)
class Keys:
    """(subject, prediction time in microseconds) of n rows."""

    subject: Ints
    time_us: Ints

    def take(self, rows: Ints) -> Keys:
        """The same for some rows."""
        return Keys(self.subject[rows], self.time_us[rows])


@dataclass(frozen=True)
class CohortTable:
    """covariates.parquet, one row a (subject, prediction time)."""

    keys: Keys
    split: NDArray[Any]
    age_years: Floats
    sex: NDArray[Any]
    calendar_year: Ints
    silence_days: Floats  # NaN where the cohort does not say
    codes: sparse.csr_array


@dataclass(frozen=True)
class OutcomeTable:
    """outcomes.parquet of one outcome."""

    keys: Keys
    time: Floats
    cause: Ints
    prior: Bools
    at_risk: Bools  # false too for whoever had an outcome that counts once


@dataclass(frozen=True)
class TaskRows:
    """The evaluated rows of one outcome and horizon."""

    keys: Keys
    risk: Floats
    mc_se: Floats
    n_rollouts: Floats
    undetermined: Floats
    labels: HorizonLabels
    time: Floats
    cause: Ints
    prior: Bools
    eligible: Bools  # of the outcome's sex and age; whoever had it before is kept
    cohort_row: Ints  # row in the cohort table, -1 without one
    probability: Floats  # truth, NaN without it
    estimator: str

    def take(self, rows: Ints) -> TaskRows:
        """The same for some rows."""
        labels = replace(
            self.labels,
            event=self.labels.event[rows],
            known=self.labels.known[rows],
            weight=self.labels.weight[rows],
        )
        columns = {
            name: getattr(self, name)[rows]
            for name in (
                *("risk", "mc_se", "n_rollouts", "undetermined", "time"),
                *("cause", "prior", "eligible", "cohort_row", "probability"),
            )
        }
        return replace(self, keys=self.keys.take(rows), labels=labels, **columns)


def _numbers(table: pa.Table, name: str, default: float = np.nan) -> Floats:
    if name not in table.column_names:
        return np.full(len(table), default)
    column = pc.cast(table.column(name), pa.float64(), safe=False)
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def _strings(table: pa.Table, name: str) -> NDArray[Any]:
    if name not in table.column_names:
        return np.full(len(table), "", dtype=object)
    column = pc.fill_null(pc.cast(table.column(name), pa.string()), "")
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=object)


def _flags(table: pa.Table, name: str, default: bool = False) -> Bools:
    if name not in table.column_names:
        return np.full(len(table), default)
    column = pc.fill_null(table.column(name), pa.scalar(default))
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=bool)


def _require(table: pa.Table, path: Path, columns: tuple[str, ...]) -> None:
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        message = f"{path}: missing column {', '.join(missing)}"
        raise DataError(message)


def _keys(table: pa.Table) -> Keys:
    time = pc.cast(pc.cast(table.column("prediction_time"), pa.timestamp("us")), pa.int64())
    subject = pc.cast(table.column("subject_id"), pa.int64())
    return Keys(
        np.asarray(subject.to_numpy(zero_copy_only=False), dtype=np.int64),
        np.asarray(time.to_numpy(zero_copy_only=False), dtype=np.int64),
    )


def match(left: Keys, right: Keys) -> Ints:
    """For each left row the row of `right` with the same key, -1 where there is none.

    Args:
        left: keys to look up.
        right: keys, unique.
    """
    subject = np.unique(np.concatenate([left.subject, right.subject]), return_inverse=True)[1]
    times, time = np.unique(np.concatenate([left.time_us, right.time_us]), return_inverse=True)
    code = subject.astype(np.int64) * len(times) + time
    ours, theirs = code[: len(left.subject)], code[len(left.subject) :]
    if len(theirs) == 0:
        return np.full(len(ours), -1, dtype=np.int64)
    order = np.argsort(theirs, kind="stable")
    place = np.minimum(np.searchsorted(theirs[order], ours), len(theirs) - 1)
    found = order[place]
    return np.where(theirs[found] == ours, found, -1).astype(np.int64)


def check_unique(keys: Keys, path: Path, what: str) -> None:
    """Refuses two rows of the same subject and time.

    Raises:
        DataError: with the number of repeated rows.
    """
    _, index = np.unique(keys.subject, return_inverse=True)
    times, time = np.unique(keys.time_us, return_inverse=True)
    repeated = len(index) - len(np.unique(index.astype(np.int64) * max(len(times), 1) + time))
    if repeated:
        message = f"{path}: {repeated} repeated (subject_id, prediction_time) {what}"
        raise DataError(message)


def read_cohort(cohort_dir: Path) -> CohortTable | None:
    """Reads covariates.parquet; None where the folder has none (an external cohort).

    Raises:
        DataError: a required column is missing or rows repeat.
    """
    path = cohort_dir / "covariates.parquet"
    if not path.exists():
        return None
    table = pq.read_table(path)
    _require(table, path, ("subject_id", "prediction_time", "age_years", "sex"))
    keys = _keys(table)
    check_unique(keys, path, "")
    return CohortTable(
        keys=keys,
        split=_strings(table, "split"),
        age_years=_numbers(table, "age_years"),
        sex=_strings(table, "sex"),
        calendar_year=np.nan_to_num(_numbers(table, "calendar_year"), nan=-1).astype(np.int64),
        silence_days=_numbers(table, "silence_days"),
        codes=_bag_of_codes(table),
    )


def _bag_of_codes(table: pa.Table) -> sparse.csr_array:
    if "code_index" not in table.column_names or "code_count" not in table.column_names:
        return sparse.csr_array((len(table), 1), dtype=np.float64)
    index = table.column("code_index").combine_chunks()
    counts = table.column("code_count").combine_chunks()
    lengths = np.asarray(pc.fill_null(pc.list_value_length(index), 0), dtype=np.int64)
    columns = np.asarray(index.flatten(), dtype=np.int64)
    values = np.asarray(counts.flatten(), dtype=np.float64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    width = int(columns.max()) + 1 if len(columns) else 1
    return sparse.csr_array((values, columns, offsets), shape=(len(table), width))


def read_outcomes(cohort_dir: Path) -> dict[str, OutcomeTable]:
    """Reads outcomes.parquet by outcome; empty where the folder has none.

    Raises:
        DataError: a required column is missing, a kind of end is unknown, or rows repeat.
    """
    path = cohort_dir / "outcomes.parquet"
    if not path.exists():
        return {}
    table = pq.read_table(path)
    columns = ("subject_id", "prediction_time", "outcome", "days_to_event", "event")
    _require(table, path, columns)
    found = {}
    for name in sorted(pc.unique(table.column("outcome")).to_pylist()):
        part = table.filter(pc.equal(table.column("outcome"), name))
        keys = _keys(part)
        check_unique(keys, path, f"for outcome {name}")
        events = _strings(part, "event")
        unknown = sorted(set(events.tolist()) - set(CAUSES))
        if unknown:
            message = f"{path}: column event holds kinds other than {', '.join(CAUSES)}"
            raise DataError(message)
        cause = np.array([CAUSES[kind] for kind in events], dtype=np.int64)
        time = _numbers(part, "days_to_event")
        if not np.isfinite(time).all() or (time < 0).any():
            message = f"{path}: column days_to_event must be finite and not negative"
            raise DataError(message)
        prior, at_risk = _flags(part, "prior_outcome"), _flags(part, "at_risk", default=True)
        found[name] = OutcomeTable(keys, time, cause, prior, at_risk)
    return found


def read_truth(path: Path) -> dict[tuple[str, int], tuple[Keys, Floats]]:
    """Reads truth.parquet: known probabilities by (outcome, horizon).

    Raises:
        DataError: a required column is missing or a probability is not one.
    """
    table = pq.read_table(path)
    _require(
        table, path, ("subject_id", "prediction_time", "outcome", "horizon_days", "probability")
    )
    outcome, horizon = _strings(table, "outcome"), _numbers(table, "horizon_days")
    keys, probability = _keys(table), _numbers(table, "probability")
    check_probabilities(probability, f"{path}: probability")
    found = {}
    for name, days in sorted(set(zip(outcome.tolist(), horizon.astype(int).tolist(), strict=True))):
        rows = np.flatnonzero((outcome == name) & (horizon == days))
        found[name, days] = (keys.take(rows), probability[rows])
    return found


def read_predictions(score_dir: Path) -> dict[tuple[str, int], pa.Table]:
    """Reads scored rows by (outcome, horizon), columns as in predictions_detail.parquet.

    Raises:
        DataError: there is neither a detail file nor a predictions.parquet, or columns are missing.
    """
    path = score_dir / DETAIL
    if path.exists():
        table = pq.read_table(path)
        columns = ("subject_id", "prediction_time", "outcome", "horizon_days", "risk")
        _require(table, path, columns)
        outcome = _strings(table, "outcome")
        horizon = _numbers(table, "horizon_days").astype(int)
        found = {}
        for name, days in sorted(set(zip(outcome.tolist(), horizon.tolist(), strict=True))):
            found[name, days] = table.take(np.flatnonzero((outcome == name) & (horizon == days)))
        return found
    found = {}
    for file in sorted(score_dir.glob("*/*/predictions.parquet")):
        table = pq.read_table(file)
        _require(table, file, ("subject_id", "prediction_time", "predicted_boolean_probability"))
        risk = table.column("predicted_boolean_probability")
        found[file.parent.parent.name, _days(file)] = table.append_column("risk", risk)
    if not found:
        message = f"{score_dir} holds neither {DETAIL} nor <outcome>/<days>/predictions.parquet"
        raise DataError(message)
    return found


def _days(file: Path) -> int:
    if not file.parent.name.isdigit():
        message = f"{file}: the folder's name must be the horizon in days"
        raise DataError(message)
    return int(file.parent.name)


def join_task(
    table: pa.Table,
    horizon: int,
    cohort: CohortTable | None,
    outcome: OutcomeTable | None,
    truth: tuple[Keys, Floats] | None,
    source: Path,
) -> TaskRows:
    """Joins the scored rows of one task with what is known about them.

    Args:
        table: scored rows.
        horizon: days.
        cohort: covariates, or None.
        outcome: follow-up, or None (then the column boolean_value is the label).
        truth: known probabilities, or None.
        source: named in messages.

    Raises:
        DataError: repeated rows, risks that are not probabilities, rows the cohort does not know.
    """
    keys, risk = _keys(table), _numbers(table, "risk")
    check_unique(keys, source, "among the predictions")
    check_probabilities(risk, f"{source}: risk")
    n = len(risk)
    if outcome is not None:
        follow_up = _follow_up(keys, outcome, source)
        labels = horizon_labels(follow_up.time, follow_up.cause, float(horizon))
    else:
        follow_up, labels = _labels_only(table, keys, source)
    probability = np.full(n, np.nan)
    if truth is not None:
        place = match(keys, truth[0])
        probability = np.where(place >= 0, truth[1][place], np.nan)
    estimators = sorted(set(_strings(table, "estimator").tolist()) - {""})
    return TaskRows(
        keys=keys,
        risk=risk,
        mc_se=_numbers(table, "mc_se"),
        n_rollouts=_numbers(table, "n_rollouts"),
        undetermined=_numbers(table, "undetermined"),
        labels=labels,
        time=follow_up.time,
        cause=follow_up.cause,
        prior=follow_up.prior,
        eligible=follow_up.prior | follow_up.at_risk,
        cohort_row=np.full(n, -1) if cohort is None else match(keys, cohort.keys),
        probability=probability,
        estimator=", ".join(estimators) or "not stated",
    )


def _follow_up(keys: Keys, outcome: OutcomeTable, source: Path) -> OutcomeTable:
    place = match(keys, outcome.keys)
    if (place < 0).any():
        message = f"{source}: {int((place < 0).sum())} scored rows are not in the cohort"
        raise DataError(message)
    return OutcomeTable(
        keys,
        outcome.time[place],
        outcome.cause[place],
        outcome.prior[place],
        outcome.at_risk[place],
    )


def _labels_only(table: pa.Table, keys: Keys, source: Path) -> tuple[OutcomeTable, HorizonLabels]:
    """Labels without follow-up times: every label weighs the same, null ones nothing."""
    if "boolean_value" not in table.column_names:
        message = f"{source}: no labels; the cohort folder has no outcomes.parquet"
        raise DataError(message)
    event = _flags(table, "boolean_value")
    known = ~np.asarray(pc.is_null(table.column("boolean_value")), dtype=bool)
    n = len(event)
    follow_up = OutcomeTable(
        keys,
        np.full(n, np.nan),
        np.where(event, OUTCOME, CENSORED),
        np.zeros(n, dtype=bool),
        np.ones(n, dtype=bool),
    )
    return follow_up, HorizonLabels(event, known, known.astype(np.float64), float(known.mean()), 0)


def covariates_of(cohort: CohortTable, rows: Ints, prior: Bools) -> Covariates:
    """Covariates of some cohort rows, as baselines take them."""
    return Covariates(cohort.age_years[rows], cohort.sex[rows], prior, cohort.codes[rows])
