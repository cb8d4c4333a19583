"""What our preset cehr makes of the cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from chronoward.data import CEHRGPT_DIALS, prepare
from chronoward.tokenizer import TokenizerSpec, fit

from .cases import RUNS
from .omop_tables import write_cases

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.data import PreparedEvents
    from chronoward.tokenizer import Tokenizer

Sequences = dict[str, list[str]]


def encode(prepared: PreparedEvents, tokenizer: Tokenizer) -> Sequences:
    """Tokens of every person, without the `[END]` that CEHR-GPT appends when it trains."""
    events = pa.concat_tables(list(prepared.batches()))
    batch = tokenizer.encode(events, prepared.observation, codes=prepared.codes)
    found = {}
    for i, person in enumerate(batch.subject_id.tolist()):
        tokens = batch.token_id[batch.offsets[i] : batch.offsets[i + 1]]
        found[str(person)] = [tokenizer.labels[t] for t in tokens.tolist()][:-1]
    return found


def fit_all(prepared: PreparedEvents, **options: Any) -> Tokenizer:
    """A tokenizer of preset cehr in which nothing is too rare."""
    spec = TokenizerSpec(preset="cehr", min_subjects=1, calendar=prepared.calendar, **options)
    return fit(list(prepared.batches()), prepared.codes, spec, prepared.observation)


def tokenize_cases(folder: Path) -> dict[str, Sequences]:
    """Tokens of every person in every run; `folder` is new."""
    write_cases(folder / "omop")
    prepared = prepare(folder / "omop", folder / "events", config=CEHRGPT_DIALS)
    made: dict[str, Sequences] = {}
    by_options: dict[str, Sequences] = {}
    for name, run in RUNS.items():
        options = repr(run.ours)
        if options not in by_options:
            by_options[options] = encode(prepared, fit_all(prepared, **run.ours))
        made[name] = by_options[options]
    return made
