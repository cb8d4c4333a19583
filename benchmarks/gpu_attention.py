"""T3: attention forward and backward over packed rows, as CUDA graphs.

Against FlexAttention, compiled, with the same mask and bias (its parameters constant, ours learned:
their gradients are in our time), and against torch's varlen attention, which has no bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from benchmarks.gpu_device import PEAK_TFLOPS, about, graph_ms, write
from benchmarks.gpu_rows import ROW_TOKENS, Rows, packed_rows
from benchmarks.record import Measurement, Stopwatch
from chronoward.kernels.varlen_attention import flex, varlen_attention
from chronoward.kernels.varlen_attention.flash import flash_attention
from chronoward.kernels.varlen_attention.layout import Layout, TimeBias
from chronoward.kernels.varlen_attention.reference import varlen_attention_reference
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BIASES = ("none", "log", "linear")
_MAX_ERROR = 0.02  # of the norm, against fp32: bf16 has 8 bits


@dataclass(frozen=True)
class Shape:
    """Sizes of the measure; the tests make them small."""

    n_rows: int = 64
    row_tokens: int = ROW_TOKENS
    n_heads: int = 12
    d_head: int = 64
    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16
    backend: str = "triton"


class Inputs:
    """Random q, k, v and gradient of the output over packed rows, and the bias's parameters."""

    def __init__(self, shape: Shape) -> None:
        rows = packed_rows(shape.n_rows, shape.row_tokens)
        generator = torch.Generator(shape.device).manual_seed(0)
        size = (shape.n_rows * shape.row_tokens, shape.n_heads, shape.d_head)
        options = {"device": shape.device, "generator": generator}
        self.q, self.k, self.v, self.d_out = (
            torch.randn(size, **options).to(shape.dtype) for _ in range(4)
        )
        self.a = 0.1 + torch.rand(shape.n_heads, **options)
        self.tau = 60 + 1e5 * torch.rand(shape.n_heads, **options)
        self.rows = Rows(
            rows.time_min.to(shape.device),
            rows.cu_seqlens.to(shape.device),
            rows.n_used,
            rows.mean_visible,
        )
        for x in (self.q, self.k, self.v, self.a, self.tau):
            x.requires_grad_()

    def layout(self, n_tokens: int | None = None) -> Layout:
        """Of all rows, or of the first tokens (whole rows)."""
        times, bounds = self.rows.time_min, self.rows.cu_seqlens
        if n_tokens is not None:
            times, bounds = times[:n_tokens], bounds[bounds <= n_tokens]
        return Layout(times, bounds, None)


def _ours(inputs: Inputs, bias: str, backend: str) -> Callable[[], tuple[Tensor, ...]]:
    leaves = [inputs.q, inputs.k, inputs.v]
    if bias != "none":
        leaves += [inputs.a, inputs.tau]
    layout = inputs.layout()

    def step() -> tuple[Tensor, ...]:
        out = varlen_attention(
            *(inputs.q, inputs.k, inputs.v, layout.time_min, layout.cu_seqlens),
            bias=bias,
            a=inputs.a,
            tau=inputs.tau,
            backend=backend,
        )
        return out.detach(), *torch.autograd.grad(out, leaves, inputs.d_out)

    return step


def _flex(inputs: Inputs, bias: str, row_tokens: int) -> Callable[[], object]:
    layout = inputs.layout()
    constant = TimeBias(bias, inputs.a.detach(), inputs.tau.detach())
    mask = flex.block_mask(layout, row_tokens)
    score = flex.score_mod(layout, constant, row_tokens)
    attend: Any = torch.compile(flex.flex_attention, fullgraph=True)
    # its own layout, (rows, H, row tokens, D), made outside of what is timed
    leaves = [
        flex.in_rows(x.detach(), row_tokens).contiguous().requires_grad_()
        for x in (inputs.q, inputs.k, inputs.v)
    ]
    d_out = flex.in_rows(inputs.d_out, row_tokens).contiguous()

    def step() -> object:
        out = attend(*leaves, score_mod=score, block_mask=mask)
        return torch.autograd.grad(out, leaves, d_out)

    return step


