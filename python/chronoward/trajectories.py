"""`chronoward generate`: continuations of real prefixes as MEDS events, one file a rollout index.

Columns are those of MEDS data plus `prediction_time` (GeneratedTrajectorySchema of
MEDS-trajectory-evaluation). Continuations of real prefixes are patient data: they lie in a folder
of their own, say so in its manifest, and are never releasable.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chronoward.engine import EngineConfig, Prompt, Rollout, SamplingParams
from chronoward.engine.precision import Decoding, choose
from chronoward.engine.trained import check_trained
from chronoward.engine.workers import map_units, n_processes, open_engine, run_context, unit_rows
from chronoward.errors import DataError, require_at_least
from chronoward.files import make_output_folder, write_json
from chronoward.schema import Role
from chronoward.score.job import MINUTES_PER_DAY, check_same_tokenizer
from chronoward.score.output import write_table
from chronoward.score.rows import ALL_SPLITS, make_prefixes, read_cohort
from chronoward.store import TokenStore
from chronoward.tokenizer import TokenBatch, Tokenizer

if TYPE_CHECKING:
    from chronoward.engine import Engine, EngineStatistics
    from chronoward.score.job import Progress

_UNIT_ROWS = 32
TRAJECTORY_SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
        pa.field("time", pa.timestamp("us"), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("numeric_value", pa.float32()),
        pa.field("text_value", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What is generated.

    Raises:
        ConfigError: no rollouts or no days, an unknown dtype.
    """

    n_rollouts: int = 20
    """Continuations of each row."""
    days: int = 365
    """How far each goes beyond its prediction time."""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_new_tokens: int = 1024
    """Tokens after which a continuation is broken off (counted)."""
    n_slots: int | None = None
    """Rollouts side by side in each worker; None: 32 on a CPU, 256 on a GPU."""
    split: str = ALL_SPLITS
    """Only rows whose subject is in this split of the token store."""
    seed: int = 0
    device: str = "auto"
    """Where rollouts are drawn: cpu, cuda, or auto, a GPU where torch sees one."""
    dtype: str | None = None
    """Of weights, keys and values while decoding: float32 (None on a CPU), bfloat16 (None on a
    GPU) or int8 (CPU only)."""
    kv_dtype: str | None = None
    """Of keys and values on a GPU: fp8, or None, as `dtype`."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "n_rollouts", "days")
        choose(self.device, self.dtype, self.kv_dtype)

    @property
    def decoding(self) -> Decoding:
        """Device and numbers, nothing left open.

        Raises:
            ConfigError: an unknown name, a GPU that is not there, or numbers it does not take.
        """
        return choose(self.device, self.dtype, self.kv_dtype)


@dataclass(frozen=True, eq=False)
class _Unit:
    prompts: list[Prompt]
    params: SamplingParams


def generate(
    run: Path | str,
    tokens: Path | str,
    cohort: Path | str,
    out: Path | str,
    config: GenerateConfig | None = None,
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes `OUT/<rollout>.parquet`, events after each row's prediction time, and a manifest.

    Args:
        run: RUN folder.
        tokens: token store that holds the cohort's subjects.
        cohort: cohort folder or MEDS label file.
        out: a new or empty folder.
        config: how many, how far, how drawn.
        threads: worker processes; the result does not depend on it.
        progress: called with (rollouts ended, rollouts in all, the engines' counts so far).

    Returns:
        The content of `trajectories.json`.

    Raises:
        ConfigError: no rollouts; a run trained with repeat weights or without `next_event`.
        DataError: unknown subjects or repeated rows in the cohort; no row that can be continued.
        FormatError: run and store have different tokenizers.
        StateError: `out` has content.
    """
    began = time.monotonic()
    config = config or GenerateConfig()
    run_config = check_trained(run)
    store = TokenStore.open(tokens)
    tokenizer = Tokenizer.load(Path(run) / "tokenizer.json")
    check_same_tokenizer(run, store, tokenizer)
    rows = read_cohort(cohort)
    prefixes = make_prefixes(
        rows,
        store,
        tokenizer.grammar(),
        split=config.split,
        max_context=run_context(run),
        deadline_min=config.days * MINUTES_PER_DAY,
    )
    if not prefixes.prompts:
        message = f"{rows.path}: no row can be continued: {prefixes.counts}"
        raise DataError(message)
    folder = make_output_folder(Path(out))
    tables, statuses = _tables(Path(run), tokenizer, prefixes.prompts, config, threads, progress)
    for index, table in enumerate(tables):
        write_table(folder / f"{index}.parquet", table)
    report = {
        "schema": 1,
        "patient_data": "continuations of real records; never releasable",
        "model": run_config["weights"],
        "tokenizer": tokenizer.hash,
        "seed": config.seed,
        **config.decoding._asdict(),
        "n_rollouts": config.n_rollouts,
        "days": config.days,
        "rows": prefixes.counts,
        "statuses": statuses,
        "events": sum(len(table) for table in tables),
        "seconds": round(time.monotonic() - began, 3),
    }
    write_json(folder / "trajectories.json", report)
    return report


