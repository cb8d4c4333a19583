"""What a step is made of: passes, an average, steps that are left out, a checkpoint that fails."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
import torch
from tests.train.test_loop import CONFIG, make_trainer

from chronoward import files
from chronoward.errors import ConfigError
from chronoward.model.checkpoint import module_bytes, read_tensors
from chronoward.train import TrainConfig
from chronoward.train.state import AVERAGE, load_weights, steps_of


def losses(trainer) -> list[float]:
    trainer.run()
    return [line["loss"]["next_event"]["value"] for line in trainer._log.lines]


def test_a_step_in_several_passes_is_the_step_in_one(toy, tmp_path) -> None:
    one = losses(make_trainer(toy, tmp_path / "one"))
    parts = make_trainer(toy, tmp_path / "two" / "c", config=replace(CONFIG, rows_per_pass=1))
    assert losses(parts) == pytest.approx(one, rel=1e-6)


class Hollow:
    """Rows whose step 1 of each epoch has nothing to predict."""

    def __init__(self, rows) -> None:
        self._rows = rows

    def n_steps(self, epoch: int) -> int:
        return self._rows.n_steps(epoch)

    def step(self, epoch: int, step: int):
        rows = self._rows.step(epoch, step)
        if step != 1:
            return rows
        return [replace(row, loss_mask=torch.zeros_like(row.loss_mask)) for row in rows]


def test_a_step_without_one_position_to_predict_changes_nothing_and_is_counted(
    toy, tmp_path
) -> None:
    trainer = make_trainer(toy, tmp_path / "c", rows=Hollow(toy.rows))
    before = {}
    original = trainer._step

    def watched() -> None:
        if trainer.progress.epoch_step == 1:
            before["bytes"] = module_bytes(trainer.model)
            original()
            assert module_bytes(trainer.model) == before.pop("bytes")
        else:
            original()

    trainer._step = watched
    progress = trainer.run()
    assert progress.empty == 3  # epochs of 4, 5 and 4 steps: the twelve hold three
    assert progress.skipped == 0
    assert trainer._log.lines[-1]["empty"] == 3


def test_the_average_of_the_weights_is_what_is_judged_and_kept(toy, tmp_path) -> None:
    config = replace(CONFIG, average=0.9)
    trainer = make_trainer(toy, tmp_path / "c", config=config)
    expected, step = None, 0
    original = trainer._optimizers.step

    def stepped() -> None:
        nonlocal expected, step
        original()
        now = trainer.model.embedding.weight.detach().clone()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * (first if expected is None else expected) + (1 - decay) * now
        step += 1

    first = trainer.model.embedding.weight.detach().clone()
    trainer._optimizers.step = stepped
    trainer.run()
    folder = tmp_path / "c" / f"{steps_of(tmp_path / 'c')[-1]:08d}"
    kept = read_tensors(folder / AVERAGE)["embedding.weight"]
    torch.testing.assert_close(kept, expected)
    assert not torch.equal(kept, trainer.model.embedding.weight)
    load_weights(tmp_path / "c", 12, trainer.model)
    assert torch.equal(kept, trainer.model.embedding.weight)


def test_a_run_with_an_average_resumes_to_the_same_bytes(toy, tmp_path) -> None:
    config = replace(CONFIG, average=0.9)
    straight = make_trainer(toy, tmp_path / "straight", config=config)
    straight.run()
    half = make_trainer(toy, tmp_path / "half", config=config)
    while half.progress.step < 6:
        half._step()
    half._save()
    again = make_trainer(toy, tmp_path / "half", config=config)
    again.resume(6)
    again.run()
    assert module_bytes(again.model) == module_bytes(straight.model)
    for name, tensor in straight._average.tensors.items():
        assert torch.equal(again._average.tensors[name], tensor)


def test_a_full_disk_keeps_the_last_good_checkpoint(toy, tmp_path, monkeypatch) -> None:
    trainer = make_trainer(toy, tmp_path / "c")
    write = files.write_bytes

    def full(path, payload) -> None:
        if trainer.progress.step == 6 and path.name == "optimizer.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, payload)

    monkeypatch.setattr(files, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.run()
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["00000003"]
    again = make_trainer(toy, tmp_path / "c")
    monkeypatch.setattr(files, "write_bytes", write)
    again.resume(3)
    assert again.run().step == 12


def test_every_line_says_what_share_of_the_peak_was_used(toy, tmp_path) -> None:
    trainer = make_trainer(toy, tmp_path / "c")
    trainer.run()
    assert all(0 < line["peak_share"] < 1 for line in trainer._log.lines if line["kind"] == "train")


def test_timing_a_step_whose_loss_is_not_finite_leaves_the_weights(toy, tmp_path) -> None:
    trainer = make_trainer(toy, tmp_path / "c")
    before, original = module_bytes(trainer.model), trainer.loss
    trainer.loss = lambda *args, **options: original(*args, **options) * float("nan")
    trainer.seconds_per_step()
    assert module_bytes(trainer.model) == before


@pytest.mark.parametrize("average", [0.0, 1.0])
def test_an_average_without_a_decay_is_refused(average: float) -> None:
    with pytest.raises(ConfigError, match="average must lie between"):
        TrainConfig(average=average)


def test_visits_are_seen_whole_only_where_nothing_inside_them_is_asked() -> None:
    def sees(*names: str) -> bool:
        return TrainConfig(objectives=dict.fromkeys(names, 1.0)).sees_whole_visits

    assert sees("next_visit")
    assert sees("next_visit", "gap", "subtime")
    assert not sees("next_visit", "next_event")
    assert not sees("gap")
