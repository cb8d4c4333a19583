"""S4: hard violations in synthetic OMOP, counted by SQL on the written files.

A model is trained for a few steps on a simulated clinic, so that its subjects are neither random
nor polished; what it writes is then read again by the checks, and through ingest and the tokenizer,
whose grammar must accept every timeline.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from benchmarks.record import Measurement, Stopwatch

from chronoward.data import prepare
from chronoward.data.simulate import simulate
from chronoward.evaluation.omop import evaluate_omop
from chronoward.store import StoreWriter
from chronoward.synthesize import synthesize
from chronoward.tokenizer import Tokenizer, TokenizerSpec, fit
from chronoward.train import TrainConfig, train

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 4


def _trained(folder: Path, *, n_subjects: int, steps: int) -> Path:
    """A RUN folder trained on a simulated clinic."""
    simulate(folder / "clinic", n_subjects, SEED)
    prepared = prepare(folder / "clinic", folder / "work")
    tokenizer = fit(prepared.batches(), prepared.codes, TokenizerSpec())
    tokens = folder / "tokens"
    tokens.mkdir()
    tokenizer.save(tokens / "tokenizer.json")
    writer = StoreWriter(tokens, tokenizer_hash=tokenizer.hash)
    for events in prepared.batches():
        batch = tokenizer.encode(events, prepared.observation)
        writer.add(batch, np.zeros(len(batch), np.uint8))
    writer.finish(calendar="real", observation="period", split_rule="none", counts={})
    config = TrainConfig(max_steps=steps, rows_per_step=2, seed=SEED)
    train(tokens, folder / "run", config)
    return folder / "run"


def _check(folder: Path, omop: Path, n_subjects: int) -> None:
    """Every subject comes back, and the grammar accepts its timeline.

    Raises:
        DataError: the grammar refuses a token.
    """
    tokenizer = Tokenizer.load(folder / "run" / "tokenizer.json")
    prepared = prepare(omop, folder / "again")
    if prepared.n_subjects != n_subjects:
        message = f"{prepared.n_subjects} subjects came back, {n_subjects} were written"
        raise AssertionError(message)
    for events in prepared.batches():
        batch = tokenizer.encode(events, prepared.observation, codes=prepared.codes)
        for first, last in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
            tokenizer.grammar().run(batch.token_id[first:last])


def measure(quick: bool) -> Iterator[Measurement]:
    """Lines of S4: subjects per CPU-second, then the violations."""
    torch.set_num_threads(1)
    n_subjects = 100 if quick else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = _trained(folder, n_subjects=150 if quick else 2000, steps=20 if quick else 300)
        with Stopwatch() as drawn:
            manifest = synthesize(run, n_subjects, folder / "omop", seed=SEED)
        _check(folder, folder / "omop", n_subjects)
        with Stopwatch() as checked:
            result = evaluate_omop(folder / "omop")
    shape = {
        "n_subjects": n_subjects,
        "model_hash": manifest["model_hash"],
        "output_hash": manifest["output_hash"],
        "rows": sum(manifest["rows"].values()),
        "timelines_ended": manifest["timelines_ended"],
    }
    yield Measurement(
        id="S4",
        metric="subjects_rate",
        value=n_subjects / drawn.cpu,
        unit="subjects/CPU-s",
        seconds=drawn.wall,
        extra=shape,
    )
    yield Measurement(
        id="S4",
        metric="hard_violations",
        value=float(result["hard_violations"]),
        unit="rows",
        seconds=checked.wall,
        extra={
            **shape,
            "n_checks": result["n_checks"],
            "soft_violations": result["soft_violations"],
            "by_name": result["by_name"],
        },
    )


MEASURES = {"S4": measure}
