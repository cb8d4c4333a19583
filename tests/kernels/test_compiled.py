"""Every kernel and configuration, compiled ahead of time for GPUs that need not be there."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tests.kernels.pairwise import pairwise

pytest.importorskip("triton", reason="triton is not installed (extra [test])")

from chronoward.kernels.varlen_attention import BIASES, kernel, tiles
from chronoward.kernels.varlen_attention.layout import Layout, TimeBias
from tests.kernels.ahead_of_time import SHARED_BYTES, Compiled, compile_launch
from torch import Tensor

N_TOKENS = 131_072
FACTORS: dict[str, tuple[Any, ...]] = {
    "architecture": ("sm_90", "sm_80"),
    "d_head": tiles.HEAD_DIMS,
    "dtype": tiles.DTYPES,
    "bias": BIASES,
}
QUICK = pairwise(FACTORS)
ALL = [dict(zip(FACTORS, x, strict=True)) for x in itertools.product(*FACTORS.values())]


def identity(case: dict[str, Any]) -> str:
    return "-".join(str(x).removeprefix("torch.") for x in case.values())


def tensor(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def launches(
    monkeypatch: pytest.MonkeyPatch, architecture: str, *, causal: bool = True, **case: Any
) -> list[Compiled]:
    """What one forward and one backward pass would launch, compiled."""
    made: list[Compiled] = []

    def launch(
        function: Any, _programs: int, tile: tiles.Tile | None, *arguments: Any, **constants: Any
    ) -> None:
        options = {} if tile is None else {"num_warps": tile.warps, "num_stages": tile.stages}
        compiled = compile_launch(function, architecture, arguments, constants | options)
        if compiled.name not in {x.name for x in made}:
            made.append(compiled)

    monkeypatch.setattr(kernel, "_launch", launch)
    monkeypatch.setattr(tiles, "architecture", lambda _device: architecture)
    q = tensor(N_TOKENS, 12, case["d_head"], dtype=case["dtype"])
    k, v = (tensor(N_TOKENS, 4, case["d_head"], dtype=case["dtype"]) for _ in range(2))
    times = tensor(N_TOKENS, dtype=torch.int32)
    layout = Layout(times, tensor(4097, dtype=torch.int32), None if causal else times)
    parameters = (tensor(12, dtype=torch.float32) for _ in range(2))
    bias = TimeBias(case["bias"], *parameters)
    saved = kernel.forward(q, k, v, layout, bias)
    kernel.backward(tensor(*q.shape, dtype=q.dtype), q, k, v, saved, layout, bias)
    return made


def check(monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]) -> None:
    made = launches(monkeypatch, **case)
    names = [x.name.removeprefix("varlen_attention_").removesuffix("_kernel") for x in made]
    assert names == ["bounds", "fwd", "dq", "dkdv"]
    for compiled in made:
        assert compiled.stack_bytes == 0, compiled.name
        assert compiled.shared_bytes <= SHARED_BYTES[case["architecture"]], compiled.name
        assert compiled.count("LDL") == compiled.count("STL") == 0, compiled.name
    # fp32 tiles are small, and not meant for the warp-group products of Hopper
    is_wide = case["architecture"] == "sm_90" and case["dtype"] != torch.float32
    for compiled in made[1:]:
        n_products = compiled.count("HGMMA") + (0 if is_wide else compiled.count("HMMA"))
        assert n_products > 0, compiled.name
        if case["bias"] == "log":
            assert compiled.count("MUFU.LG2") > 0, compiled.name


@pytest.mark.parametrize("case", QUICK, ids=identity)
def test_kernels_compile_without_spills_inside_shared_memory_on_tensor_cores(
    monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]
) -> None:
    check(monkeypatch, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=identity)
def test_all_kernels_compile_without_spills_inside_shared_memory_on_tensor_cores(
    monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]
) -> None:
    check(monkeypatch, case)


@pytest.mark.parametrize("architecture", ["sm_90", "sm_80"])
def test_the_kernel_of_bounds_compiles_with_kv_end(
    monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    case = {"d_head": 64, "dtype": torch.bfloat16, "bias": "linear"}
    bounds = launches(monkeypatch, architecture, causal=False, **case)[0]
    assert bounds.name == "varlen_attention_bounds_kernel"
    assert bounds.stack_bytes == 0


def test_the_sm_80_tiles_fit_the_shared_memory_of_consumer_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = {"d_head": 128, "dtype": torch.float32, "bias": "log"}
    made = launches(monkeypatch, "sm_80", **case)
    assert max(x.shared_bytes for x in made) <= 101_376
