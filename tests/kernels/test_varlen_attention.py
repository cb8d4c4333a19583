from __future__ import annotations

import pytest
import torch
from chronoward.kernels.varlen_attention import BIASES, choose_backend, varlen_attention
from tests.kernels.packed_inputs import (
    assert_no_worse_than_twice_plain_torch,
    make_inputs,
    outputs_and_gradients,
    sizes_of_terms,
    visit_ends,
)
from torch import Tensor

# bounds of the segments; the second segment of `split` is long enough for three tasks with each key
# head (kPartRows in packed_attention.cpp)
BOUNDS = {
    "split": [0, 5, 805, 840],
    "one-long-many-short": [0, 300, 301, 307, 307, 320, 333, 340],
    "single": [0, 37],
    "length-1": [0, 1, 2, 3],
    "empty-segments": [0, 0, 5, 5, 5, 18, 18],
    "tail-outside": [0, 11, 20],
}


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "visits"])
@pytest.mark.parametrize("name", BOUNDS)
def test_cpu_errs_no_more_than_twice_the_reference(name: str, causal: bool, bias: str) -> None:
    bounds = BOUNDS[name]
    tail = 3 if name == "tail-outside" else 0
    inputs = make_inputs(bounds, tail=tail)
    options = {
        "bias": bias,
        "kv_end": None if causal else visit_ends(bounds, bounds[-1] + tail),
    }
    truth = outputs_and_gradients(inputs, backend="reference", dtype=torch.float64, **options)
    reference = outputs_and_gradients(inputs, backend="reference", **options)
    fast = outputs_and_gradients(inputs, backend="cpu", **options)
    terms = None if bias == "none" else sizes_of_terms(inputs, **options)
    assert_no_worse_than_twice_plain_torch(fast, reference, truth, terms)


def test_fp64_goes_to_the_reference() -> None:
    assert choose_backend(torch.zeros(1, dtype=torch.float64)) == "reference"
    assert choose_backend(torch.zeros(1)) == "cpu"


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "visits"])
def test_gradients_reach_only_visible_keys_of_the_own_segment(causal: bool, backend: str) -> None:
    bounds = [0, 6, 7, 16]
    inputs = make_inputs(bounds, heads=(1, 1))
    kv_end = None if causal else visit_ends(bounds, 16)
    ends = torch.arange(1, 17) if kv_end is None else kv_end
    v = inputs["v"].requires_grad_()
    out = varlen_attention(
        inputs["q"],
        inputs["k"],
        v,
        inputs["time_min"],
        inputs["cu_seqlens"],
        kv_end=kv_end,
        bias="linear",
        a=inputs["a"][:1] * 1e-3,
        tau=inputs["tau"][:1],
        backend=backend,
    )
    starts = [max(b for b in bounds if b <= i) for i in range(16)]
    for i in range(16):
        (gradient,) = torch.autograd.grad(out[i].sum(), v, retain_graph=True)
        reached = gradient.abs().sum(dim=(1, 2)) > 0
        expected = torch.zeros(16, dtype=torch.bool)
        expected[starts[i] : int(ends[i])] = True
        assert torch.equal(reached, expected)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_tokens_outside_segments_and_rows_without_segments_give_zero(backend: str) -> None:
    inputs = make_inputs([0, 4], tail=5)
    result = outputs_and_gradients(inputs, backend=backend, bias="linear")
    assert not result[0][4:].any()
    assert all(torch.isfinite(x).all() for x in result)
    inputs["cu_seqlens"] = torch.tensor([0, 0, 0], dtype=torch.int32)
    assert not any(x.any() for x in outputs_and_gradients(inputs, backend=backend, bias="linear"))


def test_same_inputs_give_the_same_bytes_whatever_the_threads() -> None:
    inputs = make_inputs([0, 2048, 2100])  # parts enough to finish out of order
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 7) * 4:
            torch.set_num_threads(n)
            results.append(outputs_and_gradients(inputs, backend="cpu", bias="linear"))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "visits"])
