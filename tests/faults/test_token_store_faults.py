"""Cases 49 to 57: vocabulary, configuration, checkpoints, names."""

from __future__ import annotations

import json
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from tests.faults.sources import rows_of_meds, write_meds
from tests.store.timelines import make_batch, open_writer
from tests.tokenizer.clinic import SPECS, make_world

from chronoward import files, outcomes
from chronoward.cli.sources import ingest_config
from chronoward.data import IngestConfig
from chronoward.data.ingest import ingest
from chronoward.data.simulate.config import load_config as read_clinic
from chronoward.errors import ConfigError, FormatError, NumericError, StateError
from chronoward.model import Model, ModelConfig, save_model
from chronoward.model import load as load_model
from chronoward.store import TokenStore
from chronoward.tokenize import tokenize
from chronoward.tokenizer import Tokenizer, TokenizerSpec, fit
from chronoward.train import TrainConfig

if TYPE_CHECKING:
    from pathlib import Path

HASH = "a" * 64


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    events, observation, codes = make_world(60, 1)
    return fit([events], codes, SPECS["compact"], observation)


def _run(folder: Path) -> Path:
    folder.mkdir()
    config = ModelConfig(vocab_size=12, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=32)
    save_model(folder, Model(config, seed=1), tokenizer_hash=HASH, training={})
    return folder


def _change(path: Path, **changes: Any) -> None:
    files.write_json(path, files.read_json(path) | changes)


def test_case_49_a_checkpoint_or_store_of_another_vocabulary_is_a_format_error(
    tmp_path: Path,
) -> None:
    with pytest.raises(FormatError, match="another vocabulary"):
        load_model(_run(tmp_path / "run"), tokenizer_hash="b" * 64)
    writer = open_writer(tmp_path / "store")
    writer.add(make_batch(np.arange(3), np.full(3, 4)), np.zeros(3, np.uint8))
    writer.finish(calendar="real", observation="x", split_rule="hash", counts={})
    (tmp_path / "store" / "tokenizer.json").write_text("{}")
    with pytest.raises(FormatError, match="is not the tokenizer that encoded this store"):
        TokenStore.open(tmp_path / "store")


def _edited(tokenizer: Tokenizer, path: Path, edit: Any) -> Path:
    """The tokenizer's file after an edit, its hash made right again."""
    tokenizer.save(path)
    value = files.read_json(path)
    edit(value)
    body = {key: item for key, item in value.items() if key != "hash"}
    value["hash"] = files.hashlib.sha256(files.canonical_json(body)).hexdigest()
    files.write_json(path, value)
    return path


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda v: v["tokens"]["label"].__setitem__(5, v["tokens"]["label"][6]), "duplicate token"),
        (lambda v: v["codes"].append(v["codes"][0]), "duplicate code entries"),
        (lambda v: v["tokens"]["entry"].__setitem__(9, 10**6), "code does not exist"),
        (lambda v: v["tokens"]["label"].pop(), "malformed part"),
        (lambda v: v["tokens"]["token_class"].__setitem__(7, 99), "malformed part"),
        (lambda v: v["tokens"].pop("entry"), "malformed"),
        (lambda v: v["grammar"]["next_state"][1].__setitem__(2, 90), "malformed part: grammar"),
        (lambda v: v["codes"][9].update(edges=[3.0, 1.0]), "malformed part: codes"),
        (lambda v: v.pop("start"), "malformed part"),
        (lambda v: v.update(spec=None), "malformed part"),
    ],
)
def test_case_50_a_vocabulary_with_duplicate_missing_or_wild_indices_is_a_format_error(
    tokenizer: Tokenizer, tmp_path: Path, edit: Any, match: str
) -> None:
    path = _edited(tokenizer, tmp_path / "tokenizer.json", edit)
    with pytest.raises(FormatError, match=match) as raised:
        Tokenizer.load(path)
    assert "tokenizer.json" in str(raised.value)


_BILLION = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    "text",
    [
        "unknown_key: 1\n",
        "inpatient_hours: many\n",
        "prenatal_days: [1]\n",
        "!!python/object/apply:os.system [id]\n",
        "a0: &a0 [x]\n" + _BILLION,
        "- 1\n",
        "{",
        "\0",
    ],
    ids=["unknown", "type", "list", "tag", "billion", "no-mapping", "broken", "nul"],
)
def test_case_51_a_faulty_configuration_is_a_config_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "dials.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        ingest_config(path)
    with pytest.raises(ConfigError):
        outcomes.load(path)
    with pytest.raises(ConfigError):
        read_clinic(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 1e18, True, "7"])
