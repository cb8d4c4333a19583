from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from chronoward.errors import NumericError
from chronoward.model import Model, NextEvent
from chronoward.model.checkpoint import module_bytes
from chronoward.train.config import TrainConfig
from chronoward.train.data import join_rows
from chronoward.train.learned_from import Data
from chronoward.train.loop import TRIAL_SHARE, Trainer
from chronoward.train.metrics import MetricsLog
from chronoward.train.rare_codes import RareCodes
from chronoward.train.state import load_weights, steps_of

N_STEPS = 12
CONFIG = TrainConfig(
    learning_rate=0.01, warmup_steps=2, evaluations=4, patience=100, seed=3, max_steps=N_STEPS
)


def make_trainer(
    toy, folder: Path, *, config=CONFIG, n_steps=N_STEPS, rows=None, ranks=None
) -> Trainer:
    folder.mkdir(exist_ok=True, parents=True)
    tuning = [join_rows([toy.make_row([20, 21, 22], [9, 13, 15])])]
    rare_codes = RareCodes(np.arange(toy.config.vocab_size) >= 10, config.seed, n_drawn=3)
    data = Data(
        rows or toy.rows, [NextEvent()], tuning, [NextEvent()], redraw=None, rare_codes=rare_codes
    )
    return Trainer(
        Model(toy.config, seed=config.seed),
        data,
        config,
        n_steps=n_steps,
        folder=folder,
        log=MetricsLog(folder.parent / "metrics.jsonl"),
        ranks=ranks,
    )


class DiedError(Exception):
    """Stands for kill -9."""


def dying(trainer: Trainer, step: int) -> None:
    """Makes the trainer die right before `step`, without a chance to save."""
    original = trainer._step

    def guarded() -> None:
        if trainer.progress.step == step:
            raise DiedError
        original()

    trainer._step = guarded


def test_training_learns_the_toy_world(toy, tmp_path) -> None:
    trainer = make_trainer(toy, tmp_path / "c", n_steps=60)
    progress = trainer.run()
    assert progress.best_loss is not None
    bits = progress.best_loss / math.log(2)
    assert progress.step == 60
    assert bits < 2.5  # log2(24) = 4.6 when nothing is known


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
def test_resume_after_a_kill_at_any_step_gives_the_same_bytes(step: int, toy, tmp_path) -> None:
    straight = make_trainer(toy, tmp_path / "straight")
    straight.run()
    killed = make_trainer(toy, tmp_path / "killed")
    dying(killed, step)
    with pytest.raises(DiedError):
        killed.run()
    again = make_trainer(toy, tmp_path / "killed")
    if found := steps_of(tmp_path / "killed"):
        again.resume(found[-1])
    again.run()
    assert module_bytes(again.model) == module_bytes(straight.model)
    assert again.progress.best_loss == straight.progress.best_loss
    assert again.progress.best_step == straight.progress.best_step


def test_another_seed_gives_other_bytes(toy, tmp_path) -> None:
    one = make_trainer(toy, tmp_path / "1")
    other = make_trainer(toy, tmp_path / "2", config=TrainConfig(seed=4, evaluations=4))
    one.run()
    other.run()
    assert module_bytes(one.model) != module_bytes(other.model)


def test_signals_save_a_whole_step_and_exit_143(toy, tmp_path) -> None:
    trainer = make_trainer(toy, tmp_path / "c")
    original = trainer._step

    def step_with_signal() -> None:
        original()
        if trainer.progress.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer._step = step_with_signal
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as raised:
        trainer.run()
    assert raised.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert steps_of(tmp_path / "c")[-1] == 5
    again = make_trainer(toy, tmp_path / "c")
    again.resume(5)
    again.run()
    straight = make_trainer(toy, tmp_path / "straight")
    straight.run()
    assert module_bytes(again.model) == module_bytes(straight.model)


def test_only_the_newest_and_the_best_checkpoint_are_kept(toy, tmp_path) -> None:
    trainer = make_trainer(toy, tmp_path / "c")
    progress = trainer.run()
    assert set(steps_of(tmp_path / "c")) == {N_STEPS, progress.best_step}


def test_early_stop_keeps_the_best_weights(toy, tmp_path) -> None:
    config = TrainConfig(learning_rate=0.01, evaluations=60, patience=2, warmup_steps=2)
    trainer = make_trainer(toy, tmp_path / "c", config=config, n_steps=60)
    losses = iter([3.0, 2.0, 2.5, 2.4, 1.0])

    class Scripted(NextEvent):
        def loss(self, model, hidden, batch):
            head = super().loss(model, hidden, batch)
            return type(head)(hidden.sum() * 0 + next(losses), 1.0, {})

    trainer._data = Data(toy.rows, [NextEvent()], trainer._data.tuning, [Scripted()])
    progress = trainer.run()
    assert "no better on tuning" in progress.stopped
    assert progress.step == 4
    assert (progress.best_step, progress.best_loss) == (2, 2.0)
    load_weights(tmp_path / "c", 2, trainer.model)


def test_a_step_that_is_not_finite_is_left_out_and_counted(toy, tmp_path) -> None:
    trainer = make_trainer(toy, tmp_path / "c")
    original, spoiled = trainer.loss, {3}

    def spoil(batch, objectives, sums=None, **options):
        loss = original(batch, objectives, sums, **options)
        is_training = torch.is_grad_enabled()
        return loss * float("nan") if is_training and trainer.progress.step in spoiled else loss

    trainer.loss = spoil
    progress = trainer.run()
    assert progress.skipped == 1
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_too_many_such_steps_are_an_error_that_names_the_step(toy, tmp_path) -> None:
    trainer = make_trainer(toy, tmp_path / "c")
    original = trainer.loss
    trainer.loss = lambda *args, **options: original(*args, **options) * float("inf")
    with pytest.raises(NumericError, match="in steps 0, 1, 2, 3, 4"):
        trainer.run()
    assert steps_of(tmp_path / "c") == [3]  # where the evaluation fell


