"""Training where no GPU is: what is chosen, where things go, and steps that nobody waits for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
import torch.optim.adam as adam
from tests.train.scenarios import ALONE, MIX, make
from tests.train.test_run import CONFIG, write_store
from typer.testing import CliRunner

from chronoward.cli import app
from chronoward.errors import ConfigError, NumericError
from chronoward.model import Model, ModelConfig, fused_rows
from chronoward.model import model as decoder
from chronoward.model.checkpoint import module_bytes
from chronoward.model.context_bias import ContextBias
from chronoward.train import Callbacks, Place, TrainConfig, train
from chronoward.train.device import chosen_device, dtype_on
from chronoward.train.memory import CHUNK_OF_LOGITS, SLACK, estimated_memory
from chronoward.train.optimizer import Optimizers

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.train.loop import Trainer

CPU, CUDA, META = (torch.device(name) for name in ("cpu", "cuda", "meta"))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for has_gpu, expected in ((False, CPU), (True, torch.device("cuda", 0))):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=has_gpu: found)
        assert chosen_device("auto") == expected
        assert chosen_device("cpu") == CPU


@pytest.mark.usefixtures("two_gpus")
def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert chosen_device("auto") == torch.device("cuda", int(rank))
    monkeypatch.setenv("LOCAL_RANK", "2")
    for name in ("auto", "cuda"):
        with pytest.raises(ConfigError, match="this machine has 2"):
            chosen_device(name)
    assert chosen_device("cpu") == CPU


@pytest.mark.parametrize(("name", "fault"), [("tpu", "auto, cpu, cuda"), ("cuda", "no GPU")])
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    name: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    store = write_store(tmp_path / "tokens", n_train=45)
    arguments = ["train", str(store), "--out", str(tmp_path / "run"), "--device", name]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ConfigError)
    assert fault in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_numbers_that_are_left_open_are_the_devices_own() -> None:
    assert [dtype_on(device, None) for device in (CPU, CUDA)] == ["fp32", "bf16"]
    assert [dtype_on(CUDA, name) for name in ("fp32", "bf16")] == ["fp32", "bf16"]


class DiedError(Exception):
    """Stands for kill -9."""


def die(done: int, _total: int, line: dict) -> None:
    if done == 4 and line["kind"] == "tuning":
        raise DiedError


def test_a_run_goes_on_in_the_numbers_it_began_with_and_names_its_device(tmp_path: Path) -> None:
    store = write_store(tmp_path / "tokens", n_train=45)
    began = replace(CONFIG, dtype="bf16")
    with pytest.raises(DiedError):
        train(store, tmp_path / "run", began, callbacks=Callbacks(progress=die))
    assert CONFIG.dtype is None
    train(store, tmp_path / "run", CONFIG, resume=True, place=Place(device="cpu"))
    said = json.loads((tmp_path / "run" / "config.json").read_text())
    assert said["training"]["config"]["dtype"] == "bf16"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["device"] for line in lines} == {"cpu"}


def unread(trainer: Trainer) -> Trainer:
    """The trainer with a GPU's way to make steps."""
    trainer._reads_each_step = False
    return trainer


def with_odd_steps(trainer: Trainer, *odd: int) -> Trainer:
    """Gradients are NaN in some steps."""
    clip = trainer._clip_gradient

    def clipped() -> torch.Tensor:
        if trainer.progress.step in odd:
            trainer.model.embedding.weight.grad[0] = float("nan")
        return clip()

    trainer._clip_gradient = clipped
    return trainer


def said_of(trainer: Trainer) -> list[dict]:
    clock = ("seconds", "tokens_per_second", "peak_share")
    return [{k: v for k, v in line.items() if k not in clock} for line in trainer._log.lines]


