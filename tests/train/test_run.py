from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.tokenizer.clinic import make_world
from typer.testing import CliRunner

from chronoward import files
from chronoward.cli import app
from chronoward.errors import ConfigError, DataError, FormatError, LimitError, StateError
from chronoward.model import load
from chronoward.store import StoreWriter, TokenStore
from chronoward.tokenizer import Tokenizer, TokenizerSpec, fit
from chronoward.train import Callbacks, TrainConfig, train
from chronoward.train.ranks import Ranks
from chronoward.train.state import steps_of

if TYPE_CHECKING:
    from pathlib import Path

MODEL = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "d_ff": 24}
CONFIG = TrainConfig(
    model=MODEL, max_steps=6, evaluations=3, row_tokens=128, rows_per_step=2, seed=1
)
OUTCOME = """
name: anything
title: Any diagnosis
prefixes: [{prefix}]
"""


def write_store(folder: Path, *, n_train: int, n_held_out: int = 0) -> Path:
    events, observation, codes = make_world(60, seed=1)
    tokenizer = fit([events], codes, TokenizerSpec(min_subjects=1))
    batch = tokenizer.encode(events, observation, codes=codes)
    folder.mkdir()
    tokenizer.save(folder / "tokenizer.json")
    writer = StoreWriter(folder, tokenizer_hash=tokenizer.hash)
    split = (np.arange(len(batch)) >= n_train).astype(np.uint8)
    split[len(batch) - n_held_out :] = 2
    writer.add(batch, split)
    writer.finish(calendar="real", observation="none", split_rule="hash", counts={})
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("train") / "tokens", n_train=45)


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train(store, out, CONFIG)
    return out


def test_a_run_folder_has_what_its_readers_need(finished: Path, store: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "README.md",
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "population.json",
        "tokenizer.json",
    }
    assert (finished / "tokenizer.json").read_bytes() == (store / "tokenizer.json").read_bytes()
    config = json.loads((finished / "config.json").read_text())
    assert config["tokenizer"] == TokenStore.open(store).tokenizer_hash
    assert "parameters" in (finished / "README.md").read_text()
    lines = [json.loads(x) for x in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if x["kind"] == "tuning"] == [2, 4, 6]
    assert {"all", "time", "code", "structure"} <= set(lines[-1]["bits_per_token"])


def test_the_same_seed_gives_the_same_bytes(finished: Path, store: Path, tmp_path: Path) -> None:
    train(store, tmp_path / "run", CONFIG)
    mine, theirs = (f / "model.safetensors" for f in (tmp_path / "run", finished))
    assert mine.read_bytes() == theirs.read_bytes()


def test_resume_finishes_an_interrupted_run_with_the_same_bytes(
    finished: Path, store: Path, tmp_path: Path
) -> None:
    class DiedError(Exception):
        pass

    def die(done: int, _total: int, line: dict) -> None:
        if done == 4 and line["kind"] == "tuning":
            raise DiedError

    with pytest.raises(DiedError):
        train(store, tmp_path / "run", CONFIG, callbacks=Callbacks(progress=die))
    assert steps_of(tmp_path / "run" / "checkpoints") == [2]
    with pytest.raises(FormatError, match="not finished"):
        load(tmp_path / "run")
    with pytest.raises(StateError, match="not empty"):
        train(store, tmp_path / "run", CONFIG)
    train(store, tmp_path / "run", CONFIG, resume=True)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_a_finished_run_is_returned_as_it_is(finished: Path, store: Path) -> None:
    before = (finished / "config.json").stat().st_mtime_ns
    model = train(store, finished, CONFIG, resume=True)
    assert (finished / "config.json").stat().st_mtime_ns == before
    assert torch.equal(model.embedding.weight, load(finished).embedding.weight)


def test_a_resume_that_does_not_fit_is_refused(finished: Path, store: Path) -> None:
    other = TrainConfig(model=MODEL, max_steps=7, row_tokens=128, rows_per_step=2, seed=1)
    with pytest.raises(StateError, match="another config"):
        train(store, finished, other, resume=True)


