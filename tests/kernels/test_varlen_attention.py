from __future__ import annotations

import itertools

import pytest
import torch
from chronoward.kernels.varlen_attention import BIASES, choose_backend, varlen_attention
from torch import Tensor

ATOL = 1e-6  # floor of the tolerance, for gradients that are nearly zero

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


def make_inputs(
    bounds: list[int], *, tail: int = 0, heads: tuple[int, int] = (4, 2), dtype=torch.float32
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(bounds) + bounds[-1])
    n_tokens = bounds[-1] + tail
    n_heads, n_kv = heads

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    # late in life: fp32 minutes since birth would be wrong by whole minutes here
    steps = torch.randint(0, 3000, (n_tokens,), generator=generator).cumsum(0)
    return {
        "q": draw(n_tokens, n_heads, 12),
        "k": draw(n_tokens, n_kv, 12),
        "v": draw(n_tokens, n_kv, 12),
        "time_min": (40_000_000 + steps).to(torch.int32),
        "cu_seqlens": torch.tensor(bounds, dtype=torch.int32),
        "a": draw(n_heads).abs(),
        "tau": 60 + 5000 * draw(n_heads).abs(),
    }


def visit_ends(bounds: list[int], n_tokens: int) -> Tensor:
    """kv_end that opens blocks of seven tokens to each other, as a visit does: the fast path's
    blocks and parts, multiples of four queries, end inside some of them."""
    ends = torch.arange(1, n_tokens + 1, dtype=torch.int32)
    for first, last in itertools.pairwise(bounds):
        for i in range(first, last):
            ends[i] = min(last, first + 7 * ((i - first) // 7 + 1))
    return ends


def run(inputs: dict[str, Tensor], *, backend: str, dtype=None, **options) -> list[Tensor]:
    """Output and gradients of q, k, v and the bias parameters."""
    dtype = dtype or inputs["q"].dtype
    leaves = {
        name: inputs[name].to(dtype).detach().requires_grad_()
        for name in ("q", "k", "v", "a", "tau")
    }
    out = varlen_attention(
        leaves["q"],
        leaves["k"],
        leaves["v"],
        inputs["time_min"],
        inputs["cu_seqlens"],
        a=leaves["a"],
        tau=leaves["tau"],
        backend=backend,
        **options,
    )
    weight = torch.sin(torch.arange(out.numel(), dtype=torch.float64)).view_as(out)
    used = list(leaves.values()) if options["bias"] != "none" else list(leaves.values())[:3]
    gradients = torch.autograd.grad((out.double() * weight).sum(), used)
    return [out.detach(), *gradients]


def error(x: Tensor, truth: Tensor) -> float:
    return float((x.double() - truth.double()).norm())


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
    truth = run(inputs, backend="reference", dtype=torch.float64, **options)
    reference = run(inputs, backend="reference", **options)
    fast = run(inputs, backend="cpu", **options)
    for mine, theirs, exact in zip(fast, reference, truth, strict=True):
        allowed = 2 * error(theirs, exact) + ATOL * max(1.0, float(exact.norm()))
        assert torch.isfinite(mine).all()
        assert error(mine, exact) <= allowed


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
    result = run(inputs, backend=backend, bias="linear")
    assert not result[0][4:].any()
    assert all(torch.isfinite(x).all() for x in result)
    inputs["cu_seqlens"] = torch.tensor([0, 0, 0], dtype=torch.int32)
    assert not any(x.any() for x in run(inputs, backend=backend, bias="linear"))


def test_same_inputs_give_the_same_bytes_whatever_the_threads() -> None:
    inputs = make_inputs([0, 2048, 2100])  # parts enough to finish out of order
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 7) * 4:
            torch.set_num_threads(n)
            results.append(run(inputs, backend="cpu", bias="linear"))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_bf16_inputs_err_no_more_than_twice_the_reference() -> None:
    inputs = make_inputs(BOUNDS["one-long-many-short"])
    for name in ("q", "k", "v"):
        inputs[name] = inputs[name].bfloat16()
    low = {**inputs, "a": inputs["a"].float(), "tau": inputs["tau"].float()}
    mine = varlen_attention(
        *(low[n] for n in ("q", "k", "v", "time_min", "cu_seqlens")),
        bias="log",
        a=low["a"],
        tau=low["tau"],
        backend="cpu",
    )
    theirs = varlen_attention(
        *(low[n] for n in ("q", "k", "v", "time_min", "cu_seqlens")),
        bias="log",
        a=low["a"],
        tau=low["tau"],
        backend="reference",
    )
    exact = run(inputs, backend="reference", dtype=torch.float64, bias="log")[0]
    assert mine.dtype == torch.bfloat16
    assert error(mine, exact) <= 2 * error(theirs, exact) + ATOL


def test_custom_ops_pass_opcheck() -> None:
    inputs = make_inputs([0, 5, 9])
    q, k, v, a, tau = (inputs[n].requires_grad_() for n in ("q", "k", "v", "a", "tau"))
    arguments = (q, k, v, inputs["time_min"], inputs["cu_seqlens"], None, a, tau, "linear")
    torch.library.opcheck(
        torch.ops.chronoward.varlen_attention_cpu.default,
        arguments,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_wrong_arguments_are_refused() -> None:
    inputs = make_inputs([0, 5])
    q, k, v = (inputs[n] for n in ("q", "k", "v"))
    times, bounds = inputs["time_min"], inputs["cu_seqlens"]
    with pytest.raises(TypeError, match="time_min must be int32"):
        varlen_attention(q, k, v, times.float(), bounds)
    with pytest.raises(ValueError, match="needs a and tau"):
        varlen_attention(q, k, v, times, bounds, bias="log")
    with pytest.raises(ValueError, match="bias must be one of"):
        varlen_attention(q, k, v, times, bounds, bias="cubic")
    with pytest.raises(ValueError, match="backend must be one of"):
        varlen_attention(q, k, v, times, bounds, backend="triton")
    with pytest.raises(ValueError, match="multiple"):
        varlen_attention(q[:, :3], k, v, times, bounds)
    with pytest.raises(ValueError, match="one entry for each"):
        varlen_attention(q, k, v, times[:3], bounds)
