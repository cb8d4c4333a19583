"""The kernels on a GPU: what the interpreter cannot show (bf16, fast logarithms, graphs, size)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from chronoward.kernels.varlen_attention import BIASES, choose_backend, tiles, varlen_attention
from chronoward.kernels.varlen_attention.reference import varlen_attention_reference
from tests.kernels.packed_inputs import (
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

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

ROWS: dict[str, tuple[list[int], int]] = {
    "short": ([0, 1, 2, 5, 5, 18], 0),
    "one-long-many-short": ([0, 700, 701, 708, 740, 803], 0),
    "even": ([0, 128, 256, 384], 0),
    "outside-both-ends": ([3, 190, 301], 70),
    "all-padding": ([0, 0, 0], 100),
}
FACTORS: dict[str, tuple[Any, ...]] = {
    "row": tuple(ROWS),
    "d_head": tiles.HEAD_DIMS,
    "bias": BIASES,
    "dtype": tiles.DTYPES,
    "causal": (True, False),
    "times": ("steps", "equal", "apart"),
    "heads": ((2, 2), (4, 1), (6, 2)),
}
_LONG = ("d_head", "bias", "dtype")
CASES = pairwise(FACTORS) + [
    dict(zip(_LONG, values, strict=True))
    | {"row": "one-long-many-short", "causal": True, "times": "steps", "heads": (6, 2)}
    for values in itertools.product(*(FACTORS[name] for name in _LONG))
]


def on_gpu(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.cuda() for name, x in inputs.items()}


def identity(case: dict[str, Any]) -> str:
    return "-".join(str(x).removeprefix("torch.") for x in case.values())


@pytest.fixture(autouse=True)
def exact_products() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("case", CASES, ids=identity)
def test_errors_are_at_most_twice_those_of_plain_torch(case: dict[str, Any]) -> None:
    bounds, tail = ROWS[case["row"]]
    shape = {name: case[name] for name in ("heads", "d_head", "times", "dtype")}
    inputs = on_gpu(make_inputs(bounds, tail=tail, **shape))
    kv_end = None if case["causal"] else visit_ends(bounds, bounds[-1] + tail).cuda()
    options = {"bias": case["bias"], "kv_end": kv_end}
    mine = outputs_and_gradients(inputs, backend="triton", **options)
    plain = outputs_and_gradients(inputs, backend="plain", **options)
    exact = outputs_and_gradients(inputs, backend="reference", dtype=torch.float64, **options)
    terms = None if case["bias"] == "none" else sizes_of_terms(inputs, **options)
    assert_no_worse_than_twice_plain_torch(mine, plain, exact, terms)


@pytest.mark.parametrize("dtype", tiles.DTYPES)
def test_two_runs_give_the_same_bytes(dtype: torch.dtype) -> None:
    bounds = [*range(0, 8193, 128), 9000]
    inputs = on_gpu(make_inputs(bounds, heads=(6, 2), d_head=64, dtype=dtype))
    first, second = (outputs_and_gradients(inputs, backend="triton", bias="log") for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_triton_is_the_choice_on_a_gpu_where_it_can_be() -> None:
    x = torch.empty(1, 1, 64, device="cuda")
    assert choose_backend(x) == "triton"
    assert choose_backend(x.double()) == "reference"
    assert choose_backend(x[..., :48]) == "reference"


def test_a_projections_slices_and_other_strides_are_read_in_place() -> None:
    bounds = [0, 70, 200]
    inputs = on_gpu(make_inputs(bounds, heads=(4, 2), d_head=64, dtype=torch.bfloat16))
    whole = torch.cat([inputs[name] for name in ("q", "k", "v")], dim=1)
    strided = dict(inputs)
    strided["q"], strided["k"], strided["v"] = whole.split([4, 2, 2], dim=1)
    results = [outputs_and_gradients(x, backend="triton", bias="log") for x in (inputs, strided)]
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


def test_compiled_without_a_break_and_captured_in_a_graph_it_gives_the_same_bytes() -> None:
    inputs = on_gpu(make_inputs([0, 70, 200], heads=(4, 2), d_head=64, dtype=torch.bfloat16))
    leaves = [inputs[name].requires_grad_() for name in DIFFERENTIABLE]
    layout = inputs["time_min"], inputs["cu_seqlens"]

    def attend(q: Tensor, k: Tensor, v: Tensor, a: Tensor, tau: Tensor) -> Tensor:
        return varlen_attention(q, k, v, *layout, bias="log", a=a, tau=tau)

    d_out = torch.randn_like(leaves[0])
    eager = torch.autograd.grad(attend(*leaves), leaves, d_out)
    compiled = torch.autograd.grad(torch.compile(attend, fullgraph=True)(*leaves), leaves, d_out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = torch.autograd.grad(attend(*leaves), leaves, d_out)
    graph.replay()
    torch.cuda.synchronize()
    for x, y, z in zip(eager, compiled, captured, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(x, z)


@pytest.mark.parametrize("backend", ["flash", "flex"])
@pytest.mark.parametrize("bias", BIASES)
def test_flash_and_flex_say_what_the_reference_says(backend: str, bias: str) -> None:
    if backend == "flash" and bias != "none":
        pytest.skip("flash attention has no bias")
    inputs = on_gpu(make_inputs([0, 1, 130, 250], tail=6, heads=(4, 2), d_head=64))
    names = ("q", "k", "v", "time_min", "cu_seqlens")
    low = [inputs[n].bfloat16() if n in "qkv" else inputs[n] for n in names]
    exact = [x.double() if x.is_floating_point() else x for x in low]
    options = {"bias": bias, "a": inputs["a"], "tau": inputs["tau"]}
    outputs = []
    for values, name in ((low, backend), (exact, "reference")):
        q, k, v = (x.requires_grad_() for x in values[:3])
        out = varlen_attention(q, k, v, *values[3:], backend=name, **options)
        outputs.append([out, *torch.autograd.grad(out.double().sin().sum(), (q, k, v))])
    for x, y in zip(*outputs, strict=True):
        assert error(x, y) <= 0.02 * float(y.norm())  # bf16 has 8 bits


def test_offsets_beyond_int32_are_reached_forward_and_backward() -> None:
    n_heads, d_head, n_last = 16, 128, 300
    n_tokens = 2**31 // (n_heads * d_head) + 4096
    shape = (n_tokens, n_heads, d_head)
    q, k, v, d_out = (torch.zeros(shape, dtype=torch.bfloat16, device="cuda") for _ in range(4))
    inputs = on_gpu(make_inputs([0, n_last], heads=(n_heads, n_heads), d_head=d_head))
    for x, name in ((q, "q"), (k, "k"), (v, "v"), (d_out, "q")):
        x[-n_last:] = inputs[name].bfloat16()
    times = torch.zeros(n_tokens, dtype=torch.int32, device="cuda")
    times[-n_last:] = inputs["time_min"]
    bounds = torch.arange(0, n_tokens - n_last, 1024, device="cuda", dtype=torch.int32)
    bounds = torch.cat([bounds, bounds.new_tensor([n_tokens - n_last, n_tokens])])
    options = {"bias": "linear", "a": inputs["a"], "tau": inputs["tau"]}
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = varlen_attention(*leaves, times, bounds, backend="triton", **options)
    far = [out.detach(), *torch.autograd.grad(out, leaves, d_out)]
    last = [x[-n_last:].detach().float().requires_grad_() for x in leaves]
    ends = torch.arange(1, n_last + 1, device="cuda", dtype=torch.int32)
    exact = varlen_attention_reference(
        *last,
        inputs["time_min"],
        inputs["cu_seqlens"],
        ends,
        options["a"],
        options["tau"],
        "linear",
    )
    near = [exact.detach(), *torch.autograd.grad(exact, last, d_out[-n_last:].float())]
    for x, y in zip(far, near, strict=True):
        assert error(x[-n_last:], y) <= 0.02 * float(y.norm())
