"""Packed rows for tests of attention, what an operator makes of them, and how far off it may be."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from chronoward.kernels.varlen_attention import varlen_attention
from torch import Tensor

ATOL = 1e-6  # floor of the tolerance, for entries that are nearly zero
YEARS_120 = 120 * 525_960
DIFFERENTIABLE = ("q", "k", "v", "a", "tau")


def make_inputs(
    bounds: list[int],
    *,
    tail: int = 0,
    heads: tuple[int, int] = (4, 2),
    d_head: int = 12,
    times: str = "steps",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """A row whose segments have these bounds, `tail` tokens after them outside of any.

    Args:
        times: `steps` of up to 3,000 minutes late in life, `equal`, or `apart`: each segment's
            second half 120 years after its first.
    """
    generator = torch.Generator().manual_seed(len(bounds) + bounds[-1])
    n_tokens = bounds[-1] + tail
    n_heads, n_kv = heads

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # late in life: fp32 minutes since birth would be wrong by whole minutes here
    time_min = 40_000_000 + torch.randint(0, 3000, (n_tokens,), generator=generator).cumsum(0)
    if times == "equal":
        time_min[:] = 40_000_000
    elif times == "apart":
        for first, last in itertools.pairwise(bounds):
            time_min[(first + last) // 2 : last] += YEARS_120
    return {
        "q": draw(n_tokens, n_heads, d_head).to(dtype),
        "k": draw(n_tokens, n_kv, d_head).to(dtype),
        "v": draw(n_tokens, n_kv, d_head).to(dtype),
        "time_min": time_min.to(torch.int32),
        "cu_seqlens": torch.tensor(bounds, dtype=torch.int32),
        "a": draw(n_heads).abs().float(),
        "tau": (60 + 5000 * draw(n_heads).abs()).float(),
    }


def visit_ends(bounds: list[int], n_tokens: int) -> Tensor:
    """kv_end that opens blocks of seven tokens to each other, as a visit does: the fast path's
    blocks and parts, multiples of four queries, end inside some of them."""
    ends = torch.arange(1, n_tokens + 1, dtype=torch.int32)
    for first, last in itertools.pairwise(bounds):
        for i in range(first, last):
            ends[i] = min(last, first + 7 * ((i - first) // 7 + 1))
    return ends


def penalty(time_min: Tensor, bias: str, a: Tensor, tau: Tensor) -> Tensor:
    """a f(|t_i - t_j| / tau), what a bias takes from the scores.  # (H, T, T) fp32"""
    x = (time_min[:, None] - time_min).abs().float() / tau[:, None, None]
    return a[:, None, None] * (x.log1p() if bias == "log" else x)


def plain_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    time_min: Tensor,
    cu_seqlens: Tensor,
    *,
    kv_end: Tensor | None,
    bias: str,
    a: Tensor,
    tau: Tensor,
    taken: Tensor | None = None,
) -> Tensor:
    """Plain torch in the inputs' own precision, which errors are compared with."""
    n_tokens, n_heads, d_head = q.shape
    group = n_heads // k.shape[1]
    position = torch.arange(n_tokens, device=q.device)
    place = torch.searchsorted(cu_seqlens, position.int(), right=True)
    is_inside = (place > 0) & (place < len(cu_seqlens))
    ends = position + 1 if kv_end is None else kv_end
    visible = (place[:, None] == place) & is_inside[:, None] & (position < ends[:, None])
    scores = torch.einsum("ihd,jhd->hij", q, k.repeat_interleave(group, 1)) * d_head**-0.5
    scores = scores.float()
    if bias != "none":
        scores = scores - (penalty(time_min, bias, a, tau) if taken is None else taken)
    scores = scores.masked_fill(~visible & is_inside[:, None], float("-inf"))
    weights = (scores.softmax(-1) * is_inside[:, None]).to(q.dtype)
    return torch.einsum("hij,jhd->ihd", weights, v.repeat_interleave(group, 1))


def outputs_and_gradients(
    inputs: dict[str, Tensor],
    *,
    backend: str,
    dtype: torch.dtype | None = None,
    bias: str,
    kv_end: Tensor | None = None,
) -> list[Tensor]:
    """Output and gradients of q, k, v and the bias parameters that the backend has.

    Args:
        backend: as of `varlen_attention`, or `plain`.
        dtype: to compute all of it in; None takes q, k and v as they are.
    """
    leaves = {
        name: (inputs[name] if dtype is None else inputs[name].to(dtype)).detach().requires_grad_()
        for name in DIFFERENTIABLE
    }
    q, k, v, a, tau = leaves.values()
    times, bounds = inputs["time_min"], inputs["cu_seqlens"]
    options: dict[str, Any] = {"kv_end": kv_end, "bias": bias, "a": a, "tau": tau}
    if backend == "plain":
        out = plain_attention(q, k, v, times, bounds, **options)
    else:
        out = varlen_attention(q, k, v, times, bounds, backend=backend, **options)
    weight = torch.sin(torch.arange(out.numel(), device=out.device, dtype=torch.float64))
    used = list(leaves.values())[: 3 if bias == "none" else 5]
    gradients = torch.autograd.grad((out.double() * weight.view_as(out)).sum(), used)
    return [out.detach(), *gradients]


def error(x: Tensor, truth: Tensor) -> float:
    return float((x.double() - truth.double()).norm())


def sizes_of_terms(
    inputs: dict[str, Tensor], *, bias: str, kv_end: Tensor | None = None
) -> list[Tensor]:
    """Sums of the absolute terms of the gradients of a and tau (for tau an upper bound), (H,) each:
    those gradients are a few numbers in which terms of both signs cancel, so that plain torch's own
    error in them is a matter of luck and says nothing of the rounding of the terms."""
    q, k, v, a, tau = (inputs[name] for name in DIFFERENTIABLE)
    taken = penalty(inputs["time_min"], bias, a, tau).requires_grad_()
    options: dict[str, Any] = {"kv_end": kv_end, "bias": bias, "a": a, "tau": tau, "taken": taken}
    wide = (x.float() for x in (q, k, v))
    out = plain_attention(*wide, inputs["time_min"], inputs["cu_seqlens"], **options)
    weight = torch.sin(torch.arange(out.numel(), device=out.device)).view_as(out)
    (d_taken,) = torch.autograd.grad((out * weight).sum(), taken)
    terms = (d_taken.abs() * taken.detach()).sum((1, 2))
    return [terms / a, terms / tau]


def assert_no_worse_than_twice_plain_torch(
    mine: list[Tensor],
    plain: list[Tensor],
    exact: list[Tensor],
    terms: list[Tensor] | None = None,
) -> None:
    """The bound of kernels, for the output and every gradient, all of them finite.

    Args:
        terms: what `sizes_of_terms` says; a unit of rounding of them is allowed to a and tau.
    """
    unit = torch.finfo(plain[0].dtype).eps
    for n, (x, theirs, truth) in enumerate(zip(mine, plain, exact, strict=True)):
        assert torch.isfinite(x).all()
        allowed = 2 * error(theirs, truth) + ATOL * max(truth.numel() ** 0.5, float(truth.norm()))
        if terms is not None and n > 3:
            allowed += unit * float(terms[n - 4].norm())
        assert error(x, truth) <= allowed
