from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from chronoward import cli
from chronoward.embed import embed, first_pooled
from chronoward.errors import ConfigError
from chronoward.model import load
from chronoward.store import TokenStore
from chronoward.tokenizer import TokenClass

if TYPE_CHECKING:
    from pathlib import Path

    from tests.score.made import Made


def test_embeddings_are_means_of_final_hidden_states(made: Made, tmp_path: Path) -> None:
    embed(made.run, made.tokens, tmp_path / "out", split="held_out")
    table = pq.read_table(tmp_path / "out" / "embeddings.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    split = TokenStore.open(made.tokens).split("held_out")
    model = load(made.run)
    for row in table.to_pylist()[:6]:
        timeline = split.timeline(split.index_of(row["subject_id"]))
        tokens = timeline.token_id[:-1]  # without end
        starts = np.flatnonzero(made.tokenizer.token_class[tokens] == TokenClass.VISIT_START)
        with torch.no_grad():
            hidden = model(
                torch.from_numpy(tokens.astype(np.int64)),
                torch.from_numpy(timeline.time_min[:-1].copy()),
                torch.tensor([0, len(tokens)], dtype=torch.int32),
            )
        np.testing.assert_allclose(
            row["embedding"], hidden[int(starts[-1]) :].mean(0).numpy(), atol=2e-5
        )


def test_embeddings_see_nothing_after_the_prediction_time(made: Made, tmp_path: Path) -> None:
    embed(made.run, made.tokens, tmp_path / "whole")
    embed(made.run, made.tokens, tmp_path / "early", cohort=made.cohort, pooling="last")
    tables = [pq.read_table(tmp_path / n / "embeddings.parquet") for n in ("whole", "early")]
    assert all(table.num_rows > 20 for table in tables)
    manifest = json.loads((tmp_path / "early" / "embed.json").read_text())
    assert "never releasable" in manifest["patient_data"]


def test_pooling_starts_at_the_last_visit_or_the_last_moment() -> None:
    visits = np.array([4, TokenClass.VISIT_START, 8, 11, 13, TokenClass.VISIT_START, 8], np.uint8)
    clock = np.zeros(7, np.int32)
    assert first_pooled(visits, clock, "last_visit") == 5
    assert first_pooled(visits, clock, "last") == 6
    moments = np.full(5, TokenClass.CODE, np.uint8)
    assert first_pooled(moments, np.array([0, 0, 7, 7, 7], np.int32), "last_visit") == 2


def test_an_unknown_pooling_is_a_config_error(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pooling must be one of"):
        embed(made.run, made.tokens, tmp_path / "out", pooling="max")
    with pytest.raises(ConfigError, match="split must be one of"):
        embed(made.run, made.tokens, tmp_path / "out", split="x")
    assert not (tmp_path / "out").exists()


def test_the_verb_embeds(made: Made, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["embed", str(made.run), str(made.tokens), "--out", str(tmp_path / "out")])
    assert not caught.value.code
    assert (tmp_path / "out" / "embeddings.parquet").is_file()
