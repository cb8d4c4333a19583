from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load, save

from chronoward import files
from chronoward.errors import FormatError, NumericError
from chronoward.model import HazardConfig, HazardHead, Model, save_model
from chronoward.model import load as load_model

HASH = "a" * 64


@pytest.fixture
def run_dir(tmp_path, toy_config):
    model = Model(toy_config, seed=5)
    head = HazardConfig(outcomes=("x",), token_ids=((4, 5),), first_only=(True,))
    model.heads["hazard"] = HazardHead(toy_config.d_model, head, seed=1)
    save_model(tmp_path, model, tokenizer_hash=HASH, training={"seed": 5})
    return tmp_path


def rewrite(run_dir, change) -> None:
    """Changes the tensors and the hash in the config with them."""
    path = run_dir / "model.safetensors"
    tensors = load(path.read_bytes())
    change(tensors)
    path.write_bytes(save(tensors))
    config = json.loads((run_dir / "config.json").read_text())
    config["weights"] = files.sha256_file(path)
    (run_dir / "config.json").write_text(json.dumps(config))


def test_a_saved_model_comes_back_with_its_heads(run_dir, toy_config) -> None:
    model = load_model(run_dir, tokenizer_hash=HASH)
    fresh = Model(toy_config, seed=5)
    assert model.config == toy_config
    assert torch.equal(model.embedding.weight, fresh.embedding.weight)
    assert model.heads["hazard"].config.outcomes == ("x",)
    assert not model.training


def test_saving_twice_gives_the_same_bytes(run_dir, tmp_path_factory) -> None:
    other = tmp_path_factory.mktemp("other")
    save_model(other, load_model(run_dir), tokenizer_hash=HASH, training={"seed": 5})
    for name in ("model.safetensors", "config.json"):
        assert (other / name).read_bytes() == (run_dir / name).read_bytes()


def test_another_vocabulary_is_refused(run_dir) -> None:
    with pytest.raises(FormatError, match="another vocabulary"):
        load_model(run_dir, tokenizer_hash="b" * 64)


def test_truncated_weights_are_refused(run_dir) -> None:
    path = run_dir / "model.safetensors"
    os.truncate(path, path.stat().st_size - 10)
    with pytest.raises(FormatError, match="truncated"):
        load_model(run_dir)


def test_changed_weights_are_refused(run_dir) -> None:
    path = run_dir / "model.safetensors"
    payload = bytearray(path.read_bytes())
    payload[-1] ^= 1
    path.write_bytes(payload)
    with pytest.raises(FormatError, match="does not match the hash"):
        load_model(run_dir)


def test_nan_weights_are_refused(run_dir) -> None:
    rewrite(run_dir, lambda tensors: tensors["blocks.0.down.weight"].fill_(float("nan")))
    with pytest.raises(NumericError, match=r"blocks\.0\.down\.weight holds NaN"):
        load_model(run_dir)


def test_tensors_of_another_shape_or_type_are_refused(run_dir) -> None:
    rewrite(run_dir, lambda t: t.update({"final_norm.weight": torch.ones(3)}))
    with pytest.raises(FormatError, match=r"final_norm\.weight is torch\.float32 \(3,\)"):
        load_model(run_dir)
    rewrite(run_dir, lambda t: t.update({"final_norm.weight": torch.ones(16).half()}))
    with pytest.raises(FormatError, match="float16"):
        load_model(run_dir)


def test_missing_and_unknown_tensors_are_refused(run_dir) -> None:
    rewrite(run_dir, lambda t: t.pop("final_norm.weight"))
    with pytest.raises(FormatError, match=r"missing or unknown tensors \['final_norm.weight'\]"):
        load_model(run_dir)


def test_folders_that_are_not_runs_are_refused(run_dir, tmp_path_factory) -> None:
    with pytest.raises(FormatError, match=r"has no config\.json"):
        load_model(tmp_path_factory.mktemp("empty"))
    config = json.loads((run_dir / "config.json").read_text())
    (run_dir / "config.json").write_text(json.dumps({**config, "version": 99}))
    with pytest.raises(FormatError, match="version 99"):
        load_model(run_dir)
