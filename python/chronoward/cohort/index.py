"""Index rules: when the question is asked. Every rule yields (subject, prediction time) rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from chronoward.cohort.batch import DAYS_PER_YEAR, NEVER, US_PER_DAY, EventArrays, earliest
from chronoward.cohort.random_visit import Observation, Visits, random_visit
from chronoward.errors import ConfigError, DataError
from chronoward.schema import Role

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Kind = Literal["discharge", "random_visit", "age", "first", "code", "file"]


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexRule:
    """One index rule.

    Attributes:
        kind: `discharge` (end of every inpatient visit), `random_visit` (once a subject: the end
            of the first visit from a drawn date on, see `chronoward.cohort.random_visit`), `age`
            (birthday), `first` (first record of an outcome's codes), `code` (first record of a code
            or of a descendant of it), `file` (Parquet with subject_id and prediction_time).
        age_years: for `age`.
        outcome: for `first`, the name or path of the definition.
        code: for `code`, such as `SNOMED/84114007`.
        path: for `file`.
    """

    kind: Kind
    age_years: float = 0.0
    outcome: str = ""
    code: str = ""
    path: str = ""


def parse_index(text: str) -> IndexRule:
    """Reads `discharge`, `random_visit`, `age=65`, `first=heart_failure`, `code=SNOMED/84114007`
    or `file=cohort.parquet`.

    Raises:
        ConfigError: anything else.
    """
    kind, _, argument = text.partition("=")
    if kind in ("discharge", "random_visit") and not argument:
        return IndexRule(kind=kind)  # type: ignore[arg-type]
    if kind == "age" and argument.replace(".", "", 1).isdigit():
        return IndexRule(kind="age", age_years=float(argument))
    if kind == "first" and argument:
        return IndexRule(kind="first", outcome=argument)
    if kind == "code" and argument:
        return IndexRule(kind="code", code=argument)
    if kind == "file" and argument:
        return IndexRule(kind="file", path=argument)
    message = (
        f"index rule {text!r} is none of discharge, random_visit, age=YEARS, first=OUTCOME, "
        "code=CODE, file=PARQUET"
    )
    raise ConfigError(message)


@dataclass(frozen=True, eq=False)
class IndexRows:
    """Candidate rows of one batch: `subject` (int64, in the batch) and `time_us` (int64).

    `left_out` counts subjects without a candidate, by reason.
    """

    subject: NDArray[np.int64]
    time_us: NDArray[np.int64]
    left_out: dict[str, int] = field(default_factory=dict)


def read_index_file(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """subject_id and prediction_time (us) of a label file, sorted.

    Raises:
        DataError: columns missing, nulls, or a row twice.
        OSError: the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    for name in ("subject_id", "prediction_time"):
        if name not in table.column_names:
            message = f"{path}: column {name} is missing"
            raise DataError(message)
        if table[name].null_count:
            message = f"{path}: column {name} has {table[name].null_count} nulls"
            raise DataError(message)
    ids = np.asarray(table["subject_id"].cast(pa.int64()).to_numpy())
    times = np.asarray(
        table["prediction_time"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    )
    order = np.lexsort((times, ids))
    ids, times = ids[order], times[order]
    twice = np.flatnonzero((ids[1:] == ids[:-1]) & (times[1:] == times[:-1]))
    if len(twice):
        row = int(order[twice[0] + 1])
        message = f"{path}: row {row} repeats a (subject_id, prediction_time)"
        raise DataError(message)
    return ids, times


def candidates(
    rule: IndexRule,
    arrays: EventArrays,
    observation: Observation,
    *,
    washout_days: int,
    seed: int,
    has_visits: bool,
    inpatient_codes: NDArray[np.bool_],
    first_codes: NDArray[np.bool_] | None,
    file_rows: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
) -> IndexRows:
    """Rows of one batch by an index rule.

    Args:
        rule: the rule.
        arrays: the batch.
        observation: periods of all subjects, for `random_visit`.
        washout_days: observation before the index, for `random_visit`.
        seed: for `random_visit`; the drawn number depends on (seed, subject_id) only.
        has_visits: whether the source has visits, for `random_visit`.
        inpatient_codes: bool (n_codes,), for `discharge`.
        first_codes: bool (n_codes,), for `first` and `code`.
        file_rows: what `read_index_file` gave, for `file`.
    """
    if rule.kind == "discharge":
        event = (arrays.role == Role.VISIT) & inpatient_codes[arrays.code]
        return IndexRows(arrays.subject[event], arrays.end_us[event])
    if rule.kind == "random_visit":
        event = arrays.role == Role.VISIT
        start_us, end_us = arrays.time_us, arrays.end_us
        if not has_visits:  # a source without visits: its moments take their place
            event = (arrays.role == Role.CODE) & (arrays.available_us != NEVER)
            start_us = end_us = arrays.available_us
        visits = Visits(arrays.subject[event], start_us[event], end_us[event])
        subject, time_us, left_out = random_visit(
            arrays.subject_ids, visits, observation, washout_days=washout_days, seed=seed
        )
        return IndexRows(subject, time_us, left_out)
    if rule.kind == "age":
        birth = earliest(arrays, Role.BIRTH)
        known = np.flatnonzero(birth != NEVER)
        age_us = int(rule.age_years * DAYS_PER_YEAR * US_PER_DAY)
        return IndexRows(known, birth[known] + age_us)
    if rule.kind in ("first", "code"):
        assert first_codes is not None
        found = np.full(arrays.n_subjects, NEVER)
        event = first_codes[arrays.code] & (arrays.time_us != NEVER)
        np.minimum.at(found, arrays.subject[event], arrays.available_us[event])
        known = np.flatnonzero(found != NEVER)
        return IndexRows(known, found[known])
    assert file_rows is not None
    ids, times = file_rows
    begin = np.searchsorted(ids, arrays.subject_ids, side="left")
    end = np.searchsorted(ids, arrays.subject_ids, side="right")
    subject = np.repeat(np.arange(arrays.n_subjects), end - begin)
    count = end - begin
    within = np.arange(len(subject)) - np.repeat(np.cumsum(count) - count, count)
    return IndexRows(subject, times[begin[subject] + within])
