"""A RUN folder, a token store and a cohort over the tokenizer tests' small clinic."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.tokenizer.clinic import SPECS, make_world

from chronoward.model import Model, ModelConfig, save_model
from chronoward.store import StoreWriter, TokenStore
from chronoward.tokenizer import Tokenizer, fit

if TYPE_CHECKING:
    from pathlib import Path

DAY_MIN = 1440
US_PER_MIN = 60_000_000
OUTCOME = "name: failure\ntitle: Heart failure\ncodes: {SNOMED: [hf]}\n"


@dataclass(frozen=True)
class Made:
    run: Path
    tokens: Path
    cohort: Path
    outcome: Path
    tokenizer: Tokenizer


def make_run(folder: Path, tokenizer: Tokenizer, **training: object) -> Path:
    """A RUN folder with random weights."""
    folder.mkdir(parents=True)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48
    )
    tokenizer.save(folder / "tokenizer.json")
    trained = {"row_tokens": 256, "repeat_weight": "none", **training}
    save_model(folder, Model(config), tokenizer_hash=tokenizer.hash, training=trained)
    return folder


def make_all(folder: Path, preset: str = "compact") -> Made:
    """Everything that `score` needs; a third of the subjects in each split."""
    events, observation, codes = make_world(60, seed=1)
    tokenizer = fit([events], codes, SPECS[preset])
    batch = tokenizer.encode(events, observation, codes=codes)
    tokens = folder / "tokens"
    tokens.mkdir(parents=True)
    tokenizer.save(tokens / "tokenizer.json")
    pq.write_table(codes, tokens / "codes.parquet")
    writer = StoreWriter(tokens, tokenizer_hash=tokenizer.hash)
    writer.add(batch, (np.arange(len(batch)) % 3).astype(np.uint8))
    writer.finish(calendar="real", observation="observation_period", split_rule="hash", counts={})
    outcome = folder / "failure.yaml"
    outcome.write_text(OUTCOME)
    return Made(
        run=make_run(folder / "run", tokenizer),
        tokens=tokens,
        cohort=make_cohort(folder / "cohort", tokens),
        outcome=outcome,
        tokenizer=tokenizer,
    )


def make_cohort(folder: Path, tokens: Path) -> Path:
    """One row a subject: a day after the middle token's clock, labels by turns."""
    folder.mkdir()
    store = TokenStore.open(tokens)
    rows = []
    for name in ("train", "tuning", "held_out"):
        split = store.split(name)
        for i in range(len(split)):
            timeline = split.timeline(i)
            middle = int(timeline.time_min[len(timeline.time_min) // 2]) + DAY_MIN
            rows.append((timeline.subject_id, timeline.origin_us + middle * US_PER_MIN))
    rows.sort()
    keys = {
        "subject_id": pa.array([r[0] for r in rows], pa.int64()),
        "prediction_time": pa.array([r[1] for r in rows], pa.int64()).cast(pa.timestamp("us")),
    }
    empty = pa.nulls(len(rows), pa.bool_())
    pq.write_table(pa.table({**keys, "boolean_value": empty}), folder / "cohort.parquet")
    turns = [("outcome", 10.0), ("death", 20.0), ("censored", 30.0), ("censored", 400.0)]
    ends = [turns[i % 4] for i in range(len(rows))]
    labels = {
        **keys,
        "outcome": ["failure"] * len(rows),
        "days_to_event": [days for _, days in ends],
        "event": [event for event, _ in ends],
        "prior_outcome": [False] * len(rows),
    }
    pq.write_table(pa.table(labels), folder / "outcomes.parquet")
    return folder


def copied(made: Made, folder: Path) -> Path:
    """A copy of the cohort folder that a test may spoil."""
    return shutil.copytree(made.cohort, folder)
