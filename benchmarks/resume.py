"""T5: a training run that is killed (SIGKILL) at random steps and resumed ends with the same bytes.

A small clinic is simulated and tokenized; one run goes straight through, the other is killed ten
times, each time by itself right after a step, before anything can be saved. Compared are the
model's weights and the last checkpoint's weights and optimizer state.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.process import chronoward
from benchmarks.record import Measurement, Stopwatch

from chronoward.philox import uniforms
from chronoward.train.state import steps_of

if TYPE_CHECKING:
    from collections.abc import Iterator

N_STEPS, N_KILLS = 120, 10
_SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from chronoward.train import TrainConfig, train
from chronoward.train.loop import Trainer

tokens, run, n_steps, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
advance = Trainer._advance


def killed(self, *arguments):
    advance(self, *arguments)
    if self.progress.step == last:
        os.kill(os.getpid(), signal.SIGKILL)


Trainer._advance = killed
model = {"d_model": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "d_ff": 64}
train(tokens, run, TrainConfig(model=model, max_steps=n_steps, row_tokens=512, rows_per_step=1,
                               evaluation_tokens=2048, patience=100, epochs=100), resume=True)
"""


def _start(tokens: Path, run_dir: Path, n_steps: int, last: int) -> int:
    command = [sys.executable, "-c", _SCRIPT, str(tokens), str(run_dir), str(n_steps), str(last)]
    return subprocess.run(command, check=False, capture_output=True).returncode


def _bytes(run_dir: Path) -> list[bytes]:
    last = run_dir / "checkpoints" / f"{steps_of(run_dir / 'checkpoints')[-1]:08d}"
    files = ("model.safetensors", "optimizer.safetensors")
    return [(run_dir / files[0]).read_bytes(), *((last / name).read_bytes() for name in files)]


def measure(quick: bool) -> Iterator[Measurement]:
    """Line of T5: 1 if every byte is the same."""
    n_steps, n_kills = (40, 3) if quick else (N_STEPS, N_KILLS)
    kills = sorted({1 + int(u * (n_steps - 1)) for u in uniforms(5, n_kills)})
    with tempfile.TemporaryDirectory() as folder, Stopwatch() as watch:
        omop, tokens = Path(folder) / "omop", Path(folder) / "tokens"
        chronoward("simulate", "--out", omop, "--n-subjects", "150")
        chronoward("tokenize", omop, "--out", tokens)
        straight, killed = Path(folder) / "straight", Path(folder) / "killed"
        codes = [_start(tokens, straight, n_steps, -1)]
        codes += [_start(tokens, killed, n_steps, step) for step in kills]
        codes.append(_start(tokens, killed, n_steps, -1))
        if codes != [0, *[-9] * len(kills), 0]:
            message = f"runs ended with {codes}, not each as it should"
            raise AssertionError(message)
        is_equal = _bytes(straight) == _bytes(killed)
    yield Measurement(
        id="T5",
        metric="resumed",
        value=float(is_equal),
        unit="1 if every byte is the same",
        seconds=watch.wall,
        extra={"n_steps": n_steps, "killed_after_steps": kills},
    )


MEASURES = {"T5": measure}
