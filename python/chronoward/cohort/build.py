"""Builds a cohort folder: rows, labels with censoring, covariates for the baselines, the flow.

Labels use the source's own time of an event, prefixes (covariates, and later the model) what was
available: an event of the past that was recorded later neither helps nor counts as new. Nothing is
dropped without a line in `flow.json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward import outcomes as outcome_definitions
from chronoward.cohort.batch import (
    DAYS_PER_YEAR,
    NEVER,
    US_PER_DAY,
    EventArrays,
    earliest,
    event_arrays,
    static_code,
)
from chronoward.cohort.index import IndexRows, IndexRule, candidates, parse_index, read_index_file
from chronoward.cohort.random_visit import Observation
from chronoward.errors import ConfigError, DataError
from chronoward.files import atomic_path, make_output_folder, write_json
from chronoward.schema import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from chronoward.data import PreparedEvents

FLOW_STEPS = (
    *("candidates", "outside_observation", "washout", "not_alive", "no_time_at_risk", "rows"),
)
RANDOM_VISIT_STEPS = ("subjects", "too_short", "no_visit_after")  # before the others


@dataclass(frozen=True, kw_only=True, slots=True)
class CohortConfig:
    """What a cohort asks for.

    Attributes:
        index: the index rule, as `parse_index` reads it.
        outcomes: names or paths of outcome definitions.
        horizon_days: horizons, for the boolean label of a single outcome and horizon.
        washout_days: least observation before the prediction time.
        risk_start_days: the time at risk is what follows this many days after the prediction time,
            up to the horizon; an outcome before it is a prior one.
        seed: for rules that draw.
        index_title: the index rule in words for the report, where the rule does not tell (a file).
    """

    index: str
    outcomes: tuple[str, ...]
    horizon_days: tuple[int, ...] = (365,)
    washout_days: int = 365
    risk_start_days: int = 0
    seed: int = 0
    index_title: str = ""

    def __post_init__(self) -> None:
        if not self.outcomes:
            message = "a cohort needs at least one outcome"
            raise ConfigError(message)
        if any(h < 1 for h in self.horizon_days) or not self.horizon_days:
            message = f"horizons must be positive days, got {self.horizon_days}"
            raise ConfigError(message)
        if self.washout_days < 0:
            message = f"washout must not be negative, got {self.washout_days} days"
            raise ConfigError(message)
        if not 0 <= self.risk_start_days < min(self.horizon_days):
            message = (
                "time at risk must start within the shortest horizon, got "
                f"{self.risk_start_days} days"
            )
            raise ConfigError(message)

    @property
    def risk_start_us(self) -> int:
        """From the prediction time to the start of the time at risk."""
        return self.risk_start_days * US_PER_DAY


@dataclass(frozen=True, eq=False)
class _Lookup:
    """Code lists of the source, as masks over its (table, code) index."""

    pairs: list[tuple[str, str]]
    index: dict[tuple[str, str], int]
    inpatient: NDArray[np.bool_]
    outcome: dict[str, NDArray[np.bool_]]
    first: NDArray[np.bool_] | None


def build_cohort(
    prepared: PreparedEvents,
    out: Path,
    config: CohortConfig,
    *,
    split_of: Callable[[NDArray[np.int64]], NDArray[np.str_]],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes `cohort.parquet outcomes.parquet covariates.parquet codes.json flow.json cohort.json`.

    Args:
        prepared: the source's events.
        out: a new or empty folder.
        config: the question.
        split_of: subject_id int64 (n,) → split names (n,).
        progress: called with (subjects done, subjects in all).

    Returns:
        The flow: counts by step and by outcome.

    Raises:
        ConfigError: an outcome without a code in this source, an unknown index rule.
        DataError: an index file with unknown subjects or repeated rows; no row left.
        StateError: `out` has content.
    """
    rule = parse_index(config.index)
    definitions = [outcome_definitions.load(name) for name in config.outcomes]
    lookup = _lookup(prepared.codes, definitions, rule)
    file_rows = read_index_file(Path(rule.path)) if rule.kind == "file" else None
    out = make_output_folder(Path(out))
    observation = _observation(prepared.observation)
    steps = (*RANDOM_VISIT_STEPS, *FLOW_STEPS) if rule.kind == "random_visit" else FLOW_STEPS
    flow: dict[str, Any] = dict.fromkeys(steps, 0)
    parts: list[tuple[pa.Table, pa.Table, pa.Table]] = []
    done, matched = 0, 0
    for batch in prepared.batches():
        arrays = event_arrays(batch, lookup.index)
        rows = candidates(
            rule,
            arrays,
            observation,
            washout_days=config.washout_days,
            seed=config.seed,
            has_visits=prepared.has_visits,
            inpatient_codes=lookup.inpatient,
            first_codes=lookup.first,
            file_rows=file_rows,
        )
        matched += len(rows.time_us)
        if rows.left_out:
            flow["subjects"] += arrays.n_subjects
            for step, n in rows.left_out.items():
                flow[step] += n
        rows, end_us = _eligible(arrays, rows, observation, config, flow)
        delay = config.risk_start_us
        parts.append(_tables(arrays, rows, end_us, delay, definitions, lookup, split_of))
        done += arrays.n_subjects
        if progress is not None:
            progress(done, prepared.n_subjects)
    if file_rows is not None and matched < len(file_rows[0]):
        message = f"{rule.path}: {len(file_rows[0]) - matched} rows name subjects not in the source"
        raise DataError(message)
    if not flow["rows"]:
        message = f"no row is left in the cohort: {json.dumps(flow)}"
        raise DataError(message)
    flow["outcomes"] = _write_cohort(out, parts, lookup, config)
    write_json(out / "flow.json", flow)
    about = {
        "schema": 1,
        **asdict(config),
        "titles": {d.name: d.title for d in definitions},
        "notes": {d.name: d.note for d in definitions if d.note},
        "calendar": prepared.calendar,
        "death_ascertainment": prepared.report.get("death_ascertainment", "unknown"),
    }
    write_json(out / "cohort.json", about)
    return flow


