"""Where verbs decode and in which numbers: the same options, checked before any work."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest
import torch

from chronoward.cli import generate, score, synthesize
from chronoward.engine import workers
from chronoward.engine.precision import Decoding, choose
from chronoward.errors import ConfigError
from chronoward.score import ScoreConfig
from chronoward.synthesize import SynthesisOptions
from chronoward.trajectories import GenerateConfig

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("verb", [generate.run, score.run, synthesize.run])
def test_every_verb_that_draws_has_the_same_options(verb: Callable[..., None]) -> None:
    found = inspect.signature(verb).parameters
    defaults = {name: found[name].default for name in ("device", "dtype", "kv_dtype")}
    assert defaults == {"device": "auto", "dtype": None, "kv_dtype": None}


def test_without_a_gpu_a_cpu_decodes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto", None, None) == Decoding("cpu", "float32", None)
    assert choose("cpu", "int8", None) == Decoding("cpu", "int8", None)
    with pytest.raises(ConfigError, match="device 'cuda': torch sees no GPU here"):
        choose("cuda", None, None)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_taken_where_there_is_one_in_bfloat16() -> None:
    assert choose("auto", None, "fp8") == Decoding("cuda", "bfloat16", "fp8")
    assert choose("cuda", "float32", None) == Decoding("cuda", "float32", None)
    assert choose("cpu", None, None) == Decoding("cpu", "float32", None)
    with pytest.raises(ConfigError, match="a GPU decodes in float32 or bfloat16, got 'int8'"):
        choose("auto", "int8", None)


@pytest.mark.parametrize("config", [GenerateConfig, ScoreConfig])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"dtype": "float16"}, "dtype must be one of float32, bfloat16, int8, got 'float16'"),
        ({"device": "cpu", "kv_dtype": "fp8"}, "kv_dtype 'fp8' is for a GPU"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    config: Callable[..., Any], fields: dict[str, str], message: str
) -> None:
    for made in (config, SynthesisOptions):
        with pytest.raises(ConfigError, match=message):
            made(**fields)


@pytest.mark.usefixtures("two_gpus")
def test_a_job_has_one_process_a_gpu_and_each_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [workers.n_processes(n, "cuda") for n in (1, 2, 8)] == [1, 2, 2]
    assert workers.n_processes(8, "cpu") == 8

    class Moved:
        def to(self, device: str) -> str:
            return device

    taken = []
    for number in range(3):
        monkeypatch.setattr(workers, "_number", number)
        taken.append(workers.place(Moved(), "cuda"))  # type: ignore[arg-type]
    assert taken == ["cuda:0", "cuda:1", "cuda:0"]


def test_units_of_work_on_a_gpu_hold_rollouts_for_a_while() -> None:
    assert workers.unit_rows(32, 20, "cpu") == 32
    assert workers.unit_rows(32, 20, "cuda") * 20 >= 16_384
    assert workers.unit_rows(64, 10**6, "cuda") == 64
