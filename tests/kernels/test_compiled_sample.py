"""The sampler's kernels, compiled ahead of time for GPUs that need not be there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed (extra [test])")

from chronoward.kernels.sample import Column, Rule, Tables, kernel
from tests.kernels.ahead_of_time import SHARED_BYTES, Compiled, compile_launch
from torch import Tensor

N_ROWS, VOCAB, N_STATES, N_MOVING, N_SETS = 256, 30_000, 24, 60, 16
PLAIN = Rule(1.0, 0, 1.0, 0.0, 1024, 120 * 366 * 1440, True)
CUT = PLAIN._replace(temperature=0.7, top_k=50, top_p=0.9, min_p=0.01)


def tensor(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def tables() -> Tables:
    n_words = -(-VOCAB // 32)
    return Tables(
        token_class=tensor(VOCAB),
        token_sex=tensor(VOCAB),
        next_state=tensor(N_STATES, 21),
        state_words=tensor(N_STATES, n_words),
        sex_words=tensor(3, n_words),
        code_words=tensor(n_words),
        limits=tensor(3, n_words),
        moving=tensor(N_MOVING),
        moving_index=tensor(VOCAB),
        rule=tensor(N_MOVING),
        duration=tensor(N_MOVING, 33),
        set_words=tensor(N_SETS, n_words),
        set_tokens=tensor(320),
        set_offsets=tensor(N_SETS + 1),
    )


def launches(monkeypatch: pytest.MonkeyPatch, architecture: str, rule: Rule) -> list[Compiled]:
    made: list[Compiled] = []

    def launch(function: Any, _programs: int, *arguments: Any, **constants: Any) -> None:
        made.append(compile_launch(function, architecture, arguments, constants))

    monkeypatch.setattr(kernel, "_launch", launch)
    slots, keys = tensor(N_ROWS, len(Column)), tensor(N_ROWS, 2, dtype=torch.int64)
    kernel.sample(tensor(N_ROWS, VOCAB, dtype=torch.float32), slots, keys, tables(), rule)
    return made


def check(monkeypatch: pytest.MonkeyPatch, architecture: str, rule: Rule) -> None:
    made = launches(monkeypatch, architecture, rule)
    names = [x.name.removeprefix("sample_").removesuffix("_kernel") for x in made]
    assert names == ["legal", "draw", "outcomes"]
    for compiled in made:
        assert compiled.stack_bytes == 0, compiled.name
        assert compiled.shared_bytes <= SHARED_BYTES[architecture], compiled.name


def test_the_kernels_compile_without_spills(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, "sm_90", PLAIN)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [PLAIN, CUT], ids=["plain", "cut"])
@pytest.mark.parametrize("architecture", ["sm_90", "sm_80"])
def test_all_kernels_compile_without_spills(
    monkeypatch: pytest.MonkeyPatch, architecture: str, rule: Rule
) -> None:
    check(monkeypatch, architecture, rule)
