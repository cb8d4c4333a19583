"""Decode attention and the sampler on a GPU: bf16, graphs, the same draws."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from chronoward.kernels.decode_attention import (
    Pages,
    Rows,
    choose_paged_backend,
    paged_attention,
    tiles,
)
from chronoward.kernels.decode_attention.paged import BIASES
from chronoward.kernels.decode_attention.pages import FP8
from chronoward.kernels.sample import Tables, sample
from tests.engine.toy import LONG_GAP
from tests.kernels.packed_inputs import ATOL, error
from tests.kernels.paged_inputs import Decoding, make_decoding, oracle, plain
from tests.kernels.sampling import CASES, toy_both
from torch import Tensor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

OWN, PREFIX, PREFIXES = [3, 700, 64, 0, 1, 257], [0, 0, 1, 1, -1, 0], [300, 65]
FACTORS: dict[str, tuple[Any, ...]] = {
    "d_head": tiles.HEAD_DIMS,
    "dtype": tiles.DTYPES,
    "bias": BIASES,
    "fp8": (False, True),
}
ALL = [dict(zip(FACTORS, x, strict=True)) for x in itertools.product(*FACTORS.values())]


def on_gpu(case: Decoding) -> Decoding:
    case.pages, case.rows = Pages(*(x.cuda() for x in case.pages)), Rows(*map(cuda, case.rows))
    case.q, case.a, case.tau = case.q.cuda(), case.a.cuda(), case.tau.cuda()
    return case


def cuda(x: Tensor) -> Tensor:
    return x.cuda()


def attend(case: Decoding, bias: str, backend: str | None = None) -> Tensor:
    options = {"bias": bias, "a": case.a, "tau": case.tau, "backend": backend}
    return paged_attention(case.q, case.pages, case.rows, **options)


def identity(case: dict[str, Any]) -> str:
    return "-".join(str(x).removeprefix("torch.") for x in case.values())


@pytest.mark.parametrize("case", ALL, ids=identity)
def test_errors_are_at_most_twice_those_of_plain_torch(case: dict[str, Any]) -> None:
    bias = case["bias"]
    inputs = make_decoding(
        OWN, PREFIX, PREFIXES, heads=(6, 2), d_head=case["d_head"], page_tokens=64,
        dtype=case["dtype"], stored=FP8 if case["fp8"] else None, strides="projection",
    )  # fmt: skip
    truth = oracle(inputs, bias)
    low = attend(inputs, bias, "reference") if case["fp8"] else plain(inputs, bias)
    mine = attend(on_gpu(inputs), bias).cpu()
    assert torch.isfinite(mine).all()
    floor = ATOL * max(truth.numel() ** 0.5, float(truth.norm()))
    assert error(mine, truth) <= 2 * error(low, truth) + floor


def test_triton_is_the_choice_on_a_gpu_where_it_can_be() -> None:
    x = torch.empty(1, 1, 64, device="cuda")
    assert choose_paged_backend(x) == "triton"
    assert choose_paged_backend(x.double()) == "reference"


def test_captured_in_a_graph_it_gives_the_same_bytes() -> None:
    case = on_gpu(make_decoding(OWN, PREFIX, PREFIXES, page_tokens=64, dtype=torch.bfloat16))
    eager = attend(case, "log")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = attend(case, "log")
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(eager, captured)


@pytest.mark.parametrize("case", CASES)
def test_the_sampler_draws_what_the_core_draws(case: str) -> None:
    both = toy_both(case, 64)
    slots, keys = both.slots.cuda(), both.keys.cuda()
    tables = Tables(*(x.cuda() for x in both.tables))
    draw = np.random.default_rng(3)
    for _ in range(15):
        shape = (64, len(both.tables.token_class))
        logits = torch.from_numpy(draw.normal(size=shape).astype(np.float32))
        logits[:, LONG_GAP] += 2
        if len(both.running()) == 0:
            break
        core = both.core_step(logits)
        draws = sample(logits.cuda(), slots, keys, tables, both.rule)
        both.slots.copy_(slots)
        both.assert_same(type(draws)(*(x.cpu() for x in draws)), core)
