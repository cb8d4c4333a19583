"""A cohort's rows and what was available to each: prompts for the engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chronoward.engine import Prompt, SamplingParams
from chronoward.engine.context import MAX_ADDED, cut
from chronoward.errors import ConfigError, DataError
from chronoward.schema import SPLITS
from chronoward.tokenizer import TokenClass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from chronoward.store import StoreSplit, TokenStore
    from chronoward.tokenizer import GrammarTables

US_PER_MIN = 60_000_000
ALL_SPLITS = "all"


@dataclass(frozen=True, eq=False)
class CohortRows:
    """Rows of a cohort, in the order of its file.

    Attributes:
        subject_id: int64 (n,).
        time_us: int64 (n,), prediction times, microseconds since 1970.
        label: bool values or None (n,), where the cohort states one.
    """

    path: Path
    subject_id: NDArray[np.int64]
    time_us: NDArray[np.int64]
    label: list[bool | None]

    def __len__(self) -> int:
        return len(self.subject_id)


def cohort_file(cohort: Path | str) -> Path:
    """The rows' file: the Parquet file itself, or `cohort.parquet` of a cohort folder."""
    path = Path(cohort)
    return path / "cohort.parquet" if path.is_dir() else path


def read_cohort(cohort: Path | str) -> CohortRows:
    """Reads a cohort folder's `cohort.parquet`, or a MEDS label file.

    Raises:
        DataError: not Parquet, a missing column or one of a wrong type, nulls, repeated rows, none.
        OSError: the file cannot be read.
    """
    path = cohort_file(cohort)
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        message = f"{path} is truncated or not Parquet: {error}"
        raise DataError(message) from None
    for name in ("subject_id", "prediction_time"):
        if name not in table.column_names:
            message = f"{path} has no column {name}"
            raise DataError(message)
        if table[name].null_count:
            message = f"{path}: column {name} has {table[name].null_count} nulls"
            raise DataError(message)
    times = table["prediction_time"]
    if not pa.types.is_timestamp(times.type) or not pa.types.is_integer(table["subject_id"].type):
        message = f"{path}: subject_id must be an integer and prediction_time a timestamp"
        raise DataError(message)
    subject = np.asarray(table["subject_id"].cast(pa.int64()).to_numpy())
    time_us = np.asarray(times.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy())
    if not len(subject):
        message = f"{path} has no rows"
        raise DataError(message)
    order = np.lexsort((time_us, subject))
    same = (np.diff(subject[order]) == 0) & (np.diff(time_us[order]) == 0)
    if same.any():
        at = int(np.flatnonzero(same)[0])
        first, second = sorted((int(order[at]), int(order[at + 1])))
        message = (
            f"{path}: rows {first} and {second} are of one subject and prediction time "
            f"({int(same.sum())} repeated rows in all)"
        )
        raise DataError(message)
    labels: list[bool | None] = [None] * len(subject)
    if "boolean_value" in table.column_names:
        labels = table["boolean_value"].to_pylist()
    return CohortRows(path, subject, time_us, labels)


def find_outcomes(rows: CohortRows, table: pa.Table) -> NDArray[np.int64]:
    """For each row the place of its (subject, prediction time) in one outcome's table, -1 for none.

    Args:
        rows: of the cohort.
        table: rows of `outcomes.parquet` of a single outcome.
    """
    times = table["prediction_time"].cast(pa.timestamp("us")).cast(pa.int64()).to_pylist()
    place = {
        key: i for i, key in enumerate(zip(table["subject_id"].to_pylist(), times, strict=True))
    }
    wanted = zip(rows.subject_id.tolist(), rows.time_us.tolist(), strict=True)
    return np.array([place.get(key, -1) for key in wanted], np.int64)


def read_outcomes(rows: CohortRows, columns: Sequence[str]) -> pa.Table | None:
    """`outcomes.parquet` beside a cohort; None where there is none.

    Raises:
        DataError: it lacks one of the columns.
    """
    path = rows.path.parent / "outcomes.parquet"
    if not path.is_file():
        return None
    table = pq.read_table(path)
    needed = ("subject_id", "prediction_time", "outcome", *columns)
    if missing := [name for name in needed if name not in table.column_names]:
        message = f"{path} has no column {', '.join(missing)}"
        raise DataError(message)
    return table


@dataclass(frozen=True, eq=False)
class Prefixes:
    """Prompts of the rows that can be scored, and why others cannot.

    Attributes:
        row: int64, number of each prompt's row in the cohort.
        prompts: one a row.
        known: int32 token ids available to each row; all of them, even where the prompt is cut.
        counts: rows by what happened to them.
    """

    row: NDArray[np.int64]
    prompts: list[Prompt]
    known: list[NDArray[np.int32]]
    counts: dict[str, int]