def _write_cohort(
    out: Path,
    parts: list[tuple[pa.Table, pa.Table, pa.Table]],
    lookup: _Lookup,
    config: CohortConfig,
) -> dict[str, Any]:
    """Writes rows, labels, covariates and their codes; returns the outcomes' counts."""
    import pyarrow as pa

    cohort, labels, covariates = (pa.concat_tables(list(t)) for t in zip(*parts, strict=True))
    cohort = _with_label(cohort, labels, config)
    for name, table in (("cohort", cohort), ("outcomes", labels), ("covariates", covariates)):
        _write(out / f"{name}.parquet", table)
    write_json(out / "codes.json", [f"{table}|{code}" for table, code in lookup.pairs])
    return _outcome_flow(labels, config.horizon_days)


def _lookup(
    codes: pa.Table, definitions: Sequence[outcome_definitions.Outcome], rule: IndexRule
) -> _Lookup:
    pairs = list(zip(codes["table"].to_pylist(), codes["code"].to_pylist(), strict=True))
    index = {pair: number for number, pair in enumerate(pairs)}

    def mask(wanted: list[tuple[str, str]]) -> NDArray[np.bool_]:
        # one more place than codes: an unknown code has number −1, the last, which stays False
        found = np.zeros(len(pairs) + 1, np.bool_)
        found[[index[pair] for pair in wanted]] = True
        return found

    first = None
    if rule.kind == "first":
        first = mask(outcome_definitions.resolve(outcome_definitions.load(rule.outcome), codes))
    elif rule.kind == "code":
        first = mask(_with_descendants(rule.code, codes))
    inpatient = np.r_[np.asarray(codes["is_inpatient"].to_numpy(zero_copy_only=False)), False]
    found = {d.name: mask(outcome_definitions.resolve(d, codes)) for d in definitions}
    return _Lookup(pairs, index, inpatient.astype(np.bool_), found, first)


