"""Training on a GPU: the CPU's losses, steps that wait for nothing, runs that go on elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from tests.train.scenarios import ALONE, MIX, make
from tests.train.test_device import with_odd_steps
from tests.train.test_run import CONFIG, write_store

from chronoward.model.checkpoint import module_bytes
from chronoward.train import Callbacks, train
from chronoward.train.state import steps_of

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.train import TrainConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

BOUND = {"fp32": 1e-4, "bf16": 3e-2}  # relative, of losses after some steps


def of(config: TrainConfig, dtype: str) -> TrainConfig:
    return replace(config, dtype=dtype)


def evaluations(lines: list[dict]) -> list[float]:
    """The tuning losses of a run, in order of steps and heads."""
    return [head["value"] for x in lines if x["kind"] == "tuning" for head in x["loss"].values()]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("config", [ALONE, MIX], ids=["alone", "mix"])
def test_a_gpu_has_the_losses_of_a_cpu(config: TrainConfig, dtype: str, tmp_path: Path) -> None:
    runs = [make(tmp_path / d / "c", of(config, dtype), device=d) for d in ("cpu", "cuda")]
    for trainer in runs:
        trainer.run()
        trainer.settle()
    cpu, gpu = (evaluations(trainer._log.lines) for trainer in runs)
    assert gpu == pytest.approx(cpu, rel=BOUND[dtype], abs=BOUND[dtype])
    assert runs[1]._log.lines[-1]["device"] == torch.cuda.get_device_name()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_goes_on_where_another_device_left_it(
    first: str, then: str, dtype: str, tmp_path: Path
) -> None:
    config = of(MIX, dtype)
    straight = make(tmp_path / "straight" / "c", config, device=first)
    straight.run()
    begun = make(tmp_path / "begun" / "c", config, device=first)
    while begun.progress.step < 6:
        begun._step()
    begun._save()
    resumed = make(tmp_path / "begun" / "c", config, device=then)
    resumed.resume(6)
    assert module_bytes(resumed.model) == module_bytes(begun.model)
    resumed.run()
    assert steps_of(tmp_path / "begun" / "c")[-1] == 12
    ends = [evaluations(t._log.lines)[-3:] for t in (straight, resumed)]
    assert ends[1] == pytest.approx(ends[0], rel=BOUND[dtype], abs=BOUND[dtype])


def test_no_step_waits_for_the_gpu(tmp_path: Path) -> None:
    trainer = make(tmp_path / "c", of(MIX, "bf16"), device="cuda")
    trainer._step()  # kernels are compiled and lookups fetched
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            trainer._step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer._read()
    assert trainer.progress.step == 5


def test_odd_steps_are_left_out_on_a_gpu(tmp_path: Path) -> None:
    runs = [
        with_odd_steps(make(tmp_path / d / "c", of(MIX, "fp32"), device=d), 1, 4, 5)
        for d in ("cpu", "cuda")
    ]
    for trainer in runs:
        trainer.run()
        assert trainer.progress.skipped == 3
    cpu, gpu = (evaluations(trainer._log.lines) for trainer in runs)
    assert gpu == pytest.approx(cpu, rel=1e-4, abs=1e-4)


def test_two_runs_on_a_gpu_that_torch_is_told_to_repeat_have_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        runs = [make(tmp_path / name / "c", of(MIX, "bf16"), device="cuda") for name in "ab"]
        for trainer in runs:
            trainer.run()
    finally:
        torch.use_deterministic_algorithms(False)
    assert module_bytes(runs[0].model) == module_bytes(runs[1].model)


def test_the_verb_trains_on_a_gpu_and_returns_a_model_of_the_cpu(tmp_path: Path) -> None:
    store, said = write_store(tmp_path / "tokens", n_train=45), []
    model = train(store, tmp_path / "run", CONFIG, callbacks=Callbacks(say=said.append))
    assert next(model.parameters()).device.type == "cpu"
    assert torch.cuda.get_device_name() in said[0]
    assert "in bf16" in said[0]
    assert "free" in said[3]
