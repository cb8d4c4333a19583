"""Small runs that several processes make together, and one makes alone; each says what it saw.

torchrun --nproc-per-node 2 -m tests.train.scenarios FOLDER
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.train.conftest import ToyRows, V, make_row

from chronoward import files
from chronoward.model import (
    Hazard,
    HazardConfig,
    HazardHead,
    Model,
    ModelConfig,
    NextEvent,
    NextVisit,
    NextVisitConfig,
    NextVisitHead,
    OutcomeTable,
)
from chronoward.model.checkpoint import module_bytes
from chronoward.model.parts import is_part, numbers_held
from chronoward.train import TrainConfig
from chronoward.train.data import join_rows
from chronoward.train.learned_from import Data
from chronoward.train.loop import Trainer
from chronoward.train.metrics import MetricsLog, Sums
from chronoward.train.ranks import Ranks
from chronoward.train.rare_codes import RareCodes
from chronoward.train.shards import gathered, is_sharded, shard
from chronoward.train.state import steps_of

DAY = 1440
N_STEPS = 12
SHAPE = ModelConfig(vocab_size=V, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=24)
ALONE = TrainConfig(
    learning_rate=0.01, warmup_steps=2, evaluations=4, patience=100, seed=3, max_steps=N_STEPS
)
MIX = replace(
    ALONE,
    objectives={"next_event": 1.0, "hazard": 0.5, "next_visit": 0.5},
    outcomes=("a", "b"),
    average=0.9,
    rows_per_pass=1,
)


class UnevenRows(ToyRows):
    """Steps of one to four rows; some rows of some steps hold a whole visit (6, 7, 8)."""

    def step(self, epoch: int, step: int) -> list:
        first = epoch * 7 + step * 3
        n_rows = (3, 1, 4, 2, 1)[step]
        return [make_row([(first + r) % 11, first % 5 + 12], [7, 6 + r]) for r in range(n_rows)]


def hazard(model: Model) -> Hazard:
    """Outcome a comes to every third subject, b to two of them."""
    config = HazardConfig(
        outcomes=("a", "b"),
        token_ids=((4,), (5,)),
        first_only=(True, False),
        edges_days=(0.0, 2.0, 5.0),
    )
    model.heads["hazard"] = HazardHead(SHAPE.d_model, config, seed=1)
    who = np.arange(0, 24, 3)
    minute = DAY * (1 + who % 8)
    nothing = np.zeros(0, np.int64)
    everyone = np.arange(24)
    periods = (everyone, np.zeros(24, np.int64), np.full(24, 12 * DAY))
    occurrences = [(who, minute), (who[2:4], minute[2:4] + DAY)]
    return Hazard(model.heads["hazard"], OutcomeTable(occurrences, (nothing, nothing), periods))


def next_visit(model: Model) -> NextVisit:
    config = NextVisitConfig(token_ids=(7, 9), start_ids=(6,), end_ids=(8,), tied=True)
    model.heads["next_visit"] = NextVisitHead(SHAPE.d_model, config)
    return NextVisit(model.heads["next_visit"], V)


def make(
    folder: Path,
    config: TrainConfig = ALONE,
    ranks: Ranks | None = None,
    *,
    in_parts: bool = False,
    device: str = "cpu",
) -> Trainer:
    """A trainer of the toy world; a mix of objectives learns from uneven rows."""
    ranks = ranks or Ranks()
    if ranks.is_first:
        folder.mkdir(parents=True, exist_ok=True)
    ranks.wait()
    is_mix = len(config.objectives) > 1
    model = Model(replace(SHAPE, n_visit_kinds=3), seed=config.seed)
    objectives = [NextEvent(), hazard(model), next_visit(model)] if is_mix else [NextEvent()]
    tuning = [join_rows([make_row([20 - k, 21, 22], [9, 13, 15])]) for k in range(3)]
    rare = None if is_mix else RareCodes(np.arange(V) >= 10, config.seed, n_drawn=3)
    rows = UnevenRows() if is_mix else ToyRows()
    model.to(device)
    if in_parts:
        shard(model)
    data = Data(rows, objectives, tuning, objectives, rare_codes=rare)
    log = MetricsLog(folder.parent / "metrics.jsonl")
    return Trainer(model, data, config, n_steps=N_STEPS, folder=folder, log=log, ranks=ranks)


def losses(trainer: Trainer) -> list[dict[str, float]]:
    """Runs to the end; each step's loss by objective."""
    update, per_step = trainer._update, []

    def watched(sums) -> None:
        per_step.append(sums.means())
        update(sums)

    trainer._update = watched
    trainer.run()
    return per_step


