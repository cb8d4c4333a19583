"""Timelines for the page: synthetic subjects, and many futures of one of them.

Only synthetic subjects are drawn, so that a report of real data shows nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chronoward import outcomes
from chronoward.data import PreparedEvents
from chronoward.engine import Engine, EngineConfig, Prompt, Rollout, SamplingParams
from chronoward.model import load
from chronoward.schema import Role
from chronoward.tokenizer import TokenBatch, Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MINUTES_PER_DAY = 1440
US_PER_MINUTE = 60_000_000
US_PER_DAY = MINUTES_PER_DAY * US_PER_MINUTE
DAYS_PER_YEAR = 365.2425
N_SUBJECTS = 3
N_PATHS = 12
EVENT_RANGE = (20, 120)  # few enough to draw, enough to look at
DOMAINS = {
    "condition_occurrence": "condition",
    "drug_exposure": "drug",
    "procedure_occurrence": "procedure",
    "measurement": "measurement",
    "observation": "observation",
    "device_exposure": "device",
}


def draw_timelines(out: Path, outcome: str, horizon_days: int, *, seed: int) -> dict[str, Any]:
    """The timelines section of a demo folder.

    Args:
        out: the demo folder; its synthetic subjects were prepared under work/.
        outcome: what the fan of rollouts marks.
        horizon_days: how far the fan goes.
        seed: of the rollouts.

    Returns:
        What `chronoward.evaluation.timelines` describes.
    """
    prepared = PreparedEvents.open(out / "work" / "synthetic_events" / "synthetic")
    tokenizer = Tokenizer.load(out / "run" / "tokenizer.json")
    names = _descriptions(prepared.codes)
    chosen = _choose(prepared)
    subjects = [
        _subject(table, names, f"Synthetic subject {number + 1}")
        for number, table in enumerate(chosen)
    ]
    fan = None
    if chosen:
        definition = outcomes.load(outcome)
        longest = max(chosen, key=lambda table: table.num_rows)
        fan = _fan(out, tokenizer, prepared, longest, definition, horizon_days, seed)
    return {"subjects": subjects, "rollouts": fan}


def _descriptions(codes: pa.Table) -> dict[str, str]:
    pairs = zip(codes["code"].to_pylist(), codes["description"].to_pylist(), strict=True)
    return {code: description or code for code, description in pairs}


def _choose(prepared: PreparedEvents) -> list[pa.Table]:
    """The first subjects whose number of events can be drawn; else those with most."""
    tables: list[pa.Table] = []
    for batch in prepared.batches():
        for subject in pc.unique(batch["subject_id"]):
            table = batch.filter(pc.equal(batch["subject_id"], subject))
            n_codes = pc.sum(pc.equal(table["role"], int(Role.CODE))).as_py() or 0
            if EVENT_RANGE[0] <= n_codes <= EVENT_RANGE[1]:
                tables.append(table)
            if len(tables) == N_SUBJECTS:
                return tables
    return tables


def _days(column: pa.ChunkedArray, zero_us: int) -> list[float | None]:
    values = column.cast(pa.int64()).to_pylist()
    return [None if v is None else round((v - zero_us) / US_PER_DAY, 4) for v in values]


def _subject(table: pa.Table, names: dict[str, str], title: str) -> dict[str, Any]:
    """One subject as the page draws it, days from the first visit or event."""
    timed = table.filter(pc.greater_equal(table["role"], int(Role.VISIT)))
    zero = pc.min(timed["time"].cast(pa.int64())).as_py()
    births = table.filter(pc.equal(table["role"], int(Role.BIRTH)))["time"].cast(pa.int64())
    sexes = table.filter(pc.equal(table["role"], int(Role.SEX)))["code"].to_pylist()
    deaths = _days(table.filter(pc.equal(table["role"], int(Role.DEATH)))["time"], zero)
    drawn = _drawn(table, names, zero)
    ends = [v["end"] for v in drawn["visits"]] + [e["day"] for e in drawn["events"]]
    age = (zero - births[0].as_py()) / US_PER_DAY / DAYS_PER_YEAR if len(births) else None
    return {
        "title": title,
        "age_years": None if age is None else round(age, 1),
        "sex": {"F": "woman", "M": "man"}.get((sexes or ["/U"])[0].rpartition("/")[2], "unknown"),
        "end": "death" if deaths else "observation",
        "end_day": deaths[0] if deaths else max(ends, default=0.0),
        **drawn,
    }


def _drawn(table: pa.Table, names: dict[str, str], zero_us: int) -> dict[str, Any]:
    days, ends = _days(table["time"], zero_us), _days(table["end_time"], zero_us)
    columns = [table[c].to_pylist() for c in ("role", "table", "code", "numeric_value", "unit")]
    visits, events = [], []
    for day, end, role, source, code, value, unit in zip(days, ends, *columns, strict=True):
        if role == Role.VISIT:
            visits.append({"start": day, "end": end, "type": names.get(code, code)})
        elif role == Role.CODE:
            events.append(
                {
                    "day": day,
                    "domain": DOMAINS.get(source, "other"),
                    "label": names.get(code, code),
                    "value": None if value is None else float(f"{value:.4g}"),
                    "unit": unit,
                }
            )
    return {"visits": visits, "events": events}


def _fan(
    out: Path,
    tokenizer: Tokenizer,
    prepared: PreparedEvents,
    table: pa.Table,
    outcome: outcomes.Outcome,
    horizon_days: int,
    seed: int,
) -> dict[str, Any]:
    """Futures of one synthetic subject from the middle of its record."""
    own = prepared.observation.filter(
        pc.equal(prepared.observation["subject_id"], table["subject_id"][0])
    )
    batch = tokenizer.encode(table, own, codes=prepared.codes)
    middle = int(batch.time_min[len(batch.time_min) // 2])
    n_prefix = int(np.searchsorted(batch.time_min, middle, side="right"))
    origin_us = int(batch.origin_us[0])
    prompt = Prompt(
        subject_id=int(batch.subject_id[0]),
        prediction_time_us=origin_us + middle * US_PER_MINUTE,
        token_id=batch.token_id[:n_prefix].copy(),
        time_min=batch.time_min[:n_prefix].copy(),
        origin_us=origin_us,
        rollouts=range(N_PATHS),
        prediction_min=middle,
        deadline_min=middle + horizon_days * MINUTES_PER_DAY,
    )
    engine = Engine(load(out / "run"), tokenizer.grammar(), EngineConfig())
    rollouts = list(engine.generate([prompt], SamplingParams(seed=seed, stream="demo")))
    names = _descriptions(prepared.codes)
    wanted = tokenizer.token_ids_of(outcomes.resolve(outcome, prepared.codes))
    prefix = _future(tokenizer, batch, prompt, prompt.token_id, prompt.time_min, names)
    title = f"{N_PATHS} futures of one synthetic subject"
    return {
        "title": title,
        "outcome": outcome.title,
        "horizon_days": horizon_days,
        "prefix": {"title": "before", **prefix},
        "paths": [_path(tokenizer, batch, prompt, rollout, wanted, names) for rollout in rollouts],
        "risk": None,
    }


def _path(
    tokenizer: Tokenizer,
    batch: TokenBatch,
    prompt: Prompt,
    rollout: Rollout,
    wanted: NDArray[np.int32],
    names: dict[str, str],
) -> dict[str, Any]:
    assert prompt.deadline_min is not None
    assert prompt.prediction_min is not None
    inside = rollout.time_min <= prompt.deadline_min
    token_id = np.concatenate([prompt.token_id, rollout.token_id[inside]])
    time_min = np.concatenate([prompt.time_min, rollout.time_min[inside]])
    drawn = _future(tokenizer, batch, prompt, token_id, time_min, names)
    hits = rollout.time_min[inside & np.isin(rollout.token_id, wanted)]
    last = min(int(rollout.time_min[-1]), prompt.deadline_min)
    return {
        "visits": [v for v in drawn["visits"] if v["end"] > 0],
        "events": [e for e in drawn["events"] if e["day"] > 0],
        "end": rollout.status,
        "end_day": (last - prompt.prediction_min) / MINUTES_PER_DAY,
        "outcome_day": (int(hits[0]) - prompt.prediction_min) / MINUTES_PER_DAY
        if len(hits)
        else None,
    }


def _future(
    tokenizer: Tokenizer,
    batch: TokenBatch,
    prompt: Prompt,
    token_id: NDArray[np.int32],
    time_min: NDArray[np.int32],
    names: dict[str, str],
) -> dict[str, Any]:
    """Tokens as drawn visits and events, days from the prediction time."""
    one = TokenBatch(
        subject_id=batch.subject_id[:1],
        origin_us=batch.origin_us[:1],
        offsets=np.asarray([0, len(token_id)], np.int64),
        token_id=token_id,
        time_min=time_min,
        event_min=time_min,
        n_prior=np.zeros(len(token_id), np.uint8),
        obs_offsets=np.zeros(2, np.int64),
        obs_start_min=np.zeros(0, np.int32),
        obs_end_min=np.zeros(0, np.int32),
    )
    return _drawn(tokenizer.decode(one), names, prompt.prediction_time_us)