def test_hazards_train_beside_the_next_event(store: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((store / "tokenizer.json").read_text())
    prefix = next(c["code"] for c in tokenizer["codes"] if c["kind"] == "code")
    (tmp_path / "any.yaml").write_text(OUTCOME.format(prefix=json.dumps(prefix)))
    config = TrainConfig(
        model=MODEL,
        objectives={"next_event": 1.0, "hazard": 0.5},
        outcomes=(str(tmp_path / "any.yaml"), "mortality"),
        max_steps=2,
        row_tokens=128,
        rows_per_step=2,
    )
    train(store, tmp_path / "run", config)
    model = load(tmp_path / "run")
    assert model.heads["hazard"].config.outcomes == ("anything", "mortality")
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"]["hazard"]["unit"] == "nats per point"


def test_excluded_subjects_are_never_seen(store: Path, tmp_path: Path) -> None:
    everyone = TokenStore.open(store).split("train").subject_id.tolist()
    with pytest.raises(DataError, match="no timeline"):
        train(store, tmp_path / "run", CONFIG, exclude_subjects=everyone)
    train(store, tmp_path / "run2", CONFIG, exclude_subjects=everyone[:40])
    lines = (tmp_path / "run2" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["epoch"] >= 2


def test_runs_of_all_seeds_are_judged_by_the_same_tokens(store: Path, tmp_path: Path) -> None:
    """Models that have learned nothing differ by little more than what they are judged by."""

    def losses(seed: int) -> list[float]:
        config = replace(CONFIG, seed=seed, max_steps=1, learning_rate=1e-12, evaluation_tokens=128)
        train(store, tmp_path / f"run{seed}", config)
        lines = (tmp_path / f"run{seed}" / "metrics.jsonl").read_text().splitlines()
        report = json.loads(lines[-1])
        return [report["loss"]["next_event"]["value"], *report["bits_per_token"].values()]

    assert losses(1) == pytest.approx(losses(2), rel=0.05)


def test_it_says_before_it_starts_what_it_will_do(store: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train(store, tmp_path / "run", CONFIG, callbacks=Callbacks(say=said.append))
    text = " ".join(said)
    for word in ("parameters", "timelines", "6 steps of 2 rows", "GiB of memory", "minutes"):
        assert word in text


def test_the_memory_limit_is_checked_before_the_start(store: Path, tmp_path: Path) -> None:
    with pytest.raises(LimitError, match="more than the limit"):
        train(store, tmp_path / "run", CONFIG, memory_limit=1000)


def test_more_processes_than_rows_of_a_step_are_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranks, "from_environment", classmethod(lambda cls, _device: cls(0, 3)))
    with pytest.raises(ConfigError, match="a step of 2 rows cannot be shared by 3 processes"):
        train(store, tmp_path / "run", rows_per_step=2)
    assert not (tmp_path / "run").exists()


def test_a_store_without_a_tuning_split_trains(tmp_path: Path) -> None:
    store = write_store(tmp_path / "tokens", n_train=60)
    train(store, tmp_path / "run", CONFIG)
    assert "not measured" in (tmp_path / "run" / "README.md").read_text()


def test_the_command_trains_and_resumes(store: Path, tmp_path: Path) -> None:
    arguments = ["train", str(store), "--out", str(tmp_path / "run"), "--max-steps", "1"]
    arguments += ["--row-tokens", "128", "--rows-per-step", "1", "--resume", "--threads", "1"]
    for _ in range(2):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert load(tmp_path / "run").config.d_model == 96


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("--preset", "huge", "preset"),
        ("--objective", "guess", "objectives"),
        ("--objective", "hazard:x", "not a name"),
        ("--memory-limit", "much", "not a size"),
    ],
)
def test_wrong_options_are_refused(
    option: str, value: str, fault: str, store: Path, tmp_path: Path
) -> None:
    arguments = ["train", str(store), "--out", str(tmp_path / "run"), option, value]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ConfigError)
    assert fault in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_embedding_rows_start_from_concept_embeddings(
    store: Path, finished: Path, tmp_path: Path
) -> None:
    vectors = {"SNOMED/hf": [1.0, 0.0], "CPT4/xray": [0.9, 0.1], "LOINC/none": [0.0, 1.0]}
    columns = {"code": list(vectors), "vector": list(vectors.values())}
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    given = tmp_path / "e.parquet"
    train(store, tmp_path / "run", CONFIG, concept_embeddings=given)
    says = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert says["concept_embeddings"] == files.sha256_file(given)
    one_step = replace(CONFIG, max_steps=1, learning_rate=1e-9)
    model = train(store, tmp_path / "short", one_step, concept_embeddings=given)
    tokenizer = Tokenizer.load(store / "tokenizer.json")
    hf, xray = (tokenizer.token_ids_of([(None, c)])[0] for c in ("SNOMED/hf", "CPT4/xray"))
    rows = model.embedding.weight.detach()[[hf, xray]]
    assert torch.cosine_similarity(rows[0], rows[1], dim=0) == pytest.approx(0.994, abs=1e-2)
    train(store, tmp_path / "part", CONFIG, concept_embeddings=given)
    (tmp_path / "part" / "config.json").unlink()
    with pytest.raises(StateError, match="another concept_embeddings"):
        train(store, tmp_path / "part", CONFIG, resume=True)


ALL = dict.fromkeys(("next_event", "next_visit", "subtime", "gap"), 0.5)


def test_every_objective_trains_is_logged_in_its_unit_and_loads_again(
    store: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, objectives=ALL)
    model = train(store, tmp_path / "run", config)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    units = {n: loss["unit"] for n, loss in json.loads(lines[-1])["loss"].items()}
    assert units == {
        "next_event": "nats per token",
        "next_visit": "nats per visit",
        "subtime": "nats per gap",
        "gap": "nats per gap",
    }
    again = load(tmp_path / "run")
    assert set(again.heads) == {"next_visit", "subtime", "gap"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_the_next_visit_alone_learns_from_whole_visits(store: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, objectives={"next_visit": 1.0}, set_loss="focal", max_steps=12)
    train(store, tmp_path / "run", config)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [x["loss"]["next_visit"]["value"] for x in lines if x["kind"] == "tuning"]
    assert losses[-1] < losses[0]
    assert files.read_json(tmp_path / "run" / "config.json")["training"]["sees_whole_visits"]
