"""The kernels of decode attention, compiled ahead of time for GPUs that need not be there."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tests.kernels.pairwise import pairwise

pytest.importorskip("triton", reason="triton is not installed (extra [test])")

from chronoward.kernels.decode_attention import Pages, Rows, kernel, tiles
from chronoward.kernels.decode_attention.paged import BIASES
from chronoward.kernels.decode_attention.pages import FP8, PAGE_TOKENS
from tests.kernels.ahead_of_time import (
    CONSUMER_SHARED_BYTES,
    SHARED_BYTES,
    Compiled,
    compile_launch,
)
from torch import Tensor

N_ROWS, N_PAGES = 256, 8192
FACTORS: dict[str, tuple[Any, ...]] = {
    "architecture": ("sm_90", "sm_80"),
    "d_head": tiles.HEAD_DIMS,
    "dtype": tiles.DTYPES,
    "bias": BIASES,
    "fp8": (False, True),
    "page_tokens": PAGE_TOKENS,
    "group": (1, 3, 8),
}
_ENTRY = ("architecture", "d_head", "dtype", "fp8")
# what the base model runs with, then every entry of the table, then every pair of values
QUICK = [
    {
        "architecture": "sm_90", "d_head": 64, "dtype": torch.bfloat16, "bias": "log", "fp8": True,
        "page_tokens": 64, "group": 3,
    }
]  # fmt: skip
ALL = [
    dict(zip(_ENTRY, x, strict=True)) | {"bias": "log", "page_tokens": 64, "group": 8}
    for x in itertools.product(*(FACTORS[name] for name in _ENTRY))
] + pairwise(FACTORS)


def identity(case: dict[str, Any]) -> str:
    return "-".join(str(x).removeprefix("torch.") for x in case.values())


def tensor(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def launches(
    monkeypatch: pytest.MonkeyPatch, architecture: str, **case: Any
) -> dict[str, Compiled]:
    """What one layer of one step would launch, compiled, by name."""
    made: dict[str, Compiled] = {}

    def launch(
        function: Any, _programs: int, tile: tiles.Tile | None, *arguments: Any, **constants: Any
    ) -> None:
        options = {} if tile is None else {"num_warps": tile.warps, "num_stages": tile.stages}
        compiled = compile_launch(function, architecture, arguments, constants | options)
        name = compiled.name.removeprefix("decode_attention_").removesuffix("_kernel")
        made[name] = compiled

    monkeypatch.setattr(kernel, "_launch", launch)
    monkeypatch.setattr(tiles, "architecture", lambda _device: architecture)
    n_kv, n_page, d_head, dtype = 4, case["page_tokens"], case["d_head"], case["dtype"]
    n_heads = n_kv * case["group"]
    stored = FP8 if case["fp8"] else dtype
    q = tensor(N_ROWS, n_heads + 2 * n_kv, d_head, dtype=dtype)[:, :n_heads]
    kv = [tensor(N_PAGES, n_kv, n_page, d_head, dtype=stored) for _ in range(2)]
    scales = [tensor(N_PAGES if case["fp8"] else 0, n_kv, n_page, dtype=torch.float32)] * 2
    pages = Pages(*kv, tensor(N_PAGES, n_page), *scales)
    one, table = tensor(N_ROWS), tensor(N_ROWS, 1024 // n_page)
    rows = Rows(one, table, one, one, table, one, one, one)
    parameters = (tensor(n_heads, dtype=torch.float32) for _ in range(2))
    kernel.attend(q, pages, rows, *parameters, case["bias"])
    k, v = (tensor(N_ROWS, n_kv, d_head, dtype=stored) for _ in range(2))
    kernel.write(k, v, pages, tensor(N_ROWS, dtype=torch.int64))
    return made


def check(monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]) -> None:
    made = launches(monkeypatch, **case)
    assert list(made) == ["prefix", "rows", "merge", "write"]
    for name, compiled in made.items():
        assert compiled.stack_bytes == 0, name
        assert compiled.count("LDL") == compiled.count("STL") == 0, name
        assert compiled.shared_bytes <= SHARED_BYTES[case["architecture"]], name
        assert compiled.shared_bytes <= CONSUMER_SHARED_BYTES or case["architecture"] != "sm_80"
    for name in ("prefix", "rows"):
        assert made[name].count("HGMMA") + made[name].count("HMMA") > 0, name
        if case["bias"] == "log":
            assert made[name].count("MUFU.LG2") > 0, name


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