@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("d_head", [12, 32, 48])
def test_bf16_errs_no_more_than_twice_plain_torch(
    name: str, causal: bool, bias: str, d_head: int
) -> None:
    """Products by the units for bf16 where there are any: outputs and every gradient."""
    bounds = BOUNDS[name]
    tail = 3 if name == "tail-outside" else 0
    inputs = make_inputs(bounds, tail=tail, d_head=d_head, dtype=torch.bfloat16)
    ends = None if causal else visit_ends(bounds, bounds[-1] + tail)
    truth = outputs_and_gradients(
        inputs, backend="reference", dtype=torch.float64, bias=bias, kv_end=ends
    )
    plain = outputs_and_gradients(inputs, backend="plain", bias=bias, kv_end=ends)
    fast = outputs_and_gradients(inputs, backend="cpu", bias=bias, kv_end=ends)
    assert fast[0].dtype == torch.bfloat16
    terms = None if bias == "none" else sizes_of_terms(inputs, bias=bias, kv_end=ends)
    assert_no_worse_than_twice_plain_torch(fast, plain, truth, terms)


def test_autocast_computes_products_of_fp32_inputs_in_bf16() -> None:
    inputs = make_inputs(BOUNDS["split"], d_head=32)
    rounded = inputs | {name: inputs[name].bfloat16() for name in ("q", "k", "v")}
    truth = outputs_and_gradients(inputs, backend="reference", dtype=torch.float64, bias="log")
    plain = outputs_and_gradients(rounded, backend="plain", bias="log")
    with torch.autocast("cpu", torch.bfloat16):
        fast = outputs_and_gradients(inputs, backend="cpu", bias="log")
    assert {x.dtype for x in fast} == {torch.float32}
    terms = sizes_of_terms(rounded, bias="log")
    assert_no_worse_than_twice_plain_torch(fast, plain, truth, terms)


def test_the_operator_passes_opcheck_and_compiles_without_a_break() -> None:
    inputs = make_inputs([0, 5, 9])
    q, k, v, a, tau = (inputs[n].requires_grad_() for n in ("q", "k", "v", "a", "tau"))
    layout = inputs["time_min"], inputs["cu_seqlens"]
    torch.library.opcheck(
        torch.ops.chronoward.varlen_attention_cpu.default,
        (q, k, v, *layout, None, a, tau, "linear"),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )

    def attend(q: Tensor) -> Tensor:
        return varlen_attention(q, k, v, *layout, bias="linear", a=a, tau=tau).square().sum()

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for x, y in zip(
        torch.autograd.grad(compiled(q), (q, k, v, a, tau)),
        torch.autograd.grad(attend(q), (q, k, v, a, tau)),
        strict=True,
    ):
        assert torch.equal(x, y)


def test_keys_left_out_for_their_distance_change_nothing() -> None:
    """A linear bias makes weights of far keys exactly zero; those keys are not computed."""
    n, heads = 700, 4
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    time_min = torch.arange(n, dtype=torch.int32) * 5_000
    bounds = torch.tensor([0, n - 50, n], dtype=torch.int32)
    given = [draw(n, heads, 16), draw(n, 2, 16), draw(n, 2, 16)]
    given += [torch.tensor([5.0, 1.0, 0.2, 0.0]).double(), torch.full((heads,), 1440.0).double()]
    pull, results = draw(n, heads, 16), []
    for backend, dtype in (("reference", torch.float64), ("cpu", torch.float32)):
        q, k, v, a, tau = (x.to(dtype).requires_grad_() for x in given)
        options = {"bias": "linear", "a": a, "tau": tau, "backend": backend}
        out = varlen_attention(q, k, v, time_min, bounds, **options)
        results.append([out.detach(), *torch.autograd.grad(out, (q, k, v, a, tau), pull.to(dtype))])
    for truth, fast in zip(*results, strict=True):
        assert float((truth - fast.double()).norm() / truth.norm()) < 2e-6
