"""What to ask of a source nobody described: outcomes, horizons, washout, index, by stated rules.

1. A folder with `truth_cohort.parquet` and `outcomes/` (the simulator's) is asked what it is the
   truth of.
2. Else one visit (or moment) a subject, drawn by seed, at its end.
3. Washout is 365 days when half of the subjects are observed for two years or more, else none, and
   the horizons are 365 days or 30 and 365.
4. Outcomes are those (shipped, or the simulator's) with a token in the vocabulary, the two with
   most subjects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward import outcomes
from chronoward.errors import ConfigError, DataError
from chronoward.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.data import PreparedEvents

MOST_OUTCOMES = 2
US_PER_DAY = 86_400_000_000
TWO_YEARS_DAYS = 730


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question to a source.

    Attributes:
        index: index rule, as `chronoward cohort --index` reads it.
        outcomes: names or paths.
        horizon_days: horizons.
        washout_days: observation before the index.
        split: whose rows are scored.
        index_title: the index rule in words, where the rule itself does not tell.
    """

    index: str
    outcomes: tuple[str, ...]
    horizon_days: tuple[int, ...]
    washout_days: int
    split: str = "held_out"
    index_title: str = ""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Question:
        """The question that was kept as JSON."""
        lists = {key: tuple(value[key]) for key in ("outcomes", "horizon_days")}
        return cls(**{**value, **lists})


def ask(prepared: PreparedEvents, source: Path, tokens: Path) -> Question:
    """Chooses the question by the rules above.

    Args:
        prepared: the source's events.
        source: its folder.
        tokens: the token store made of it.

    Raises:
        DataError: none of the shipped outcomes occurs in the source.
    """
    tokenizer = Tokenizer.load(tokens / "tokenizer.json")
    planted = source / "truth_cohort.parquet"
    if planted.is_file():
        paths = [str(path) for path in sorted((source / "outcomes").glob("*.yaml"))]
        return Question(
            index=f"file={planted}",
            outcomes=tuple(_frequent_outcomes(paths, prepared, tokenizer)[:MOST_OUTCOMES]),
            horizon_days=(TWO_YEARS_DAYS,),
            washout_days=365,
            index_title="once a person, at the end of a visit drawn at random",
        )
    found = _frequent_outcomes(outcomes.shipped(), prepared, tokenizer)
    if not found:
        message = "none of the shipped outcomes occurs often enough in this source to be asked"
        raise DataError(message)
    long = _median_observation_days(prepared) >= TWO_YEARS_DAYS
    return Question(
        index="random_visit",
        outcomes=tuple(found[:MOST_OUTCOMES]),
        horizon_days=(365,) if long else (30, 365),
        washout_days=365 if long else 0,
    )


def _median_observation_days(prepared: PreparedEvents) -> float:
    import pyarrow as pa

    periods = prepared.observation
    if not periods.num_rows:
        return 0.0
    ids = np.asarray(periods["subject_id"].to_numpy())
    start, end = (
        np.asarray(periods[name].cast(pa.int64()).to_numpy()) for name in ("start_time", "end_time")
    )
    _, subject = np.unique(ids, return_inverse=True)
    return float(np.median(np.bincount(subject, weights=(end - start) / US_PER_DAY)))


def _frequent_outcomes(
    names: list[str], prepared: PreparedEvents, tokenizer: Tokenizer
) -> list[str]:
    """The outcomes that have a token, by the number of subjects who have them, most first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        try:
            codes = outcomes.resolve(outcomes.load(name), prepared.codes)
        except ConfigError:
            continue  # the source has no such code: nothing to ask
        if len(tokenizer.token_ids_of(codes)):
            wanted[name] = codes
    subjects = dict.fromkeys(wanted, 0)
    for batch in prepared.batches():
        for name, codes in wanted.items():
            listed = pa.array([code for _, code in codes])
            hit = batch.filter(pc.is_in(batch["code"].cast(pa.string()), listed))
            subjects[name] += pc.count_distinct(hit["subject_id"]).as_py()
    return sorted((name for name in wanted if subjects[name]), key=lambda n: (-subjects[n], n))
