"""`chronoward calibrate`: brings mean risks to the level that the record itself shows.

Rollouts amplify: a model whose waits between visits are a few per cent too short makes too many
visits, each of them a chance to be ill, and its mean risk is off by tens of per cent although it
ranks well. The level is cheap to know, from the same source: the incidence by the horizon among
rows of the train split (Aalen and Johansen 1978; leaving is censoring, death competes), beside the
mean risk of a sample of the same rows. One number for each outcome, horizon and group (whether the
record held the outcome before) corrects it:

    corrected = 1 - (1 - risk)^exponent

which keeps 0, 1, the order of rows and the shape of a cumulative incidence (a proportional
subdistribution hazard: Fine and Gray 1999). Updating the intercept alone is the first of the
updating methods of Steyerberg, Clinical Prediction Models (2nd ed.), ch. 20; it cannot mend ranks.

Few events say little: the ratio of observed to expected is shrunk to 1 as if `PRIOR_EVENTS` more
events had come as expected (the mean of a gamma distribution given Poisson events), so that an
outcome with a handful of events is left nearly as it was.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from chronoward.engine.precision import choose
from chronoward.errors import ConfigError, DataError, FormatError, StateError, require_at_least
from chronoward.files import read_json, sha256_file, write_json
from chronoward.philox import hash64, permutation
from chronoward.score.estimators import mean_undetermined
from chronoward.score.job import ScoreConfig, ScoreJob
from chronoward.score.rows import (
    CohortRows,
    find_outcomes,
    find_rows,
    read_cohort,
    read_outcomes,
)
from chronoward.store import TokenStore
from chronoward.survival import CAUSES, OUTCOME, aalen_johansen

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from chronoward.score.estimators import RowEstimate
    from chronoward.score.job import Progress

    Floats = NDArray[np.float64]

SCHEMA = 1
GROUPS = ("first", "again")  # the record held no such outcome by the prediction time, or it did
PRIOR_EVENTS = 100.0  # below so many an evaluation is called unstable too
_LOG_BOUND = 5.0


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """How a calibration is estimated.

    Raises:
        ConfigError: a value out of range, or numbers that the device does not decode in.
    """

    estimator: str = "reach"
    """As in `ScoreConfig`; the risks to correct may come from another estimator by rollouts."""
    n_rows: int = 1000
    """Rows whose risk is estimated, drawn among those of the split."""
    n_rollouts: int = 8
    """Rollouts a row (and outcome)."""
    split: str = "train"
    """Rows whose subject is in this split of the token store, or all."""
    seed: int = 0
    device: str = "auto"
    """As in `ScoreConfig`, so are the next two."""
    dtype: str | None = None
    kv_dtype: str | None = None

    def __post_init__(self) -> None:
        choose(self.device, self.dtype, self.kv_dtype)
        require_at_least(1, self, "n_rows", "n_rollouts")

    @property
    def scoring(self) -> ScoreConfig:
        """How the sample of rows is scored."""
        return ScoreConfig(
            estimator=self.estimator,
            n_rollouts=self.n_rollouts,
            seed=self.seed,
            device=self.device,
            dtype=self.dtype,
            kv_dtype=self.kv_dtype,
        )


@dataclass(frozen=True, kw_only=True)
class Level:
    """Observed and expected of one outcome, horizon and group.

    Attributes:
        exponent: of the correction; 1 changes nothing.
        observed: incidence by the horizon over all rows of the split.
        expected: mean risk of the rows that were scored; None where there were none.
        n_rows, n_events: of the split.
        n_scored: rows behind `expected`.
    """

    exponent: float
    observed: float | None
    expected: float | None
    n_rows: int
    n_events: int
    n_scored: int


def corrected(risk: Floats, exponent: Floats | float) -> Floats:
    """1 - (1 - risk)^exponent: float64, the shape of `risk`."""
    with np.errstate(divide="ignore"):  # risk 1: the log of 0, and stays 1
        return np.asarray(-np.expm1(exponent * np.log1p(-risk)))


def find_exponent(risk: Floats, observed: float, n_events: int) -> float:
    """The exponent that brings the mean of risks to the observed incidence, shrunk for few events.

    Args:
        risk: float64 (n,), in [0, 1].
        observed: incidence.
        n_events: events behind it.
    """
    expected = float(risk.mean())
    if not 0.0 < expected < 1.0:
        return 1.0
    # with n events of an incidence, the rows weigh as much as n / incidence without censoring
    due = n_events * expected / observed if n_events else 0.0
    ratio = (PRIOR_EVENTS + n_events) / (PRIOR_EVENTS + due)
    wanted = min(expected * ratio, 0.5 * (1.0 + expected))

    def excess(log_exponent: float) -> float:
        return float(corrected(risk, math.exp(log_exponent)).mean()) - wanted

    if excess(_LOG_BOUND) < 0.0:  # every risk that is not 0 would have to be 1
        return math.exp(_LOG_BOUND)
    from scipy.optimize import brentq  # of use here alone, and half a second to load

    return math.exp(brentq(excess, -_LOG_BOUND, _LOG_BOUND, xtol=1e-10))


@dataclass(frozen=True, eq=False)
class Calibration:
    """What `calibrate` found.

    Attributes:
        facts: what it belongs to and how it was made.
        levels: outcome → horizon in days → group → level.
    """

    facts: dict[str, Any]
    levels: dict[str, dict[int, dict[str, Level]]]

    @classmethod
    def read(cls, path: Path | str) -> Calibration:
        """Reads a file of `calibrate`.

        Raises:
            FormatError: it is not one.
            OSError: it cannot be read.
        """
        value = read_json(Path(path))
        try:
            if value["schema"] != SCHEMA:
                message = f"{path}: schema {value['schema']}, this version reads {SCHEMA}"
                raise FormatError(message)
            levels = {
                outcome: {
                    int(days): {group: Level(**groups[group]) for group in GROUPS}
                    for days, groups in horizons.items()
                }
                for outcome, horizons in value["levels"].items()
            }
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            message = f"{path} is not a calibration: {error!r}"
            raise FormatError(message) from None
        return cls({k: v for k, v in value.items() if k not in ("schema", "levels")}, levels)

    def to_json(self) -> dict[str, Any]:
        """The content of its file."""
        levels = {
            outcome: {
                str(days): {group: asdict(level) for group, level in groups.items()}
                for days, groups in horizons.items()
            }
            for outcome, horizons in self.levels.items()
        }
        return {"schema": SCHEMA, **self.facts, "levels": levels}

    def check(self, job: ScoreJob) -> Calibration:
        """Refuses a job that this is not the calibration of.

        Raises:
            FormatError: it was made with another model.
            ConfigError: an outcome or horizon is not in it, or one estimator needs rollouts and
                the other one the head.
        """
        if self.facts["model"] != job.weights:
            message = f"the calibration is of another model than {job.run}"
            raise FormatError(message)
        ours, theirs = job.config.estimator, self.facts["estimator"]
        if (ours == "hazard") != (theirs == "hazard"):
            message = f"the calibration is of risks by {theirs}, these would be by {ours}"
            raise ConfigError(message)
        missing = [
            f"{name} {days} days"
            for name in job.outcomes.names
            for days in job.horizons_days
            if days not in self.levels.get(name, {})
        ]
        if missing:
            message = f"the calibration does not hold {', '.join(missing)}"
            raise ConfigError(message)
        return self

    def apply(self, job: ScoreJob, estimates: list[list[RowEstimate]]) -> list[list[RowEstimate]]:
        """The corrected estimates; standard errors as half the image of risk ± error."""
        exponents = np.array(
            [
                [[self.levels[o][days][g].exponent for days in job.horizons_days] for g in GROUPS]
                for o in job.outcomes.names
            ]
        )  # (outcomes, groups, horizons)
        group = job.had_before().astype(np.int64)
        return [
            [_apply(row[k], exponents[k, group[i, k]]) for k in range(len(row))]
            for i, row in enumerate(estimates)
        ]


def _apply(estimate: RowEstimate, exponent: Floats) -> RowEstimate:
    risk, error = estimate.risk, estimate.mc_se
    low, high = np.maximum(risk - error, 0.0), np.minimum(risk + error, 1.0)
    factor = np.divide(
        corrected(high, exponent) - corrected(low, exponent),
        high - low,
        out=exponent.copy(),
        where=high > low,
    )
    return replace(
        estimate,
        risk=corrected(risk, exponent),
        mc_se=error * factor,
        lower=corrected(estimate.lower, exponent),
        upper=corrected(estimate.upper, exponent),
        cif=corrected(estimate.cif, exponent[:, None]),
        variance=estimate.variance * factor**2,
    )


@dataclass(frozen=True, eq=False)
class _FollowUp:
    """What happened after rows: days, cause and whether a first outcome could have come."""

    days: Floats
    cause: NDArray[np.int64]
    at_risk: NDArray[np.bool_]
    prior: NDArray[np.bool_]


def _read_follow_up(rows: CohortRows, outcomes: Sequence[str]) -> list[_FollowUp]:
    """Of each outcome, in the order of the rows.

    Raises:
        DataError: no outcomes.parquet beside the cohort, or rows or columns are missing in it.
    """
    table = read_outcomes(rows, ("days_to_event", "event", "at_risk", "prior_outcome"))
    if table is None:
        message = f"{rows.path.parent} has no outcomes.parquet: make it with `chronoward cohort`"
        raise DataError(message)
    return [_follow_up_of(rows, table, outcome) for outcome in outcomes]


def _follow_up_of(rows: CohortRows, table: pa.Table, outcome: str) -> _FollowUp:
    mine = table.filter(pc.equal(table["outcome"], outcome))
    order = find_outcomes(rows, mine)
    if (order < 0).any():
        n = int((order < 0).sum())
        message = f"{rows.path.parent}/outcomes.parquet lacks outcome {outcome!r} of {n} rows"
        raise DataError(message)

    def column(name: str) -> NDArray[Any]:
        values: NDArray[Any] = mine[name].to_numpy(zero_copy_only=False)
        return np.asarray(values[order])

    cause = np.array([CAUSES[kind] for kind in column("event")], np.int64)
    at_risk, prior = (column(n).astype(np.bool_) for n in ("at_risk", "prior_outcome"))
    return _FollowUp(column("days_to_event").astype(np.float64), cause, at_risk, prior)


def _take(rows: CohortRows, chosen: NDArray[np.int64]) -> CohortRows:
    labels = [rows.label[i] for i in chosen]
    return CohortRows(rows.path, rows.subject_id[chosen], rows.time_us[chosen], labels)


def calibrate(
    run: Path | str,
    tokens: Path | str,
    cohort: Path | str,
    outcomes: Sequence[str],
    horizons: Sequence[int],
    out: Path | str,
    config: CalibrationConfig | None = None,
    *,
    threads: int = 1,
    progress: Progress | None = None,
    **options: Any,
) -> Calibration:
    """Finds by how much a run's mean risks are off, on rows whose future the source knows.

    Args:
        run: RUN folder.
        tokens: token store that holds the cohort's subjects.
        cohort: folder of `chronoward cohort` with rows like those to be scored, of all splits.
        outcomes: names or YAML files of outcome definitions.
        horizons: days.
        out: file to write, for `score(calibration=)`; must not exist.
        config: rows, rollouts, split.
        threads: worker processes; the result does not depend on it.
        progress: called with (rows done, rows in all, the engines' counts so far or None).
        options: fields of `CalibrationConfig` that differ from `config`.

    Raises:
        ConfigError: an outcome without a token, a run trained with repeat weights.
        DataError: a cohort without follow-up, unknown subjects, no row in the split.
        FormatError: run and store have different tokenizers.
        StateError: `out` exists.
    """
    began = time.monotonic()
    config = replace(config or CalibrationConfig(), **options)
    out = Path(out)
    if out.exists():
        message = f"{out} exists"
        raise StateError(message)
    rows = read_cohort(cohort)
    kept = find_rows(rows, TokenStore.open(tokens), config.split)[0]
    drawn = np.sort(permutation(hash64(config.seed, "calibration"), len(kept))[: config.n_rows])
    sample = _take(rows, kept[drawn])
    job = ScoreJob.open(run, tokens, sample, outcomes, horizons, config.scoring)
    follow_up = _read_follow_up(_take(rows, kept), job.outcomes.names)
    estimates = job.estimate(threads=threads, progress=progress)
    scored = drawn[job.prefixes.row]
    levels: dict[str, dict[int, dict[str, Level]]] = {}
    for k, name in enumerate(job.outcomes.names):
        risks = np.array([row[k].risk for row in estimates])
        levels[name] = {
            days: {g: _level(follow_up[k], g, days, scored, risks[:, h]) for g in GROUPS}
            for h, days in enumerate(job.horizons_days)
        }
    facts = {
        "model": job.weights,
        "tokenizer": job.tokenizer.hash,
        "cohort": sha256_file(rows.path),
        **asdict(config),
        **config.scoring.decoding._asdict(),
        "rows": job.prefixes.counts,
        "undetermined": mean_undetermined(estimates),
        "seconds": round(time.monotonic() - began, 3),
    }
    found = Calibration(facts, levels)
    write_json(out, found.to_json())
    return found


def _level(
    follow_up: _FollowUp, group: str, horizon_days: int, scored: NDArray[np.int64], risk: Floats
) -> Level:
    """One group's level at a horizon.

    Args:
        follow_up: of all rows of the split.
        group: one of `GROUPS`.
        horizon_days: the horizon.
        scored: int64 (n,), the rows whose risk was estimated.
        risk: float64 (n,), their risks.
    """
    is_mine = follow_up.prior if group == "again" else follow_up.at_risk
    days, cause = follow_up.days[is_mine], follow_up.cause[is_mine]
    risk = risk[is_mine[scored]]
    n_events = int(((cause == OUTCOME) & (days <= horizon_days)).sum())
    observed = None
    if len(days):
        observed = float(aalen_johansen(days, cause, np.array([float(horizon_days)]))[0])
    exponent = 1.0
    if observed is not None and len(risk):
        exponent = find_exponent(risk, observed, n_events)
    return Level(
        exponent=exponent,
        observed=observed,
        expected=float(risk.mean()) if len(risk) else None,
        n_rows=len(days),
        n_events=n_events,
        n_scored=len(risk),
    )