def _varlen(inputs: Inputs) -> Callable[[], object]:
    leaves, longest = [inputs.q, inputs.k, inputs.v], inputs.rows.longest

    def step() -> object:
        out = flash_attention(*leaves, inputs.rows.cu_seqlens, max_seqlen=longest)
        return torch.autograd.grad(out, leaves, inputs.d_out)

    return step


def check(inputs: Inputs, shape: Shape, bias: str) -> float:
    """Compares the first row's output and gradients with the reference in fp32.

    Returns:
        The largest error, a share of the norm.

    Raises:
        AssertionError: it is too large.
    """
    n = shape.row_tokens
    mine = [x[:n] for x in _ours(inputs, bias, shape.backend)()[:4]]
    leaves = [x[:n].detach().float().requires_grad_() for x in (inputs.q, inputs.k, inputs.v)]
    layout = inputs.layout(n)
    ends = torch.arange(1, n + 1, device=shape.device, dtype=torch.int32)
    parameters = inputs.a.detach(), inputs.tau.detach()
    truth = varlen_attention_reference(
        *leaves, layout.time_min, layout.cu_seqlens, ends, *parameters, bias
    )
    exact = [truth.detach(), *torch.autograd.grad(truth, leaves, inputs.d_out[:n].float())]
    errors = [float((x.float() - y).norm() / y.norm()) for x, y in zip(mine, exact, strict=True)]
    if not max(errors) < _MAX_ERROR:
        message = f"attention with bias {bias} differs from the reference by {max(errors):.1e}"
        raise AssertionError(message)
    return max(errors)


def _or_reason(measure_ms: Callable[[], float]) -> tuple[float | None, str | None]:
    """What another implementation takes, or why it could not be timed."""
    try:
        return measure_ms(), None
    except Exception as error:  # its failure must not lose our own numbers
        torch.cuda.empty_cache()
        return None, f"{type(error).__name__}: {str(error)[:300]}"


def measure(shape: Shape | None = None) -> Iterator[Measurement]:
    """Milliseconds by bias, beside FlexAttention, then their ratios to varlen attention."""
    shape = shape or Shape()
    inputs = Inputs(shape)
    pairs = inputs.rows.mean_visible * inputs.rows.n_used
    # two products of 2 D flop a pair forward, five backward
    flop = 14 * pairs * shape.d_head * shape.n_heads
    base = {
        "tokens": shape.n_rows * shape.row_tokens,
        "mean_visible_keys": round(inputs.rows.mean_visible, 1),
        "n_heads": shape.n_heads,
        "d_head": shape.d_head,
        **about(),
    }
    device = torch.cuda.get_device_name()
    errors = {bias: check(inputs, shape, bias) for bias in _BIASES}
    varlen_ms, varlen_fault = _or_reason(lambda: graph_ms(_varlen(inputs)))
    for bias in _BIASES:
        with Stopwatch() as watch:
            ms = graph_ms(_ours(inputs, bias, shape.backend))
            step = _flex(inputs, bias, shape.row_tokens)
            flex_ms, fault = _or_reason(lambda step=step: graph_ms(step))  # type: ignore[misc]
        extra = {
            **base,
            "tflops": round(flop / ms / 1e9, 1),
            "peak_share": round(flop / ms / 1e9 / PEAK_TFLOPS, 4),
            "error": errors[bias],
            "fault": fault,
        }
        yield Measurement(
            id="T3",
            metric=f"{bias}_ms",
            value=ms,
            unit="ms, forward and backward",
            against="compiled FlexAttention, same bias, constant parameters",
            baseline=flex_ms,
            ratio=None if flex_ms is None else flex_ms / ms,
            seconds=watch.wall,
            device=device,
            extra=extra,
        )
        yield Measurement(
            id="T3",
            metric=f"{bias}_vs_varlen",
            value=ms,
            unit="ms, forward and backward",
            against="varlen_attn without a bias",
            baseline=varlen_ms,
            ratio=None if varlen_ms is None else ms / varlen_ms,
            seconds=watch.wall,
            device=device,
            extra={**base, "fault": varlen_fault},
        )


if __name__ == "__main__":
    write(measure())
