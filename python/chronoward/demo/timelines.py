"""Timelines for the page: synthetic subjects, and many futures of one of them.

Only synthetic subjects are drawn, so that a report of real data shows nobody.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chronoward import outcomes
from chronoward.data import PreparedEvents
from chronoward.engine import Engine, EngineConfig, Prompt, Rollout, SamplingParams
from chronoward.files import read_json
from chronoward.model import load
from chronoward.schema import Role
from chronoward.store.codes import code_table
from chronoward.synthesize.concepts import UNMAPPED
from chronoward.synthesize.timelines import Synthesizer, code_list
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
N_FAN_SUBJECTS = 8
FAN_TOKENS = 400
LEAST_DAYS = 3
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
    names = _names(prepared.codes.select(["code", "description", "is_inpatient"]).to_pylist())
    subjects = [
        _subject(table, names, f"Synthetic subject {number + 1}")
        for number, table in enumerate(_choose(prepared))
    ]
    fan = _fan(out, tokenizer, outcomes.load(outcome), horizon_days, seed)
    section: dict[str, Any] = {"subjects": subjects, "rollouts": fan}
    if sum(not entry.description for entry in tokenizer.codes) > len(tokenizer.codes) / 2:
        section["note"] = "The source has no names for most of its codes: they are shown as given."
    return section


@dataclass(frozen=True)
class _Names:
    """What codes are called, and which of them are hospital stays."""

    label: dict[str, str]
    inpatient: frozenset[str]


def _names(rows: list[dict[str, Any]]) -> _Names:
    return _Names(
        label={
            row["code"]: row["description"] or row["code"].removeprefix(UNMAPPED) for row in rows
        },
        inpatient=frozenset(row["code"] for row in rows if row["is_inpatient"]),
    )


def _choose(prepared: PreparedEvents) -> list[pa.Table]:
    """Subjects with something to see: events on several days, and few enough to draw."""
    best: list[tuple[tuple[bool, int], pa.Table]] = []
    for batch in prepared.batches():
        for subject in pc.unique(batch["subject_id"]):
            table = batch.filter(pc.equal(batch["subject_id"], subject))
            n_codes = pc.sum(pc.equal(table["role"], int(Role.CODE))).as_py() or 0
            low, high = EVENT_RANGE
            rank = (not _lasts(table), max(low - n_codes, n_codes - high, 0))
            best = sorted([*best, (rank, table)], key=lambda found: found[0])[:N_SUBJECTS]
            if len(best) == N_SUBJECTS and best[-1][0] == (False, 0):
                break
    return [table for (_, table) in best]


def _lasts(table: pa.Table) -> bool:
    """Whether a record has something to see along its time axis: events on several days."""
    days = pc.floor_temporal(table.filter(pc.equal(table["role"], int(Role.CODE)))["time"], 1)
    return len(pc.unique(days)) >= LEAST_DAYS


def _days(column: pa.ChunkedArray, zero_us: int) -> list[float | None]:
    values = column.cast(pa.int64()).to_pylist()
    return [None if v is None else round((v - zero_us) / US_PER_DAY, 4) for v in values]


def _subject(table: pa.Table, names: _Names, title: str) -> dict[str, Any]:
    """One subject as the page draws it, days from the first visit or event."""
    # from the first visit, or the first event of a source without visits
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
        "sex": (sexes or ["/U"])[0].rpartition("/")[2],
        "end": "death" if deaths else "observation",
        "end_day": deaths[0] if deaths else max(ends, default=0.0),
        **drawn,
    }


def _drawn(table: pa.Table, names: _Names, zero_us: int) -> dict[str, Any]:
    days, ends = _days(table["time"], zero_us), _days(table["end_time"], zero_us)
    columns = [table[c].to_pylist() for c in ("role", "table", "code", "numeric_value", "unit")]
    visits, events = [], []
    for day, end, role, source, code, value, unit in zip(days, ends, *columns, strict=True):
        if role == Role.VISIT:
            visits.append(
                {
                    "start": day,
                    "end": end,
                    "type": names.label.get(code, code),
                    "inpatient": code in names.inpatient,
                }
            )
        elif role == Role.CODE:
            events.append(
                {
                    "day": day,
                    "domain": DOMAINS.get(source, "other"),
                    "label": names.label.get(code, code),
                    "value": None if value is None else float(f"{value:.4g}"),
                    "unit": unit,
                }
            )
    return {"visits": visits, "events": events}


def _fan(
    out: Path, tokenizer: Tokenizer, outcome: outcomes.Outcome, horizon_days: int, seed: int
) -> dict[str, Any]:
    """Futures of one synthetic subject from the middle of its record.

    The subject is drawn as tokens here: read back from OMOP it would have lost the codes of a
    source that is not OMOP.
    """
    model = load(out / "run")
    profile = read_json(out / "run" / "population.json")
    drawn = Synthesizer(model, tokenizer, profile, seed=seed, max_tokens=FAN_TOKENS).timelines(
        range(1, N_FAN_SUBJECTS + 1)
    )
    batch = drawn.batch
    longest = int(np.argmax(np.diff(batch.offsets)))
    own = slice(int(batch.offsets[longest]), int(batch.offsets[longest + 1]))
    token_id, time_min = batch.token_id[own], batch.time_min[own]
    middle = int(time_min[len(time_min) // 2])
    n_prefix = int(np.searchsorted(time_min, middle, side="right"))
    origin_us = int(batch.origin_us[longest])
    prompt = Prompt(
        subject_id=int(batch.subject_id[longest]),
        prediction_time_us=origin_us + middle * US_PER_MINUTE,
        token_id=token_id[:n_prefix].copy(),
        time_min=time_min[:n_prefix].copy(),
        origin_us=origin_us,
        rollouts=range(N_PATHS),
        prediction_min=middle,
        deadline_min=middle + horizon_days * MINUTES_PER_DAY,
    )
    engine = Engine(model, tokenizer.grammar(), EngineConfig())
    rollouts = list(engine.generate([prompt], SamplingParams(seed=seed, stream="demo")))
    names = _names([asdict(code) for code in code_list(tokenizer)])
    codes = code_table(out / "tokens", tokenizer)
    wanted = tokenizer.token_ids_of(outcomes.resolve(outcome, codes))
    prefix = _future(tokenizer, prompt, prompt.token_id, prompt.time_min, names)
    return {
        "title": f"{N_PATHS} futures of one synthetic subject",
        "outcome": outcome.title,
        "horizon_days": horizon_days,
        "prefix": {"title": "before", **prefix},
        "paths": [_path(tokenizer, prompt, rollout, wanted, names) for rollout in rollouts],
        "risk": None,
    }


def _path(
    tokenizer: Tokenizer,
    prompt: Prompt,
    rollout: Rollout,
    wanted: NDArray[np.int32],
    names: _Names,
) -> dict[str, Any]:
    assert prompt.deadline_min is not None
    assert prompt.prediction_min is not None
    inside = rollout.time_min <= prompt.deadline_min
    token_id = np.concatenate([prompt.token_id, rollout.token_id[inside]])
    time_min = np.concatenate([prompt.time_min, rollout.time_min[inside]])
    drawn = _future(tokenizer, prompt, token_id, time_min, names)
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
    prompt: Prompt,
    token_id: NDArray[np.int32],
    time_min: NDArray[np.int32],
    names: _Names,
) -> dict[str, Any]:
    """Tokens as drawn visits and events, days from the prediction time."""
    one = TokenBatch(
        subject_id=np.asarray([prompt.subject_id], np.int64),
        origin_us=np.asarray([prompt.origin_us], np.int64),
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
