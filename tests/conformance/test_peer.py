"""CEHR-GPT itself, in its own environment: the fixture anew, 1,000 subjects, a step of training."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from chronoward.export import export
from chronoward.tokenize import tokenize

from . import clinic, peer
from .regenerate import EXPECTED, expected

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.peer, pytest.mark.slow]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peer.environment(tmp_path_factory.mktemp)


def test_the_fixture_is_what_their_code_makes(environment: Path) -> None:
    assert expected(environment) == json.loads(EXPECTED.read_text())


@pytest.fixture(scope="module")
def clinics(
    environment: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, dict[str, list[str]]]]:
    """A clinic without planted faults and the shipped one: folder, CEHR-GPT's tokens."""
    folders = {}
    for name, trap_ratio in (("clean", 0.0), ("faulty", 1.0)):
        folders[name] = tmp_path_factory.mktemp(name)
        clinic.write_parquet(folders[name], trap_ratio)
    runs = {
        name: {"source": str(folder / "omop"), "options": {"include_death": True}}
        for name, folder in folders.items()
    }
    theirs = peer.convert(environment, runs)
    return {name: (folder, theirs[name]) for name, folder in folders.items()}


@pytest.mark.parametrize(("name", "least_share"), [("clean", 0.95), ("faulty", 0.5)])
def test_a_thousand_subjects_are_equal_or_explained(
    name: str, least_share: float, clinics: dict[str, tuple[Path, dict[str, list[str]]]]
) -> None:
    folder, theirs = clinics[name]
    ours = clinic.convert(folder)
    assert set(theirs) <= set(ours)
    assert all(len(ours[p]) <= 7 for p in set(ours) - set(theirs))  # no visit with a code
    unequal = {
        person
        for person, tokens in theirs.items()
        if clinic.without_age(ours[person]) != clinic.without_age(tokens)
    }
    causes = clinic.causes(folder)
    share = 1 - len(unequal) / len(theirs)
    print(f"{name}: {len(theirs)} subjects, equal but for the age {share:.3f}")
    for cause, persons in causes.items():
        print(f"  {cause}: {len(persons & unequal)} of the unequal")
    assert not unequal - set().union(*causes.values())
    assert share >= least_share
    # they round a year's months up, and take January where the day of birth is not known
    for person in theirs.keys() - unequal:
        mine = ours[person][1].removeprefix("age:")
        if mine.isdigit():
            assert int(theirs[person][1].removeprefix("age:")) - int(mine) in (0, 1, 2)
        else:
            assert mine in ("90+", "unknown")


def test_it_trains_on_an_exported_store(environment: Path, tmp_path: Path) -> None:
    source = clinic.write_parquet(tmp_path / "clinic", 0.0)
    tokenize(source, tmp_path / "tokens", preset="cehr")
    export(tmp_path / "tokens", tmp_path / "data", to="cehrgpt")
    run, data = tmp_path / "run", tmp_path / "data"
    (run / "prepared").mkdir(parents=True)
    options: dict[str, object] = {
        "model_name_or_path": run,
        "tokenizer_name_or_path": run,
        "output_dir": run,
        "dataset_prepared_path": run / "prepared",
        "data_folder": data / "patient_sequence" / "train",
        "patient_splits_path": data / "patient_splits",
        "do_train": "true",
        "hidden_size": 96,
        "n_head": 4,
        "num_hidden_layers": 2,
        "max_position_embeddings": 512,
        "max_tokens_per_batch": 1024,
        "max_steps": 1,
        "evaluation_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": "true",
        "use_cpu": "true",
        "report_to": "none",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    peer.module(
        environment, "cehrgpt.runners.hf_cehrgpt_pretrain_runner", *arguments, "--sample_packing"
    )
    result = json.loads((run / "train_results.json").read_text())
    assert 0 < result["train_loss"] < 100
    vocabulary = json.loads((run / "cehrgpt_tokenizer.json").read_text())["model"]["vocab"]
    assert {"[VS]", "[VE]", "9201", "9202", "8507", "8532", "D1"} <= set(vocabulary)
    assert (run / "model.safetensors").stat().st_size > 0
