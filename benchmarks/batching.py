"""G4, G7: how full the slots are on real lengths, and that a long run neither grows nor slows."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING

import numpy as np
import torch
from benchmarks.generation import grammar, prompts
from benchmarks.record import Measurement, Stopwatch

from chronoward.data import prepare
from chronoward.data.simulate import simulate
from chronoward.engine import Engine, EngineConfig, Prompt, SamplingParams
from chronoward.model import Model, ModelConfig
from chronoward.tokenizer import TokenClass, Tokenizer, TokenizerSpec, fit

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 5
MINUTES_PER_YEAR = 525_960
N_SLOTS = 32
N_ROLLOUTS = 32


def _clinic(folder: Path, n_subjects: int) -> tuple[Tokenizer, list[Prompt]]:
    """A simulated clinic's vocabulary, and each subject's whole record as a prefix."""
    simulate(folder / "clinic", n_subjects, SEED)
    prepared = prepare(folder / "clinic", folder / "work")
    tokenizer = fit(prepared.batches(), prepared.codes, TokenizerSpec())
    token_class = tokenizer.grammar().token_class
    made = []
    for events in prepared.batches():
        batch = tokenizer.encode(events, prepared.observation)
        for row, first in enumerate(batch.offsets[:-1]):
            part = slice(int(first), int(batch.offsets[row + 1]))
            token_id, time_min = batch.token_id[part], batch.time_min[part]
            ends = np.isin(token_class[token_id], [TokenClass.DEATH, TokenClass.END])
            alive = int(np.argmax(ends)) if ends.any() else len(token_id)
            if TokenClass.DEATH in token_class[token_id] or alive == 0:
                continue
            made.append(
                Prompt(
                    subject_id=int(batch.subject_id[row]),
                    prediction_time_us=0,
                    token_id=token_id[:alive].copy(),
                    time_min=time_min[:alive].copy(),
                    origin_us=int(batch.origin_us[row]),
                    rollouts=range(1),
                    deadline_min=int(time_min[alive - 1]) + MINUTES_PER_YEAR,
                )
            )
    return tokenizer, made


def measure_slots(quick: bool) -> Iterator[Measurement]:
    """Line of G4: a year of each of 10,000 subjects of the clinic, one rollout each."""
    torch.set_num_threads(1)
    n_subjects = 300 if quick else 10_000
    with tempfile.TemporaryDirectory() as name:
        tokenizer, found = _clinic(Path(name), n_subjects)
        tables = tokenizer.grammar()
        model = Model(ModelConfig(vocab_size=len(tables.token_class)))
        engine = Engine(model, tables, EngineConfig(n_slots=N_SLOTS))
        with Stopwatch() as watch:
            lengths = [
                len(r.token_id) for r in engine.generate(found, SamplingParams(max_new_tokens=512))
            ]
    counts = engine.statistics
    yield Measurement(
        id="G4",
        metric="slot_use",
        value=counts.slot_use,
        unit="share",
        seconds=watch.wall,
        extra={
            "prompts": len(found),
            "slots": N_SLOTS,
            "new_tokens_median": float(np.median(lengths)),
            "new_tokens_99th": float(np.percentile(lengths, 99)),
            "prefilled_tokens": counts.prefilled_tokens,
            "cut_prompts": counts.cut_prompts,
            "cut_contexts": counts.cut_contexts,
        },
    )


def _resident_bytes() -> int:
    """Of this process now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(x.split()[1]) for x in lines if x.startswith("VmRSS:"))


def measure_long_run(quick: bool) -> Iterator[Measurement]:
    """Lines of G7: memory after a tenth of the timelines over that at the end, and the rates."""
    torch.set_num_threads(1)
    n_timelines = 10_000 if quick else 100_000
    vocab = 700
    engine = Engine(
        Model(ModelConfig(vocab_size=vocab)),
        grammar(vocab, "codes"),
        EngineConfig(n_slots=N_SLOTS, max_context=64),
    )
    many = (
        replace(prompts(1)[0], subject_id=i, rollouts=range(N_ROLLOUTS))
        for i in range(n_timelines // N_ROLLOUTS)
    )
    seconds, memory, tokens = [process_time()], [_resident_bytes()], [0]
    n_drawn = 0
    every = n_timelines // N_ROLLOUTS * N_ROLLOUTS // 10
    with Stopwatch() as watch:
        for n, rollout in enumerate(engine.generate(many, SamplingParams(max_new_tokens=24)), 1):
            n_drawn += len(rollout.token_id)
            if n % every == 0:
                seconds.append(process_time())
                memory.append(_resident_bytes())
                tokens.append(n_drawn)
    rates = np.diff(tokens) / np.diff(seconds)
    start, end = rates[1:4].mean(), rates[-3:].mean()
    extra = {"timelines": engine.statistics.rollouts, "slots": N_SLOTS, "new_tokens": 24}
    yield Measurement(
        id="G7",
        metric="memory",
        value=memory[-1],
        unit="bytes",
        against="after a tenth of the timelines",
        baseline=memory[1],
        ratio=round(memory[-1] / memory[1], 4),
        seconds=watch.wall,
        extra=extra,
    )
    yield Measurement(
        id="G7",
        metric="rate_kept",
        value=end / start,
        unit="rate at the end / at the start",
        seconds=watch.wall,
        extra={**extra, "tokens_per_cpu_s": round(float(end), 1)},
    )


MEASURES = {"G4": measure_slots, "G7": measure_long_run}