def _tables(
    run: Path,
    tokenizer: Tokenizer,
    prompts: list[Prompt],
    config: GenerateConfig,
    threads: int,
    progress: Progress | None,
) -> tuple[list[pa.Table], dict[str, int]]:
    """Events of each rollout index, and how many rollouts ended how."""
    prompts = [replace(p, rollouts=range(config.n_rollouts)) for p in prompts]
    params = SamplingParams(
        seed=config.seed,
        stream="generate",
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
        max_new_tokens=config.max_new_tokens,
    )
    decoding = config.decoding
    size = unit_rows(_UNIT_ROWS, config.n_rollouts, decoding.device)
    units = [_Unit(prompts[i : i + size], params) for i in range(0, len(prompts), size)]
    room = EngineConfig(
        n_slots=config.n_slots,
        max_context=run_context(run),
        dtype=decoding.dtype,
        kv_dtype=decoding.kv_dtype,
    )
    n_rollouts = len(prompts) * config.n_rollouts

    def tell(statistics: EngineStatistics) -> None:
        if progress is not None:
            progress(statistics.rollouts, n_rollouts, statistics)

    make = partial(open_engine, run, room, decoding.device)
    n_workers = n_processes(min(threads, len(units)), decoding.device)
    results = map_units(make, _continue, units, n_workers=n_workers, watch=tell)
    parts: list[list[pa.Table]] = [[] for _ in range(config.n_rollouts)]
    statuses: dict[str, int] = {}
    for unit, rollouts in zip(units, results, strict=True):
        for rollout in rollouts:
            statuses[rollout.status] = statuses.get(rollout.status, 0) + 1
        for index in range(config.n_rollouts):
            mine = [rollout for rollout in rollouts if rollout.rollout == index]
            parts[index].append(trajectory_table(tokenizer, unit.prompts, mine))
    return [pa.concat_tables(tables) for tables in parts], statuses


def _continue(engine: Engine, unit: _Unit) -> list[Rollout]:
    """All rollouts of a unit, ordered by its prompts, then by index."""
    place = {(p.subject_id, p.prediction_time_us): i for i, p in enumerate(unit.prompts)}
    rollouts = list(engine.generate(unit.prompts, unit.params))
    return sorted(rollouts, key=lambda r: (place[r.subject_id, r.prediction_time_us], r.rollout))


def trajectory_table(
    tokenizer: Tokenizer, prompts: list[Prompt], rollouts: list[Rollout]
) -> pa.Table:
    """Events of one rollout of each prompt, after the prediction time and by the deadline.

    Args:
        tokenizer: decodes tokens and draws values inside their bins.
        prompts: the unit's prompts.
        rollouts: one for each prompt, in the same order.
    """
    token_id, time_min, value_u = [], [], []
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        # The move past the deadline says only that nothing more happened in time.
        n = len(rollout.token_id)
        if prompt.deadline_min is not None:
            n = int(np.searchsorted(rollout.time_min, prompt.deadline_min, side="right"))
        token_id.append(np.concatenate([prompt.token_id, rollout.token_id[:n]]))
        time_min.append(np.concatenate([prompt.time_min, rollout.time_min[:n]]))
        value_u.append(np.concatenate([np.full(len(prompt.token_id), 0.5), rollout.value_u[:n]]))
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in token_id])]).astype(np.int64)
    minutes = np.concatenate(time_min)
    n_prompts = len(prompts)
    nothing = np.zeros(0, np.int32)
    batch = TokenBatch(
        subject_id=np.arange(n_prompts, dtype=np.int64),  # rows: a subject may have several
        origin_us=np.array([p.origin_us for p in prompts], np.int64),
        offsets=offsets,
        token_id=np.concatenate(token_id),
        time_min=minutes,
        event_min=minutes,
        n_prior=np.zeros(len(minutes), np.uint8),
        obs_offsets=np.zeros(n_prompts + 1, np.int64),
        obs_start_min=nothing,
        obs_end_min=nothing,
    )
    events = tokenizer.decode(batch, value_u=np.concatenate(value_u))
    events = events.filter(
        pc.and_(pc.greater_equal(events["role"], int(Role.VISIT)), pc.is_valid(events["time"]))
    )
    row = np.asarray(events["subject_id"].to_numpy())
    predicted = np.array([p.prediction_time_us for p in prompts], np.int64)[row]
    subject = np.array([p.subject_id for p in prompts], np.int64)[row]
    after = np.asarray(events["time"].cast(pa.int64()).to_numpy()) > predicted
    table = pa.table(
        {
            "subject_id": pa.array(subject, pa.int64()),
            "prediction_time": pa.array(predicted, pa.int64()).cast(pa.timestamp("us")),
            **{name: events[name] for name in ("time", "code", "numeric_value", "text_value")},
        }
    )
    return table.filter(pa.array(after)).cast(TRAJECTORY_SCHEMA)
