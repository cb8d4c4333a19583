from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from chronoward.data import prepare
from chronoward.data.simulate import simulate
from chronoward.files import write_json
from chronoward.model import Model, ModelConfig, save_model
from chronoward.population import profile
from chronoward.store import StoreWriter, TokenStore
from chronoward.tokenizer import TokenBatch, TokenizerSpec, fit

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def random_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN folder whose tokenizer and population are real and whose weights are random."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("random_run")
    simulate(folder / "omop", 120, 3)
    prepared = prepare(folder / "omop", folder / "work")
    tokenizer = fit(prepared.batches(), prepared.codes, TokenizerSpec(preset="compact"))
    batch = TokenBatch.concat(
        [tokenizer.encode(b, prepared.observation) for b in prepared.batches()]
    )
    run, store = folder / "run", folder / "store"
    run.mkdir()
    store.mkdir()
    for place in (run, store):
        tokenizer.save(place / "tokenizer.json")
    writer = StoreWriter(store, tokenizer_hash=tokenizer.hash)
    writer.add(batch, np.zeros(len(batch), np.uint8))
    writer.finish(calendar="real", observation="period", split_rule="hash", counts={})
    write_json(run / "population.json", profile(TokenStore.open(store)))
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=32
    )
    save_model(run, Model(config), tokenizer_hash=tokenizer.hash, training={})
    return run