def _with_descendants(code: str, codes: pa.Table) -> list[tuple[str, str]]:
    """(table, code) of a code and of those that have it as an ancestor.

    Raises:
        ConfigError: the source has none of them.
    """
    found = [
        (row["table"], row["code"])
        for row in codes.select(["table", "code", "parent_codes"]).to_pylist()
        if code == row["code"] or code in row["parent_codes"]
    ]
    if not found:
        message = f"the source has no events of code {code} or a descendant of it"
        raise ConfigError(message)
    return found


def _observation(table: pa.Table) -> Observation:
    import pyarrow as pa

    columns = [np.asarray(table["subject_id"].to_numpy())]
    columns += [
        np.asarray(table[c].cast(pa.int64()).to_numpy()) for c in ("start_time", "end_time")
    ]
    order = np.lexsort((columns[1], columns[0]))
    return Observation(columns[0][order], columns[1][order], columns[2][order])


def _eligible(
    arrays: EventArrays,
    rows: IndexRows,
    observation: Observation,
    config: CohortConfig,
    flow: dict[str, Any],
) -> tuple[IndexRows, NDArray[np.int64]]:
    """Rows inside an observation period, washed out, alive, at risk; and the period's end (us)."""
    ids, starts, ends = observation.subject_id, observation.start_us, observation.end_us
    flow["candidates"] += len(rows.time_us)
    key = np.searchsorted(ids, arrays.subject_ids)
    last = np.searchsorted(ids, arrays.subject_ids, side="right")
    start_us = np.full(len(rows.time_us), NEVER)
    end_us = np.full(len(rows.time_us), -NEVER)
    for nth in range(int((last - key).max(initial=0))):  # nth period of every subject at once
        position = key[rows.subject] + nth
        exists = position < last[rows.subject]
        position = np.where(exists, position, 0)
        inside = exists & (starts[position] <= rows.time_us) & (rows.time_us <= ends[position])
        start_us[inside], end_us[inside] = starts[position[inside]], ends[position[inside]]
    observed = start_us != NEVER
    washed = observed & (
        rows.time_us - np.where(observed, start_us, 0) >= config.washout_days * US_PER_DAY
    )
    death_us = earliest(arrays, Role.DEATH)[rows.subject]
    alive = washed & (death_us > rows.time_us)
    risk_start_us = rows.time_us + config.risk_start_us
    followed = alive & (death_us > risk_start_us) & (end_us >= risk_start_us)
    flow["outside_observation"] += int((~observed).sum())
    flow["washout"] += int((observed & ~washed).sum())
    flow["not_alive"] += int((washed & ~alive).sum())
    flow["no_time_at_risk"] += int((alive & ~followed).sum())
    flow["rows"] += int(followed.sum())
    kept = IndexRows(rows.subject[followed], rows.time_us[followed])
    order = np.lexsort((kept.time_us, kept.subject))
    kept = IndexRows(kept.subject[order], kept.time_us[order])
    return kept, end_us[followed][order]


def _tables(
    arrays: EventArrays,
    rows: IndexRows,
    end_us: NDArray[np.int64],
    risk_start_us: int,
    definitions: Sequence[outcome_definitions.Outcome],
    lookup: _Lookup,
    split_of: Callable[[NDArray[np.int64]], NDArray[np.str_]],
) -> tuple[pa.Table, pa.Table, pa.Table]:
    import pyarrow as pa

    ids = pa.array(arrays.subject_ids[rows.subject], pa.int64())
    times = pa.array(rows.time_us, pa.timestamp("us"))
    base = pa.table({"subject_id": ids, "prediction_time": times})
    age_years = _age_years(arrays, rows)
    sex = _names(static_code(arrays, Role.SEX), lookup, "Gender/U")[rows.subject]
    start_us = rows.time_us + risk_start_us
    labels = [
        _labels(arrays, rows, (start_us, end_us), definition, mask, age_years, sex)
        for definition, mask in ((d, lookup.outcome[d.name]) for d in definitions)
    ]
    label_table = pa.concat_tables(
        [pa.table({"subject_id": ids, "prediction_time": times, **columns}) for columns in labels]
    )
    return base, label_table, _covariates(arrays, rows, lookup, split_of, age_years, sex, base)


