"""A model with rows for another site's codes generates timelines of the grown vocabulary."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.tokenizer.other_site import make_other_world

from chronoward.data import prepare
from chronoward.model import grow, load, save_model
from chronoward.synthesize import SynthesisOptions, synthesize
from chronoward.tokenizer import Tokenizer, count, expand

if TYPE_CHECKING:
    from pathlib import Path


def test_a_grown_model_draws_new_codes_in_valid_timelines(random_run: Path, tmp_path: Path) -> None:
    parent = Tokenizer.load(random_run / "tokenizer.json")
    events, _, codes = make_other_world(80, seed=9)
    child = expand(parent, count([events], codes))
    run = shutil.copytree(random_run, tmp_path / "run")
    model = grow(load(run), child.vocab_size)
    child.save(run / "tokenizer.json")
    save_model(run, model, tokenizer_hash=child.hash, training={})
    options = SynthesisOptions(max_tokens=64, unit_subjects=8)
    synthesize(run, 16, tmp_path / "meds", format="meds", seed=5, options=options)
    prepared = prepare(tmp_path / "meds", tmp_path / "work")
    n_new = 0
    for table in prepared.batches():
        batch = child.encode(table, prepared.observation, codes=prepared.codes)
        n_new += int((batch.token_id >= parent.vocab_size).sum())
        for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
            child.grammar().run(batch.token_id[a:b])  # raises where it is refused
    assert n_new > 10
