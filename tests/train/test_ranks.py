from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.train.test_loop import make_trainer

from chronoward.model.checkpoint import module_bytes
from chronoward.train.state import steps_of

SCRIPT = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
import torch
from tests.train.conftest import ToyRows, make_row, V
from tests.train.test_loop import CONFIG, make_trainer
from chronoward.model import ModelConfig
from chronoward.model.checkpoint import module_bytes
from chronoward.train.ranks import Ranks

torch.set_num_threads(1)
config = ModelConfig(vocab_size=V, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=24)
toy = SimpleNamespace(rows=ToyRows(), make_row=make_row, config=config)
ranks = Ranks.from_environment()
folder = Path(sys.argv[1]) / "c"
if ranks.is_first:
    folder.mkdir(parents=True)
ranks.wait()
trainer = make_trainer(toy, folder, ranks=ranks)
update, per_step = trainer._update, []


def watched(sums):
    per_step.append(sums.means()["next_event"])
    update(sums)


trainer._update = watched
trainer.run()
weights = ranks.gather(module_bytes(trainer.model))
if ranks.is_first:
    same = all(w == weights[0] for w in weights)
    text = json.dumps({"world": ranks.world, "losses": per_step, "same": same})
    (folder.parent / "said.json").write_text(text)
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A run by two processes."""
    folder = tmp_path_factory.mktemp("two")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script), str(folder / "run")],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "run", json.loads((folder / "run" / "said.json").read_text())


def test_two_processes_have_the_losses_of_one_in_every_step(two, toy, tmp_path) -> None:
    _, said = two
    trainer, per_step = make_trainer(toy, tmp_path / "c"), []
    update = trainer._update

    def watched(sums) -> None:
        per_step.append(sums.means()["next_event"])
        update(sums)

    trainer._update = watched
    trainer.run()
    assert said["world"] == 2
    assert len(per_step) == 12
    assert said["losses"] == pytest.approx(per_step, rel=1e-6)
    assert said["same"]  # both end with the same weights


def test_one_process_goes_on_from_a_checkpoint_of_two(two, toy, tmp_path) -> None:
    folder, _ = two
    trainer = make_trainer(toy, folder / "c", n_steps=16)
    trainer.resume(steps_of(folder / "c")[-1])
    before = module_bytes(trainer.model)
    trainer.progress.stopped = ""
    trainer._step()
    assert trainer.progress.step == 13
    assert module_bytes(trainer.model) != before
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