def _day_end(time_us: NDArray[np.int64]) -> NDArray[np.int64]:
    return (time_us // US_PER_DAY + 1) * US_PER_DAY - 1


def _age_years(arrays: EventArrays, rows: IndexRows) -> NDArray[np.float64]:
    birth = earliest(arrays, Role.BIRTH)[rows.subject]
    known = birth != NEVER
    elapsed = (rows.time_us - np.where(known, birth, 0)) / (US_PER_DAY * DAYS_PER_YEAR)
    return np.where(known, elapsed, np.nan)


def _names(numbers: NDArray[np.int64], lookup: _Lookup, absent: str) -> NDArray[np.str_]:
    """The part after the slash of each subject's static code, e.g. `F`."""
    names = [code.rpartition("/")[2] for _, code in lookup.pairs]
    return np.asarray([*names, absent.rpartition("/")[2]])[numbers]


def _labels(
    arrays: EventArrays,
    rows: IndexRows,
    risk_us: tuple[NDArray[np.int64], NDArray[np.int64]],
    definition: outcome_definitions.Outcome,
    codes: NDArray[np.bool_],
    age_years: NDArray[np.float64],
    sex: NDArray[np.str_],
) -> dict[str, Any]:
    """Labels of one outcome; `risk_us` are start of the time at risk and end of observation."""
    import pyarrow as pa

    start_us, end_us = risk_us
    event = codes[arrays.code] & (arrays.time_us != NEVER)
    death = arrays.first_after(arrays.role == Role.DEATH, rows.subject, start_us)
    outcome = arrays.first_after(event, rows.subject, start_us)
    # Follow-up ends with the observation period; a date-only death on its last day still counts.
    death = np.where(death > end_us + US_PER_DAY, NEVER, death)
    outcome = np.where(outcome > np.maximum(end_us, _day_end(end_us)), NEVER, outcome)
    censor = np.maximum(end_us, rows.time_us)
    if definition.kind == "death":
        outcome, death = death, np.full(len(rows.time_us), NEVER)
    censor = np.where(outcome != NEVER, np.maximum(censor, outcome), censor)
    censor = np.where(death != NEVER, np.maximum(censor, death), censor)
    first = np.minimum(np.minimum(outcome, death), censor)
    what = np.where(outcome == first, "outcome", np.where(death == first, "death", "censored"))
    at_risk = np.ones(len(rows.time_us), np.bool_)
    if definition.sex is not None:
        at_risk &= sex == definition.sex
    if definition.min_age_years > 0:
        at_risk &= age_years >= definition.min_age_years
    prior = arrays.any_until(event, rows.subject, start_us)
    return {
        "outcome": pa.array([definition.name] * len(first), pa.string()),
        "days_to_event": pa.array((first - rows.time_us) / US_PER_DAY, pa.float64()),
        "event": pa.array(what.tolist(), pa.string()),
        "prior_outcome": pa.array(prior, pa.bool_()),
        "at_risk": pa.array(at_risk & ~(prior & definition.first_only), pa.bool_()),
    }


def _covariates(
    arrays: EventArrays,
    rows: IndexRows,
    lookup: _Lookup,
    split_of: Callable[[NDArray[np.int64]], NDArray[np.str_]],
    age_years: NDArray[np.float64],
    sex: NDArray[np.str_],
    base: pa.Table,
) -> pa.Table:
    import pyarrow as pa

    race = _names(static_code(arrays, Role.RACE), lookup, "Race/unknown")[rows.subject]
    bags, counts, n_prior, silence = [], [], [], []
    countable = (arrays.role == Role.CODE) & (arrays.code >= 0)
    for subject, time_us in zip(rows.subject.tolist(), rows.time_us.tolist(), strict=True):
        begin, end = arrays.first[subject], arrays.first[subject + 1]
        known = countable[begin:end] & (arrays.available_us[begin:end] <= time_us)
        bag, count = np.unique(arrays.code[begin:end][known], return_counts=True)
        bags.append(bag.astype(np.int32))
        counts.append(count.astype(np.int32))
        n_prior.append(int(known.sum()))
        until = np.r_[arrays.available_us[begin:end], arrays.end_us[begin:end]]
        last = int(until[until <= time_us].max(initial=-NEVER))
        silence.append((time_us - last) / US_PER_DAY if last != -NEVER else np.nan)
    years = rows.time_us.astype("datetime64[us]").astype("datetime64[Y]").astype(np.int32) + 1970
    columns = {
        "split": pa.array(split_of(arrays.subject_ids[rows.subject]).tolist(), pa.string()),
        "age_years": pa.array(age_years, pa.float64()),
        "sex": pa.array(sex.tolist(), pa.string()),
        "race": pa.array(race.tolist(), pa.string()),
        "calendar_year": pa.array(years, pa.int32()),
        "n_prior_events": pa.array(n_prior, pa.int32()),
        "silence_days": pa.array(silence, pa.float64()),  # since the last event known by then
        "code_index": pa.array(bags, pa.list_(pa.int32())),
        "code_count": pa.array(counts, pa.list_(pa.int32())),
    }
    for name, column in columns.items():
        base = base.append_column(name, column)
    return base


def _outcome_flow(labels: pa.Table, horizon_days: Sequence[int]) -> dict[str, Any]:
    """Per outcome and horizon: at risk, events, deaths first, followed to the end, lost before."""
    names = np.asarray(labels["outcome"].to_pylist())
    event = np.asarray(labels["event"].to_pylist())
    days = np.asarray(labels["days_to_event"].to_numpy())
    prior = np.asarray(labels["prior_outcome"].to_numpy(zero_copy_only=False))
    at_risk = np.asarray(labels["at_risk"].to_numpy(zero_copy_only=False))
    flow: dict[str, Any] = {}
    for name in sorted(set(names.tolist())):
        mine = names == name
        risk = mine & at_risk
        entry: dict[str, Any] = {
            "prior_outcome": int((mine & prior).sum()),
            "at_risk": int(risk.sum()),
        }
        for horizon in horizon_days:
            within = days <= horizon
            entry[str(horizon)] = {
                "events": int((risk & within & (event == "outcome")).sum()),
                "deaths": int((risk & within & (event == "death")).sum()),
                "censored": int((risk & ~(days >= horizon) & (event == "censored")).sum()),
            }
        flow[name] = entry
    return flow


def _with_label(cohort: pa.Table, labels: pa.Table, config: CohortConfig) -> pa.Table:
    """Adds `boolean_value`: the label where one outcome and horizon are asked and it is known."""
    import pyarrow as pa

    values: list[bool | None] = [None] * cohort.num_rows
    if len(config.outcomes) == 1 and len(config.horizon_days) == 1:
        horizon = config.horizon_days[0]
        pairs = zip(labels["event"].to_pylist(), labels["days_to_event"].to_pylist(), strict=True)
        values = [
            True
            if event == "outcome" and days <= horizon
            else (False if days >= horizon or event == "death" else None)
            for event, days in pairs
        ]
    return cohort.append_column("boolean_value", pa.array(values, pa.bool_()))


def _write(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
