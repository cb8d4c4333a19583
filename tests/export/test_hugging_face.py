"""A RUN folder as transformers reads it."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from tests.score.made import make_all, make_run
from typer.testing import CliRunner

import chronoward as cw
from benchmarks import peers
from chronoward import files
from chronoward.cli import app
from chronoward.errors import ConfigError, StateError
from chronoward.export import export
from chronoward.model import PORTABLE, Model, ModelConfig, load, save_model
from chronoward.store import TokenStore
from chronoward.train import TrainConfig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.score.made import Made

SHAPES: dict[str, dict[str, Any]] = {
    "qk-norm-tied": {},
    "qk-norm-untied": {"tied": False, "n_kv_heads": 4},
    "plain-tied": {"qk_norm": False, "rotary_base": 500.0},
    "plain-untied": {"qk_norm": False, "tied": False, "norm_eps": 1e-5},
}
ASK = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

answer, folder, question = sys.argv[1:]
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(folder).eval()
words = AutoTokenizer.from_pretrained(folder)
given = json.load(open(question))
with torch.no_grad():
    logits = [model(torch.tensor([ids])).logits[0].tolist() for ids in given["token_id"]]
    lone = model.generate(
        torch.tensor([given["token_id"][0]]), max_new_tokens=3, do_sample=False
    )
try:
    unknown = words.encode("no such label")
except Exception as error:
    unknown = str(error)
json.dump({
    "class": type(model).__name__, "dtype": str(model.dtype), "logits": logits,
    "ids": [words.encode("\\n".join(labels)) for labels in given["labels"]],
    "labels": [words.convert_ids_to_tokens(ids) for ids in given["token_id"]],
    "pad": words.pad_token_id, "eos": [words.eos_token_id, model.generation_config.eos_token_id],
    "unknown": unknown, "n_generated": lone.shape[1] - len(given["token_id"][0]),
}, open(answer, "w"))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_all(tmp_path_factory.mktemp("hugging_face"))


def portable_run(folder: Path, made: Made, **changes: Any) -> Path:
    """A RUN folder of a portable model with weights that are all of some size."""
    sizes = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 48}
    fields = {"vocab_size": made.tokenizer.vocab_size, **sizes, **PORTABLE, **changes}
    model = Model(ModelConfig(**fields), seed=1)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("context_bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    folder.mkdir()
    made.tokenizer.save(folder / "tokenizer.json")
    training = {"row_tokens": 256}
    save_model(folder, model, tokenizer_hash=made.tokenizer.hash, training=training)
    return folder


def timelines(made: Made) -> list[list[int]]:
    split = TokenStore.open(made.tokens).split("train")
    return [split.timeline(i).token_id.tolist() for i in range(4)]


@pytest.mark.peer
@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_has_our_logits_and_our_tokens(made: Made, tmp_path: Path, shape: str) -> None:
    run = portable_run(tmp_path / "run", made, **SHAPES[shape])
    export(run, tmp_path / "out", to="hf")
    ids = timelines(made)
    labels = [[made.tokenizer.labels[t] for t in tokens] for tokens in ids]
    (tmp_path / "question.json").write_text(json.dumps({"token_id": ids, "labels": labels}))
    try:
        found = peers.ask(
            "transformers", ASK, str(tmp_path / "out"), str(tmp_path / "question.json")
        )
    except peers.PeerUnavailableError as error:
        pytest.skip(str(error))
    assert found["class"] == ("Qwen3ForCausalLM" if "qk-norm" in shape else "LlamaForCausalLM")
    assert found["dtype"] == "torch.float32"
    assert (found["ids"], found["labels"]) == (ids, labels)
    assert (found["pad"], found["eos"]) == (0, [1, 1])
    assert "WordLevel" in found["unknown"]
    assert 1 <= found["n_generated"] <= 3
    model = load(run)
    for tokens, theirs in zip(ids, found["logits"], strict=True):
        bounds, place = torch.tensor([0, len(tokens)], dtype=torch.int32), torch.arange(len(tokens))
        token_id, clock = torch.tensor(tokens), torch.zeros(len(tokens), dtype=torch.int32)
        with torch.no_grad():
            hidden = model(token_id, clock, bounds)
            ours = model.logits(hidden, model.context_bias.context(token_id, bounds, place))
        assert ours.std() > 0.5
        torch.testing.assert_close(torch.tensor(theirs), ours, rtol=1e-4, atol=2e-4)


def test_what_cannot_be_exported_is_named_thing_by_thing(made: Made, tmp_path: Path) -> None:
    config = ModelConfig(vocab_size=made.tokenizer.vocab_size, d_model=32, n_heads=4, n_kv_heads=2)
    model = Model(config)
    torch.nn.init.ones_(model.context_bias.known)
    run = tmp_path / "run"
    run.mkdir()
    made.tokenizer.save(run / "tokenizer.json")
    training = {"sees_whole_visits": True}
    save_model(run, model, tokenizer_hash=made.tokenizer.hash, training=training)
    with pytest.raises(ConfigError) as caught:
        export(run, tmp_path / "out", to="hf")
    for part in (
        "time_bias linear",
        "rotary half",
        "clock_embedding",
        "context biases",
        "visits seen whole",
        "train --portable",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"time_bias": "log"}, "time_bias log"),
        ({"rotary": "time"}, "rotary time"),
        ({"rotary": "none"}, "rotary none"),
        ({"clock_embedding": True}, "clock_embedding"),
    ],
)
def test_one_thing_too_many_is_the_only_one_named(
    made: Made, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    run = portable_run(tmp_path / "run", made, **change)
    with pytest.raises(ConfigError, match=rf"Hugging Face: {named}[^;]*\. Train a model"):
        export(run, tmp_path / "out", to="hf")


def test_the_folder_says_what_it_is_and_belongs_to_its_owner(made: Made, tmp_path: Path) -> None:
    run, out = portable_run(tmp_path / "run", made), tmp_path / "out"
    report = cw.export(run, out, to="hf")
    assert files.read_json(out / "export.json") == report
    assert report["model"] == files.sha256_file(run / "model.safetensors")
    tensors = load_file(out / "model.safetensors")
    assert report["n_parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert (out / "chronoward_tokenizer.json").read_bytes() == (run / "tokenizer.json").read_bytes()
    assert files.read_json(out / "config.json")["max_position_embeddings"] == 256
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert not list(out.rglob("*.tmp"))
    with pytest.raises(StateError):
        export(run, out, to="hf")


def test_a_portable_run_trains_without_the_clock_and_is_exported(
    made: Made, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = TrainConfig(portable=True, max_steps=2, row_tokens=128, evaluation_tokens=256)
    model = cw.train(made.tokens, run, config)
    assert {name: getattr(model.config, name) for name in PORTABLE} == PORTABLE
    assert model.clock is None
    assert not model.context_bias.unseen.any()
    assert not model.context_bias.known.any()
    done = CliRunner().invoke(app, ["export", str(run), "--to", "hf", "--out", str(tmp_path / "o")])
    assert done.exit_code == 0, done.output
    assert "Qwen3ForCausalLM" in done.output


def test_portable_and_what_contradicts_it_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"portable means .*'rotary': 'index'"):
        TrainConfig(portable=True, model={"rotary": "half"})
    assert TrainConfig(portable=True, model={"rotary": "index"}).portable


def test_a_token_store_is_no_run(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a RUN folder"):
        export(made.tokens, tmp_path / "out", to="hf")
    ours = make_run(tmp_path / "default", made.tokenizer)
    with pytest.raises(ConfigError, match="cannot be exported"):
        export(ours, tmp_path / "out", to="hf")