def whole_timelines(store: TokenStore, split: str) -> CohortRows:
    """A row for every subject of a split (or all), at the last thing known of the subject.

    Raises:
        ConfigError: no such split.
    """
    if split not in (*SPLITS, ALL_SPLITS):
        message = f"split must be one of {', '.join(SPLITS)} or {ALL_SPLITS}, got {split!r}"
        raise ConfigError(message)
    subjects, times = [], []
    for name in SPLITS if split == ALL_SPLITS else (split,):
        held = store.split(name)
        for i in range(len(held)):
            timeline = held.timeline(i)
            last = int(timeline.time_min[-1]) if len(timeline.time_min) else 0
            subjects.append(timeline.subject_id)
            times.append(timeline.origin_us + last * US_PER_MIN)
    path = store.path / "store.json"
    empty: list[bool | None] = [None] * len(subjects)
    return CohortRows(path, np.array(subjects, np.int64), np.array(times, np.int64), empty)


def find_rows(
    rows: CohortRows, store: TokenStore, split: str
) -> tuple[NDArray[np.int64], list[tuple[StoreSplit, int]]]:
    """The rows of a split, with each one's timeline.

    Raises:
        ConfigError: no such split.
        DataError: subjects that the store does not have; no row in the split.
    """
    if split not in (*SPLITS, ALL_SPLITS):
        message = f"split must be one of {', '.join(SPLITS)} or {ALL_SPLITS}, got {split!r}"
        raise ConfigError(message)
    owner = np.full(len(rows), -1)
    place = np.full(len(rows), -1, np.int64)
    splits = [store.split(name) for name in SPLITS]
    for number, held in enumerate(splits):
        found = held.find(rows.subject_id)
        owner[found >= 0], place[found >= 0] = number, found[found >= 0]
    unknown = np.flatnonzero(owner < 0)
    if len(unknown):
        message = (
            f"{rows.path}: {len(unknown)} rows name subjects that the token store does not have "
            f"(first: row {unknown[0]})"
        )
        raise DataError(message)
    kept = np.arange(len(rows))
    if split != ALL_SPLITS:
        kept = np.flatnonzero(owner == SPLITS.index(split))
    if not len(kept):
        message = f"{rows.path} has no row whose subject is in split {split}"
        raise DataError(message)
    return kept, [(splits[owner[i]], int(place[i])) for i in kept]


def make_prefixes(
    rows: CohortRows,
    store: TokenStore,
    grammar: GrammarTables,
    *,
    split: str,
    max_context: int,
    deadline_min: int | None = None,
    after_death: bool = False,
) -> Prefixes:
    """Everything that was available to each row by its prediction time, rounded down to a minute.

    A prefix that would leave the rollouts less than a quarter of the context is cut to the newest
    three quarters, at a visit border under a re-derived prompt.

    Args:
        max_context: tokens of the engine's context.
        deadline_min: the longest horizon in minutes; None: prompts without a deadline.
        after_death: keep rows whose prefix holds a death (to look back, not ahead).

    Raises:
        ConfigError, DataError: see `find_rows`.
    """
    kept, timelines = find_rows(rows, store, split)
    n_prompt = len(grammar.prompt_classes)
    ended = grammar.token_class == TokenClass.DEATH
    walker = SamplingParams().sampler(grammar, 1)
    prompts: list[Prompt] = []
    known: list[NDArray[np.int32]] = []
    numbers: list[int] = []
    counts = {"scored": 0, "before_first_event": 0, "after_death": 0, "shortened": 0}
    counts["other_split"] = len(rows) - len(kept)
    for row, (held, index) in zip(kept, timelines, strict=True):
        timeline = held.timeline(index)
        prediction_min = int((rows.time_us[row] - timeline.origin_us) // US_PER_MIN)
        n = int(np.searchsorted(timeline.time_min, prediction_min, side="right"))
        n -= int(n > 0 and timeline.token_id[n - 1] == grammar.end_id)
        token_id, time_min = timeline.token_id[:n], timeline.time_min[:n]
        if n <= n_prompt:
            counts["before_first_event"] += 1
            continue
        if ended[token_id].any() and not after_death:
            counts["after_death"] += 1
            continue
        known.append(token_id)
        longest = max_context * 3 // 4
        if n > longest:
            token_id, time_min = cut(
                token_id,
                time_min,
                grammar=grammar,
                origin_us=timeline.origin_us,
                keep=longest - MAX_ADDED,
                accepts=lambda window: walker.walk(window) < 0,
            )
            counts["shortened"] += 1
        numbers.append(int(row))
        prompts.append(
            Prompt(
                subject_id=int(rows.subject_id[row]),
                prediction_time_us=int(rows.time_us[row]),
                token_id=np.ascontiguousarray(token_id),
                time_min=np.ascontiguousarray(time_min),
                origin_us=timeline.origin_us,
                rollouts=range(1),
                prediction_min=prediction_min,
                deadline_min=None if deadline_min is None else prediction_min + deadline_min,
            )
        )
    counts["scored"] = len(prompts)
    return Prefixes(np.array(numbers, np.int64), prompts, known, counts)
