"""An engine on a GPU: the CPU's rollouts, the same bytes in any order, no step that waits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.engine.test_device import PLAIN, assert_same, made, of_the_cpu
from tests.engine.test_engine import bytes_of, prompts
from tests.engine.toy import toy_grammar

from chronoward.engine import Engine, EngineConfig, Prompt, SamplingParams
from chronoward.engine.device import DeviceRollouts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

PARAMS = replace(PLAIN, max_new_tokens=100)


def asked() -> list[Prompt]:
    """More rollouts than rows, contexts that are cut."""
    return [replace(p, deadline_min=None) for p in prompts(5, 5)]


def engine(**config: object) -> Engine:
    options = {"n_slots": 8, "max_context": 64, "dtype": "float32", **config}
    return Engine(made(d_model=128).cuda(), toy_grammar(), EngineConfig(**options))  # type: ignore[arg-type]


def test_a_gpus_rollouts_are_those_of_the_cpu() -> None:
    expected = of_the_cpu(made(d_model=128), asked(), PARAMS, max_context=64)
    on_gpu = engine()
    assert on_gpu.device is not None
    assert_same(on_gpu.generate(asked(), PARAMS), expected)
    assert on_gpu.device.graph is not None
    assert on_gpu.statistics.cut_contexts > 10


@pytest.mark.parametrize("numbers", ["float32", "bfloat16", "fp8"])
def test_bytes_do_not_depend_on_order_or_graph(
    numbers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, kv_dtype = ("bfloat16", numbers) if numbers == "fp8" else (numbers, None)
    on_gpu = engine(dtype=dtype, kv_dtype=kv_dtype)
    expected = bytes_of(list(on_gpu.generate(asked(), PARAMS)))
    mixed = [asked()[i] for i in (3, 0, 4, 2, 1)]
    assert bytes_of(list(on_gpu.generate(mixed, PARAMS))) == expected
    monkeypatch.setattr(DeviceRollouts, "step", DeviceRollouts.advance)
    assert bytes_of(list(on_gpu.generate(mixed, PARAMS))) == expected


def test_nothing_but_the_look_at_the_ring_waits_for_the_gpu() -> None:
    on_gpu = engine()
    first = bytes_of(list(on_gpu.generate(asked(), PARAMS)))
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert bytes_of(list(on_gpu.generate(asked(), PARAMS))) == first
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_small_models_draw_in_bfloat16_by_default() -> None:
    on_gpu = Engine(made(d_model=128).cuda(), toy_grammar())
    assert (on_gpu.dtype, on_gpu.n_slots) == ("bfloat16", 256)
    assert len(list(on_gpu.generate(prompts(3, 2), SamplingParams(max_new_tokens=20)))) == 6