@pytest.mark.parametrize("config", [ALONE, MIX], ids=["alone", "mix"])
def test_steps_that_are_read_later_are_the_same_steps(config: TrainConfig, tmp_path: Path) -> None:
    one = with_odd_steps(make(tmp_path / "one" / "c", config), 1, 4, 5)
    two = unread(with_odd_steps(make(tmp_path / "two" / "c", config), 1, 4, 5))
    one.run()
    two.run()
    assert one.progress.skipped == 3
    assert module_bytes(two.model) == module_bytes(one.model)
    assert said_of(two) == said_of(one)
    left_out = [vars(trainer.progress) | {"seconds": 0} for trainer in (one, two)]
    assert left_out[0] == left_out[1]
    for folder in sorted((tmp_path / "one" / "c").iterdir()):
        for path in folder.glob("*.safetensors"):
            twin = tmp_path / "two" / "c" / folder.name / path.name
            assert twin.read_bytes() == path.read_bytes()


def test_too_many_odd_steps_in_a_row_end_a_run_that_reads_later_too(tmp_path: Path) -> None:
    trainer = unread(with_odd_steps(make(tmp_path / "c"), 2, *range(4, 9)))
    with pytest.raises(NumericError, match="in steps 4, 5, 6, 7, 8;"):
        trainer.run()


def test_a_left_out_step_leaves_weights_and_state(tmp_path: Path) -> None:
    model = make(tmp_path / "c").model
    optimizers = Optimizers(model, ALONE)
    optimizers.learning_rate = 0.1
    before = module_bytes(model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizers.step(torch.ones(()))
    assert module_bytes(model) == before
    for parameter in model.parameters():
        assert not any(x.any() for x in optimizers.state(parameter).values())


def test_a_whole_step_asks_its_device_for_no_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward, losses, backward, clipping, Muon and average where every look at a value is an
    error, and so is every operation on tensors of two devices."""
    seen = make(tmp_path / "cpu", MIX).model.context_bias.rules()
    monkeypatch.setattr(ContextBias, "rules", lambda _self: seen)
    monkeypatch.setattr(fused_rows, "product_dtype", lambda x: x.dtype)  # meta has no autocast
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_: None)
    trainer = make(tmp_path / "meta", MIX, device="meta")
    assert not trainer._reads_each_step
    for _ in range(3):
        trainer._step()
    assert len(trainer._unread) == trainer.progress.step == 3
    assert all(p.device == META for p in trainer.model.parameters())
    assert all(x.device == META for x in trainer._average.tensors.values())
    state = [trainer._optimizers.state(p) for p in trainer.model.blocks.parameters() if p.dim() > 1]
    assert all(x.device == META for tensors in state for x in tensors.values())
    with pytest.raises(RuntimeError):  # of torch: a meta tensor has no value to read
        trainer._read()


class KeptAttention(torch.autograd.Function):
    """What the GPU's kernel keeps for its backward pass."""

    @staticmethod
    def forward(ctx, q, k, v):
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out


@pytest.mark.parametrize("preset", ["tiny", "base"])
def test_the_estimate_of_a_gpus_memory_is_what_a_pass_keeps(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_rows, "product_dtype", lambda x: x.dtype)
    attend = lambda q, k, v, *_, **__: KeptAttention.apply(q, k, v)  # noqa: E731
    monkeypatch.setattr(decoder, "varlen_attention", attend)
    shape = ModelConfig.preset(preset, 1000)
    model, n_tokens = Model(shape).to("meta"), 4096
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return x

    columns = [torch.zeros(n_tokens, dtype=torch.int32, device="meta") for _ in range(2)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(columns[0].long(), columns[1], torch.zeros(2, dtype=torch.int32, device="meta"))
    config = TrainConfig(row_tokens=n_tokens, rows_per_step=1, dtype="fp32")
    estimate = estimated_memory(shape, config, device=CUDA) - 16 * shape.n_parameters()
    activations = estimate / SLACK - 4 * 3 * CHUNK_OF_LOGITS * shape.vocab_size
    assert activations == pytest.approx(sum(s.nbytes() for s in kept.values()), rel=0.15)
    less = estimated_memory(shape, replace(config, dtype="bf16"), device=CUDA)
    assert less < estimated_memory(shape, config, device=CUDA)
