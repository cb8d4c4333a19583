"""The Triton kernels in the interpreter: outputs and every gradient against fp64.

fp32 and fp16 only: the interpreter keeps bf16 as bits and multiplies those.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from chronoward.kernels.varlen_attention import BIASES, kernel, varlen_attention
from chronoward.kernels.varlen_attention.layout import Layout
from tests.kernels.packed_inputs import (
    ATOL,
    DIFFERENTIABLE,
    assert_no_worse_than_twice_plain_torch,
    error,
    make_inputs,
    outputs_and_gradients,
    sizes_of_terms,
    visit_ends,
)
from tests.kernels.pairwise import pairwise
from torch import Tensor

# name -> bounds, tokens outside of all segments after them
ROWS: dict[str, tuple[list[int], int]] = {
    "length-1": ([0, 1, 2, 3], 0),
    "single": ([0, 37], 0),
    "one-long-many-short": ([0, 66, 67, 71, 80], 0),
    "empty-segments": ([0, 0, 5, 5, 5, 23, 23], 0),
    "padded-bounds": ([0, 17, 40, 40, 40, 40], 0),
    "outside-both-ends": ([3, 19, 21], 15),
    "all-padding": ([0, 0, 0], 21),
}
FACTORS: dict[str, tuple[Any, ...]] = {
    "row": tuple(ROWS),
    "d_head": (32, 64, 128),
    "bias": BIASES,
    "dtype": (torch.float32, torch.float16),
    "causal": (True, False),
    "times": ("steps", "equal", "apart"),
    "heads": ((1, 1), (2, 1), (2, 2)),
    "strides": ("contiguous", "projection", "last-dimension"),
}
QUICK = pairwise(FACTORS)
_CROSSED = ("row", "d_head", "bias", "dtype", "causal")
ALL = [
    dict(zip(_CROSSED, values, strict=True))
    | {name: FACTORS[name][i % 3] for name, i in (("times", n), ("heads", n // 3), ("strides", n))}
    for n, values in enumerate(itertools.product(*(FACTORS[name] for name in _CROSSED)))
]


def identity(case: dict[str, Any]) -> str:
    return "-".join(str(x).removeprefix("torch.") for x in case.values())


def with_strides(inputs: dict[str, Tensor], strides: str) -> dict[str, Tensor]:
    """The same values, q, k and v as parts of one projection or with D not the last in memory."""
    q, k, v = (inputs[name] for name in ("q", "k", "v"))
    if strides == "projection":
        sizes = [q.shape[1], k.shape[1], k.shape[1]]
        q, k, v = torch.cat([q, k, v], dim=1).split(sizes, dim=1)
    elif strides == "last-dimension":
        q, k, v = (x.permute(2, 1, 0).contiguous().permute(2, 1, 0) for x in (q, k, v))
    return {**inputs, "q": q, "k": k, "v": v}


def check(case: dict[str, Any]) -> None:
    bounds, tail = ROWS[case["row"]]
    inputs = make_inputs(
        bounds,
        tail=tail,
        heads=case["heads"],
        d_head=case["d_head"],
        times=case["times"],
        dtype=case["dtype"],
    )
    kv_end = None if case["causal"] else visit_ends(bounds, bounds[-1] + tail)
    options = {"bias": case["bias"], "kv_end": kv_end}
    mine = outputs_and_gradients(with_strides(inputs, case["strides"]), backend="triton", **options)
    plain = outputs_and_gradients(inputs, backend="plain", **options)
    exact = outputs_and_gradients(inputs, backend="reference", dtype=torch.float64, **options)
    terms = None if case["bias"] == "none" else sizes_of_terms(inputs, **options)
    assert_no_worse_than_twice_plain_torch(mine, plain, exact, terms)


@pytest.mark.parametrize("case", QUICK, ids=identity)
def test_errors_are_at_most_twice_those_of_plain_torch(case: dict[str, Any]) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=identity)
def test_errors_are_at_most_twice_those_of_plain_torch_everywhere(case: dict[str, Any]) -> None:
    check(case)


def test_the_pairwise_rows_hold_every_pair_of_values() -> None:
    for a, b in itertools.combinations(FACTORS, 2):
        found = {(row[a], row[b]) for row in QUICK}
        assert found == set(itertools.product(FACTORS[a], FACTORS[b]))


def test_two_runs_give_the_same_bytes() -> None:
    inputs = make_inputs([0, 30, 41], heads=(2, 1), d_head=32)
    first, second = (outputs_and_gradients(inputs, backend="triton", bias="log") for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_neighbors_do_not_change_a_byte_of_a_subject() -> None:
    bounds = [0, 13, 45, 60]
    inputs = make_inputs(bounds, heads=(2, 1), d_head=32)
    other = {name: x.clone() for name, x in inputs.items()}
    outside = [*range(13), *range(45, 60)]
    for name in ("q", "k", "v"):
        other[name][outside] = 30 * other[name][outside].flip(0) + 1
    other["time_min"][outside] //= 3
    results = [outputs_and_gradients(x, backend="triton", bias="log")[:4] for x in (inputs, other)]
    for x, y in zip(*results, strict=True):
        assert torch.equal(x[13:45], y[13:45])
        assert not torch.equal(x, y)


def test_a_packed_row_says_what_its_segments_say_alone() -> None:
    bounds = [0, 13, 45, 60]
    inputs = make_inputs(bounds, heads=(2, 1), d_head=32)
    packed = outputs_and_gradients(inputs, backend="triton", bias="linear")[0]
    for first, last in itertools.pairwise(bounds):
        alone = {
            name: x[first:last] if name in ("q", "k", "v", "time_min") else x
            for name, x in inputs.items()
        }
        alone["cu_seqlens"] = torch.tensor([0, last - first], dtype=torch.int32)
        single = outputs_and_gradients(alone, backend="triton", bias="linear")[0]
        assert error(packed[first:last], single) <= ATOL * float(single.norm())


def test_permuted_segments_give_permuted_outputs() -> None:
    lengths, order = [13, 32, 15], [2, 0, 1]
    inputs = make_inputs([0, 13, 45, 60], heads=(2, 1), d_head=32)
    places = torch.arange(60).split(lengths)
    moved = torch.cat([places[i] for i in order])
    permuted = {
        name: x[moved] if name in ("q", "k", "v", "time_min") else x for name, x in inputs.items()
    }
    permuted["cu_seqlens"] = torch.tensor([0, 15, 28, 60], dtype=torch.int32)
    names = ("q", "k", "v", "time_min", "cu_seqlens")
    options = {"bias": "log", "a": inputs["a"], "tau": inputs["tau"], "backend": "triton"}
    x, y = (varlen_attention(*(i[n] for n in names), **options) for i in (inputs, permuted))
    assert error(x[moved], y) <= ATOL * float(x.norm())


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "visits"])
def test_gradients_reach_only_visible_keys_of_the_own_segment(causal: bool) -> None:
    bounds, n_tokens = [0, 6, 7, 38], 40
    inputs = make_inputs(bounds, tail=2, heads=(1, 1), d_head=32)
    kv_end = None if causal else visit_ends(bounds, n_tokens)
    ends = torch.arange(1, n_tokens + 1) if kv_end is None else kv_end
    inputs["a"] *= 1e-3
    for i in (5, 7, 31, 32, 39):
        q, k, v, a, tau = (inputs[name] for name in DIFFERENTIABLE)
        v = v.requires_grad_()
        layout = inputs["time_min"], inputs["cu_seqlens"]
        options = {"kv_end": kv_end, "bias": "linear", "a": a, "tau": tau, "backend": "triton"}
        (gradient,) = torch.autograd.grad(varlen_attention(q, k, v, *layout, **options)[i].sum(), v)
        expected = torch.zeros(n_tokens, dtype=torch.bool)
        if i < bounds[-1]:
            expected[max(b for b in bounds if b <= i) : int(ends[i])] = True
        assert torch.equal(gradient.abs().sum(dim=(1, 2)) > 0, expected)


def test_offsets_beyond_int32_are_reached() -> None:
    stride = 2**26  # 40 tokens: 2.7e9 elements from the first to the last
    torch.utils.deterministic.fill_uninitialized_memory = False  # few of the pages are ever touched
    memory = torch.empty(40 * stride + 4096, dtype=torch.float16)
    torch.utils.deterministic.fill_uninitialized_memory = True
    inputs = make_inputs([0, 7, 40], heads=(2, 1), d_head=32, dtype=torch.float16)
    far = dict(inputs)
    for n, name in enumerate(("q", "k", "v")):
        shape = inputs[name].shape
        far[name] = memory.as_strided(shape, (stride, 32, 1), 128 * n)
        far[name].copy_(inputs[name])
    near = outputs_and_gradients(inputs, backend="triton", bias="linear")
    reached = outputs_and_gradients(far, backend="triton", bias="linear")
    assert all(torch.equal(x, y) for x, y in zip(near, reached, strict=True))


def test_faulty_bounds_never_lead_outside_of_the_inputs() -> None:
    times = torch.zeros(9, dtype=torch.int32)
    for bounds in ([0, 5, 400], [-7, 5, 9], [9, 5, 0]):
        layout = Layout(times, torch.tensor(bounds, dtype=torch.int32), times - 500)
        found = kernel._bounds(layout)
        assert int(found.min()) >= 0
        assert int(found.max()) <= 9


def test_the_operator_passes_opcheck_and_compiles_without_a_break() -> None:
    torch.use_deterministic_algorithms(False)  # opcheck compares memory nobody has written
    inputs = make_inputs([0, 5, 9], heads=(2, 1), d_head=32)
    q, k, v, a, tau = (inputs[name].requires_grad_() for name in DIFFERENTIABLE)
    layout = inputs["time_min"], inputs["cu_seqlens"]
    torch.library.opcheck(
        torch.ops.chronoward.varlen_attention_triton.default,
        (q, k, v, *layout, None, a, tau, "log"),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )

    def attend(q: Tensor) -> Tensor:
        options = {"bias": "log", "a": a, "tau": tau, "backend": "triton"}
        return varlen_attention(q, k, v, *layout, **options).square().sum()

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    leaves = (q, k, v, a, tau)
    graph, eager = (torch.autograd.grad(f(q), leaves) for f in (compiled, attend))
    assert all(torch.equal(x, y) for x, y in zip(graph, eager, strict=True))