def test_every_line_of_the_log_has_its_loss_in_its_unit(toy, tmp_path) -> None:
    trainer = make_trainer(toy, tmp_path / "c")
    trainer.run()
    lines = trainer._log.lines
    assert {line["kind"] for line in lines} == {"train", "tuning"}
    assert [line["step"] for line in lines if line["kind"] == "tuning"] == [3, 6, 9, 12]
    for line in lines:
        assert line["loss"]["next_event"]["unit"] == "nats per token"
        assert line["bits_per_token"]["all"] > 0
        assert line["tokens"] > 0


def test_without_a_tuning_split_the_last_weights_count(toy, tmp_path) -> None:
    trainer = make_trainer(toy, tmp_path / "c")
    trainer._data = Data(toy.rows, [NextEvent()], [], [])
    assert trainer.run().best_step == N_STEPS


def test_a_run_planned_in_minutes_ends_when_they_are_long_over(toy, tmp_path) -> None:
    config = TrainConfig(minutes=1e-6, evaluations=4)
    progress = make_trainer(toy, tmp_path / "c", config=config).run()
    assert progress.step == 1
    assert "time was up" in progress.stopped
    assert steps_of(tmp_path / "c") == [1]


IN_MINUTES = TrainConfig(
    learning_rate=0.01, evaluations=4, patience=100, epochs=1000, minutes=1.0, seed=3
)


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still in the loop, so that looks at the tuning split take no time."""
    monkeypatch.setattr("chronoward.train.loop.time", SimpleNamespace(monotonic=lambda: 0.0))


def timed(trainer: Trainer, seconds: float) -> Trainer:
    """The trainer with steps that say they took `seconds`."""
    original = trainer._advance
    trainer._advance = lambda rows, _seconds: original(rows, seconds)
    return trainer


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("planned", [20, 200])
def test_a_run_of_minutes_finds_its_length_as_it_goes(planned: int, toy, tmp_path) -> None:
    trainer = make_trainer(toy, tmp_path / "c", config=IN_MINUTES, n_steps=planned)
    progress = timed(trainer, 0.55).run()
    assert 95 <= progress.step == progress.n_steps <= 109
    assert "all planned steps" in progress.stopped
    lines = [line for line in trainer._log.lines if line["kind"] == "tuning"]
    assert len(lines) == progress.evaluations == IN_MINUTES.evaluations
    assert (lines[0]["n_steps"], lines[-1]["n_steps"]) == (planned, progress.step)
    assert lines[-1]["learning_rate"] < 0.05 * IN_MINUTES.peak_learning_rate


@pytest.mark.usefixtures("still")
def test_a_resumed_run_of_minutes_keeps_its_plan(toy, tmp_path) -> None:
    straight = timed(make_trainer(toy, tmp_path / "straight", config=IN_MINUTES, n_steps=40), 0.55)
    straight.run()
    killed = timed(make_trainer(toy, tmp_path / "killed", config=IN_MINUTES, n_steps=40), 0.55)
    dying(killed, 37)
    with pytest.raises(DiedError):
        killed.run()
    again = timed(make_trainer(toy, tmp_path / "killed", config=IN_MINUTES, n_steps=40), 0.55)
    again.resume(steps_of(tmp_path / "killed")[-1])
    assert again.progress.n_steps > 90
    again.run()
    assert module_bytes(again.model) == module_bytes(straight.model)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from conftest import ToyRows, make_row, V
from types import SimpleNamespace
from chronoward.model import ModelConfig
from test_loop import make_trainer, steps_of
torch.set_num_threads(1)
config = ModelConfig(vocab_size=V, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=24)
toy = SimpleNamespace(rows=ToyRows(), make_row=make_row, config=config)
folder = Path(sys.argv[2])
trainer = make_trainer(toy, folder, n_steps=80)
if steps_of(folder):
    trainer.resume(steps_of(folder)[-1])
print("ready", flush=True)
trainer.run()
(folder.parent / "weights").write_bytes(__import__(
    "chronoward.model.checkpoint", fromlist=["module_bytes"]).module_bytes(trainer.model))
"""


@pytest.mark.slow
def test_kill_9_at_five_moments_gives_the_same_bytes(tmp_path) -> None:
    def start(folder: Path) -> subprocess.Popen[str]:
        folder.mkdir(parents=True, exist_ok=True)
        here = str(Path(__file__).parent)
        arguments = [sys.executable, "-c", KILLED, here, str(folder / "c")]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    start(tmp_path / "straight").communicate()
    for delay in (0.05, 0.1, 0.2, 0.4, 0.6):
        process = start(tmp_path / "killed")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.wait()
        process.stdout.close()
    start(tmp_path / "killed").communicate()
    weights = [(tmp_path / name / "weights").read_bytes() for name in ("straight", "killed")]
    assert weights[0] == weights[1]


def test_timing_a_step_changes_neither_weights_nor_the_optimizers_state(toy, tmp_path) -> None:
    trainer = make_trainer(toy, tmp_path / "c", config=replace(CONFIG, minutes=1.0))
    before = module_bytes(trainer.model)
    start = time.monotonic()
    seconds = trainer.seconds_per_step()
    elapsed = time.monotonic() - start
    assert 0 < seconds < elapsed >= TRIAL_SHARE * 60
    assert module_bytes(trainer.model) == before
    for parameter in trainer.model.parameters():
        assert all((tensor == 0).all() for tensor in trainer._optimizers.state(parameter).values())
