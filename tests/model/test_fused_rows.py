from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from chronoward import _core
from chronoward.model import fused_rows
from chronoward.model.blocks import RMSNormFunction, rotate

N, D, HEADS = 700, 24, (4, 2)  # more than one block of rows, a width off every register


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_gated_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    gate, up = x.chunk(2, dim=-1)
    return (functional.silu(gate) * up) @ weight.T


def slow_heads(projected, weights, angles):
    rows = projected.view(N, -1, D)
    q, k, v = rows.split([HEADS[0], HEADS[1], HEADS[1]], dim=1)
    if weights is not None:
        q, k = (RMSNormFunction.apply(x, w, 1e-6) for x, w in zip((q, k), weights, strict=True))
    if angles is not None:
        q, k = rotate(q, *angles), rotate(k, *angles)
    return q, k, v


def errors(fast, slow, inputs: list[torch.Tensor], dtype: torch.dtype) -> list[float]:
    """Relative errors of outputs and gradients against fp64; `inputs[0]` is given in `dtype`."""
    given = [inputs[0].to(dtype), *(x.float() for x in inputs[1:])]
    given = [x.requires_grad_() for x in given]
    wide = [x.detach().double().requires_grad_() for x in given]
    found, wanted = fast(*given), slow(*wide)
    found, wanted = ((x,) if torch.is_tensor(x) else x for x in (found, wanted))
    pulls = [random(*x.shape, seed=i + 7) for i, x in enumerate(wanted)]
    pulls = [p.to(x.dtype).double() for p, x in zip(pulls, found, strict=True)]
    totals = [
        sum((x.double() * p).sum() for x, p in zip(xs, pulls, strict=True))
        for xs in (found, wanted)
    ]
    pairs = [
        *zip(found, wanted, strict=True),
        *zip(
            torch.autograd.grad(totals[0], given), torch.autograd.grad(totals[1], wide), strict=True
        ),
    ]
    return [float((x.detach().double() - y.detach()).norm() / y.detach().norm()) for x, y in pairs]


BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 8e-3}  # two roundings of bf16: 2e-3 each


@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_gated_product_and_its_gradients_equal_torch_in_fp64(dtype: torch.dtype) -> None:
    inputs = [3 * random(N, 2 * D), random(10, D, seed=1)]
    found = errors(fused_rows.gated_product, slow_gated_product, inputs, dtype)
    assert max(found) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_norm_and_its_gradients_equal_torch_in_fp64(dtype: torch.dtype) -> None:
    found = errors(
        lambda x, w: fused_rows.norm(x, w, 1e-6, dtype),
        lambda x, w: RMSNormFunction.apply(x, w, 1e-6),
        [random(N, D), random(D, seed=1)],
        torch.float32,
    )
    assert max(found) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("has_angles", [True, False])
def test_heads_and_their_gradients_equal_torch_in_fp64(
    dtype: torch.dtype, has_norm: bool, has_angles: bool
) -> None:
    angle = random(N, D // 2, seed=3)
    angles = (angle.cos().float(), angle.sin().float()) if has_angles else None
    wide = None if angles is None else tuple(x.double() for x in angles)
    weights = [random(D, seed=4), random(D, seed=5)] if has_norm else []
    found = errors(
        lambda x, *w: fused_rows.split_heads(x, w or None, angles, HEADS, 1e-6),
        lambda x, *w: slow_heads(x, w or None, wide),
        [random(N, (HEADS[0] + 2 * HEADS[1]) * D), *weights],
        dtype,
    )
    assert max(found) < BOUNDS[dtype]


def test_nan_stays_nan_and_large_gates_do_not_overflow() -> None:
    nan = float("nan")
    x = torch.tensor([[-1e4, 0.0, 1e4, 1.0, 1.0, 1.0], [nan, 0.0, 0.0, 1.0, 1.0, 1.0]])
    for dtype in (torch.float32, torch.bfloat16):
        out = fused_rows.gated_product(x.to(dtype), torch.eye(3))
        assert out[0, 0] == 0
        assert out[1, 0].isnan()
        assert out[0, 2] == torch.tensor(1e4).to(dtype)


def test_threads_change_no_byte() -> None:
    x, weight = random(N, D).float().numpy(), random(D, seed=1).float().numpy()
    gradient = random(N, D, seed=2).float().numpy()
    results = []
    for threads in (1, 2, 5):
        out, inverse = np.empty_like(x), np.empty(N, np.float32)
        d_x, d_weight = np.empty_like(x), np.zeros(D, np.float32)
        _core.norm_rows(x, weight, 1e-6, out, inverse, threads)
        _core.norm_rows_backward(x, weight, inverse, gradient, d_x, d_weight, threads)
        results.append(b"".join(a.tobytes() for a in (out, d_x, d_weight)))
    assert results[0] == results[1] == results[2]


def test_arrays_that_do_not_fit_are_refused() -> None:
    x, out = np.zeros((4, 6), np.float32), np.zeros((4, 2), np.float32)
    with pytest.raises(ValueError, match="gate_rows: arrays do not fit"):
        _core.gate_rows(x, 2, out, 1)
    with pytest.raises(ValueError, match="norm_rows: arrays do not fit"):
        _core.norm_rows(x, np.zeros(5, np.float32), 1e-6, x.copy(), np.zeros(4, np.float32), 1)
    rows = np.zeros((4, 2, 3), np.float32)
    none = np.zeros(0, np.float32)
    with pytest.raises(ValueError, match="head_rows: arrays do not fit"):
        _core.head_rows(x, none, none, none, none, 1e-6, rows, rows[:, :1].copy(), none, none, 1)