def test_case_52_numbers_out_of_range_are_config_errors(value: Any) -> None:
    for make in (
        lambda: IngestConfig(inpatient_hours=value),
        lambda: IngestConfig(midnight_share=value if value != 1 else 2),
        lambda: TokenizerSpec(n_value_bins=value),
        lambda: TokenizerSpec(max_age_years=value if value is not True else 0),
    ):
        with pytest.raises(ConfigError):
            make()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1])
def test_case_52_a_training_that_cannot_be_is_a_config_error(value: float) -> None:
    for name in ("learning_rate", "clip_norm", "epochs", "minutes"):
        with pytest.raises(ConfigError, match=name):
            TrainConfig(**{name: value})  # type: ignore[arg-type]


def test_case_53_damaged_swapped_and_infinite_weights_are_refused(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    path = run / "model.safetensors"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    for content in (whole[:-9], whole[:4], b"", bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"model\.safetensors"):
            load_model(run)
    for change, error in (
        (lambda t: t.update({"final_norm.weight": torch.ones(3)}), FormatError),
        (lambda t: t["final_norm.weight"].fill_(float("nan")), NumericError),
    ):
        tensors = load(whole)
        change(tensors)
        path.write_bytes(save(tensors))
        _change(run / "config.json", weights=files.sha256_file(path))
        with pytest.raises(error, match=r"final_norm\.weight"):
            load_model(run)


class _Trap:
    opened = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (_Trap, "opened", True))


def test_case_54_a_pickle_is_refused_without_being_opened(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    (run / "model.safetensors").write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(FormatError, match="not a safetensors file"):
        load_model(run)
    for name in ("tokenizer.json", "store.json"):
        (tmp_path / name).write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(FormatError):
        Tokenizer.load(tmp_path / "tokenizer.json")
    with pytest.raises(FormatError):
        TokenStore.open(tmp_path)
    assert not _Trap.opened


@pytest.mark.parametrize(
    "name",
    ["../0.arrow", "/etc/passwd", "train/../../x", "train\\0.arrow", "CON", "\0", "x" * 4096],
)
def test_case_55_a_manifest_cannot_name_a_file_outside_of_its_folder(
    tmp_path: Path, name: str
) -> None:
    from chronoward.store.layout import checksum

    writer = open_writer(tmp_path / "store")
    writer.add(make_batch(np.arange(3), np.full(3, 4)), np.zeros(3, np.uint8))
    manifest = writer.finish(calendar="real", observation="x", split_rule="hash", counts={})
    manifest["splits"]["train"]["shards"][0]["file"] = name
    _change(tmp_path / "store" / "store.json", splits=manifest["splits"])
    _change(tmp_path / "store" / "store.json", checksum=checksum(manifest))
    with pytest.raises(FormatError, match="outside the store's layout"):
        TokenStore.open(tmp_path / "store")


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "a\\b", "", ".", "x" * 300, "a\0b"])
def test_case_55_an_outcome_becomes_a_folder_so_its_name_must_be_a_plain_one(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "outcome.yaml"
    path.write_text(json.dumps({"name": name, "title": "t", "prefixes": ["A"]}))
    with pytest.raises(ConfigError, match="name"):
        outcomes.load(path)


@pytest.mark.parametrize("verb", ["tokenize", "ingest"])
def test_case_56_a_link_as_output_is_refused(tmp_path: Path, verb: str) -> None:
    source = write_meds(tmp_path / "meds", rows_of_meds())
    (tmp_path / "target").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "target")
    run = partial(ingest, config=IngestConfig()) if verb == "ingest" else tokenize
    with pytest.raises(StateError, match="symbolic link"):
        run(source, tmp_path / "out")
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="symbolic link"):
        files.write_bytes(tmp_path / "file", b"x")
    assert list((tmp_path / "target").iterdir()) == []


def test_case_57_other_versions_are_format_errors_that_name_the_command(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    run = _run(tmp_path / "run")
    _change(run / "config.json", version=0)
    with pytest.raises(FormatError, match=r"version 0, .* reads 1; .*`chronoward train`"):
        load_model(run)
    tokenizer.save(tmp_path / "tokenizer.json")
    _change(tmp_path / "tokenizer.json", version=0)
    with pytest.raises(FormatError, match=r"version 0, .* reads 1; .*`chronoward fit`"):
        Tokenizer.load(tmp_path / "tokenizer.json")
    open_writer(tmp_path / "store").finish(
        calendar="real", observation="x", split_rule="hash", counts={}
    )
    _change(tmp_path / "store" / "store.json", version=0)
    with pytest.raises(FormatError, match=r"version 0, .* reads 2 and 3; .*`chronoward tokenize`"):
        TokenStore.open(tmp_path / "store")
