from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.scenarios import ALONE, MIX, losses, make, settled, weights
from tests.train.test_run import write_store

from chronoward import files
from chronoward.errors import ConfigError
from chronoward.model import load
from chronoward.model.checkpoint import read_tensors
from chronoward.train import Place, train
from chronoward.train.state import steps_of


def processes(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, one thread a process."""
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


def near(losses: dict[str, float]) -> Any:
    """Within 1e-6; a hazard's likelihood passes through zero."""
    return pytest.approx(losses, rel=1e-6, abs=1e-7)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("train") / "tokens", n_train=45)


@pytest.fixture(scope="module")
def one(folder: Path) -> dict[str, Any]:
    """The same runs by this process alone."""
    said: dict[str, Any] = {}
    for name, config in (("alone", ALONE), ("mix", MIX)):
        trainer = make(folder / "one" / name, config)
        said[name] = losses(trainer)
        said[f"{name} best"] = trainer.progress.best_loss
    said["settled"] = settled(trainer)
    begun = make(folder / "begun", MIX)
    while begun.progress.step < 6:
        begun._step()
    begun._save()
    said["begun weights"] = weights(begun)
    return said


@pytest.fixture(scope="module")
def two(folder: Path, one: dict[str, Any]) -> list[dict[str, Any]]:
    """What each of two processes says of all scenarios."""
    assert one
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = processes(*several, "-m", "tests.train.scenarios", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"said{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", ["alone", "mix"])
def test_two_processes_have_the_losses_of_one_in_every_step(
    name: str, kind: str, one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    assert len(one[name]) == 12
    for said in two:
        for mine, theirs in zip(said[f"{name} {kind}"], one[name], strict=True):
            assert mine == near(theirs)
        assert said[f"{name} {kind} best"] == pytest.approx(one[f"{name} best"], rel=1e-6)
    assert two[0][f"{name} {kind} weights"] == two[1][f"{name} {kind} weights"]


def test_in_parts_a_process_holds_its_share_only(two: list[dict[str, Any]]) -> None:
    for said in two:
        assert said["held"] == pytest.approx(dict.fromkeys(said["held"], 0.5), abs=0.02)
    for name in ("weights", "gradients", "optimizer"):
        assert sum(said["held"][name] for said in two) == pytest.approx(1)


def test_settling_in_parts_is_settling(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    for said in two:
        assert said["settled"] == pytest.approx(one["settled"], rel=1e-5, abs=1e-5)


def test_processes_with_parts_go_on_from_a_checkpoint_of_one(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    for said in two:
        assert said["resumed weights"] == one["begun weights"]  # to the bit
        for mine, theirs in zip(said["resumed"], one["mix"][6:], strict=True):
            assert mine == near(theirs)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_one_process_goes_on_from_a_checkpoint_of_two(
    kind: str, folder: Path, one: dict[str, Any], two: list[dict[str, Any]], tmp_path: Path
) -> None:
    found = folder / f"signal {kind}" / "c"
    trainer = make(found, MIX)
    trainer.resume(5)
    trainer._folder = tmp_path
    trainer._save()
    for path in (found / "00000005").iterdir():
        assert (tmp_path / "00000005" / path.name).read_bytes() == path.read_bytes()
    for mine, theirs in zip(losses(trainer), one["mix"][5:], strict=True):
        assert mine == near(theirs)
    assert two


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_signal_to_any_process_saves_and_ends_all(kind: str, two: list[dict[str, Any]]) -> None:
    for said in two:
        assert said[f"exit {kind}"] == 143
        assert said[f"signal {kind} kept"][-1] == 5


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_full_disk_ends_all_processes_and_keeps_the_last_good_checkpoint(
    kind: str, folder: Path, two: list[dict[str, Any]]
) -> None:
    for said in two:
        assert "No space left" in said[f"full {kind}"]
        assert said[f"full {kind} kept"] == [3]
    assert [p.name for p in (folder / f"full {kind}" / "c").iterdir()] == ["00000003"]


def test_checkpoints_of_parts_have_the_names_and_shapes_of_whole_ones(
    folder: Path, two: list[dict[str, Any]]
) -> None:
    assert two
    alone, parts = (folder / name for name in ("one/mix", "mix/fsdp"))
    assert steps_of(alone) == steps_of(parts)
    for path in sorted((alone / "00000012").glob("*.safetensors")):
        mine, theirs = read_tensors(path), read_tensors(parts / "00000012" / path.name)
        assert {n: x.shape for n, x in mine.items()} == {n: x.shape for n, x in theirs.items()}


def test_an_unknown_kind_of_sharing_is_refused_before_anything_is_written(
    store: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="parallel must be one of ddp, fsdp"):
        train(store, tmp_path / "run", place=Place(parallel="zero"))
    assert not (tmp_path / "run").exists()


def test_a_run_in_parts_is_written_like_one_of_a_single_process(
    store: Path, tmp_path: Path
) -> None:
    options = ["--max-steps=4", "--rows-per-step=3", "--row-tokens=128", "--objective=next_event"]
    command = ["-m", "chronoward", "train", str(store), *options]
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, start in (("one", []), ("two", several)):
        out = [f"--out={tmp_path / name}", "--parallel=fsdp", "--threads=1"]
        done = processes(*start, *command, *out)
        assert done.returncode == 0, done.stderr[-3000:]
    assert "each of 2 processes" in done.stderr
    one, two = (load(tmp_path / name) for name in ("one", "two"))
    for (name, mine), theirs in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5, msg=name)
    said = [files.read_json(tmp_path / name / "config.json") for name in ("one", "two")]
    for name in ("best_loss", "settled_loss"):
        losses = [config["training"][name] for config in said]
        assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert {p.name for p in (tmp_path / "one").iterdir()} == {
        p.name for p in (tmp_path / "two").iterdir()
    }