def weights(trainer: Trainer) -> str:
    """The whole weights, as text."""
    return module_bytes(gathered(trainer.model)).hex()


def held(trainer: Trainer) -> dict[str, float]:
    """Share of weights, gradients and optimizer's state that this process holds after a step."""
    trainer._add_gradients(trainer._data.train.step(0, 0), (0, 0), Sums())
    parameters = [p for p in trainer.model.parameters() if p.grad is not None]
    state = [trainer._optimizers.state(p) for p in parameters]
    tensors = {
        "weights": parameters,
        "gradients": [p.grad for p in parameters],
        "optimizer": [x for tensors in state for x in tensors.values() if x.dim()],
    }
    trainer._optimizers.zero_grad()
    return {
        name: sum(map(numbers_held, of)) / sum(x.numel() for x in of)
        for name, of in tensors.items()
    }


def ends_of(trainer: Trainer, *, at: int, by: int) -> int | None:
    """Runs until process `by` gets SIGTERM after step `at`; the exit code."""
    step = trainer._step

    def signalled() -> None:
        step()
        if trainer.progress.step == at and trainer._ranks.rank == by:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer._step = signalled
    try:
        trainer.run()
    except SystemExit as exit_:
        return exit_.code
    return None


def fails_of(trainer: Trainer, *, at: int) -> str:
    """Runs until the disk is full after step `at`; what this process is told."""
    write = files.write_bytes

    def full(path: Path, payload: bytes) -> None:
        if trainer.progress.step == at and path.name == "optimizer.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, payload)

    files.write_bytes = full
    try:
        trainer.run()
    except OSError as error:
        return str(error)
    finally:
        files.write_bytes = write
    return ""


def settled(trainer: Trainer) -> list[float]:
    """Loss and biases after settling."""
    found = trainer.settle()
    whole = gathered(trainer.model)
    piece = whole.heads["hazard"].piece
    numbers = torch.cat([x.flatten() for x in (whole.context_bias.known, piece)])
    return [found.loss, *numbers.tolist()]


def everything(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """All scenarios of several processes, one after the other."""
    said: dict[str, Any] = {}
    for name, config in (("alone", ALONE), ("mix", MIX)):
        for kind in ("ddp", "fsdp"):
            trainer = make(folder / name / kind, config, ranks, in_parts=kind == "fsdp")
            said[f"{name} {kind}"] = losses(trainer)
            said[f"{name} {kind} weights"] = weights(trainer)
            said[f"{name} {kind} best"] = trainer.progress.best_loss
    said["settled"] = settled(trainer)
    said["held"] = held(trainer)
    assert is_sharded(trainer.model)
    assert all(map(is_part, trainer.model.parameters()))
    resumed = make(folder / "begun", MIX, ranks, in_parts=True)
    resumed.resume(6)
    said["resumed weights"] = weights(resumed)
    said["resumed"] = losses(resumed)
    for kind in ("ddp", "fsdp"):
        trainer = make(folder / f"signal {kind}" / "c", MIX, ranks, in_parts=kind == "fsdp")
        said[f"exit {kind}"] = ends_of(trainer, at=5, by=1)
        trainer = make(folder / f"full {kind}" / "c", MIX, ranks, in_parts=kind == "fsdp")
        said[f"full {kind}"] = fails_of(trainer, at=6)
        ranks.wait()
        for scenario in ("signal", "full"):
            said[f"{scenario} {kind} kept"] = steps_of(folder / f"{scenario} {kind}" / "c")
    return said


if __name__ == "__main__":
    torch.set_num_threads(1)
    processes = Ranks.from_environment()
    target = Path(sys.argv[1])
    seen = everything(target, processes)
    (target / f"said{processes.rank}.json").write_text(json.dumps(seen))
    processes.wait()
