"""A decoder block in pieces, so that cached decoding runs the same mathematics as training.

`Block.qkv` → (attention, by whoever holds the keys) → `Block.finish`; `Block.forward` is the three
in one call. On a CPU what lies between the products is C++ (`model.fused_rows`); elsewhere and in
fp64 norms and rotation are torch with their gradients written out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chronoward.model import fused_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from chronoward.model.config import ModelConfig

MINUTES_PER_DAY = 1440.0


class RMSNormFunction(torch.autograd.Function):
    """y = x / rms(x) * weight over the last dimension, computed in fp32 (or fp64)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        inverse = torch.rsqrt(torch.linalg.vecdot(wide, wide) / x.shape[-1] + eps)[..., None]
        normalized = wide * inverse
        ctx.save_for_backward(normalized, inverse, weight)
        ctx.dtype = x.dtype
        return (normalized * weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        normalized, inverse, weight = ctx.saved_tensors
        wide = gradient.to(normalized.dtype)
        d_weight = (wide * normalized).flatten(0, -2).sum(0)
        scaled = wide * weight
        mean = torch.linalg.vecdot(scaled, normalized)[..., None] / normalized.shape[-1]
        d_x = scaled.addcmul_(normalized, mean, value=-1).mul_(inverse)
        return d_x.to(ctx.dtype), d_weight, None


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension with a learned scale."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Normalizes the last dimension of `x`; the result has its type, or `dtype`."""
        dtype = dtype or x.dtype
        if x.dtype == torch.float32 and fused_rows.is_fast(x, self.weight):
            return fused_rows.norm(x, self.weight, self.eps, dtype)
        result: Tensor = RMSNormFunction.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return result.to(dtype)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    if torch.compiler.is_compiling():  # which fuses this, and cannot write into halves
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    out = torch.empty_like(x)
    half = x.shape[-1] // 2
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


class RotateFunction(torch.autograd.Function):
    """Turns each pair (x_i, x_{i + D/2}) by its angle; the gradient turns back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, -sin), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (T, H, D) by angles whose cos and sin are (T, D / 2)."""
    cos_, sin_ = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    result: Tensor = RotateFunction.apply(x, cos_, sin_)  # type: ignore[no-untyped-call]
    return result


def rotary_frequencies(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Angular frequencies of the index (per token) and of time (per minute), fp64.

    Returns:
        Two tensors whose lengths add up to D / 2; the pairs of the index come first.
    """
    n_pairs = config.d_head // 2
    n_time = {"index": 0, "time": n_pairs, "half": n_pairs // 2, "none": 0}[config.rotary]
    n_index = 0 if config.rotary == "none" else n_pairs - n_time
    index = config.rotary_base ** -(torch.arange(n_index, dtype=torch.float64) / max(n_index, 1))
    low, high = (60.0 * hours for hours in config.wavelength_hours)
    place = torch.linspace(0, 1, n_time, dtype=torch.float64) if n_time else torch.empty(0).double()
    time = 2 * math.pi / (low * (high / low) ** place)
    return index, time


class TimeBias(nn.Module):
    """a_h ≥ 0 and τ_h > 0 of one block's heads, by softplus.

    τ_h starts on a geometric grid, so that a block's heads look back over different spans.
    With `linear` only the slope a_h / τ_h matters, so τ_h stays where it starts.
    """

    start_min: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        low, high = (days * MINUTES_PER_DAY for days in config.bias_days)
        place = torch.linspace(0, 1, config.n_heads) if config.n_heads > 1 else torch.ones(1)
        self.register_buffer("start_min", low * (high / low) ** place, persistent=False)
        self.strength = nn.Parameter(torch.zeros(config.n_heads))
        self.scale = (
            nn.Parameter(torch.zeros(config.n_heads)) if config.time_bias == "log" else None
        )

    def forward(self) -> tuple[Tensor, Tensor]:
        """a (H,) and tau in minutes (H,), fp32."""
        a = functional.softplus(self.strength.float())
        if self.scale is None:
            return a, self.start_min
        return a, self.start_min * functional.softplus(self.scale.float()) / math.log(2)


class Block(nn.Module):
    """RMS norm → attention → RMS norm → gated feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, d_head = config.d_model, config.d_head
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.n_kv_heads, d_head
        self.attention_norm = RMSNorm(d, config.norm_eps)
        self.qkv_projection = nn.Linear(
            d, (config.n_heads + 2 * config.n_kv_heads) * d_head, bias=False
        )
        self.query_norm = RMSNorm(d_head, config.norm_eps) if config.qk_norm else None
        self.key_norm = RMSNorm(d_head, config.norm_eps) if config.qk_norm else None
        self.time_bias = TimeBias(config) if config.time_bias != "none" else None
        self.attention_output = nn.Linear(d, d, bias=False)
        self.feed_forward_norm = RMSNorm(d, config.norm_eps)
        self.gate_and_up = nn.Linear(d, 2 * config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, d, bias=False)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        attend: Callable[..., Tensor],
    ) -> Tensor:
        """Residual stream after the block, in one call: what is sharded is gathered around it.

        Args:
            x: residual stream (T, d_model).
            angles: see `qkv`.
            attend: q, k, v, a=, tau= -> output of attention (T, H, D).
        """
        q, k, v = self.qkv(x, angles)
        a, tau = self.bias()
        return self.finish(x, attend(q, k, v, a=a, tau=tau))

    def qkv(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of each token, normalized and rotated.

        Args:
            x: residual stream (T, d_model).
            angles: cos and sin (T, D / 2) from `Model.rotary`, None without rotary.

        Returns:
            q (T, H, D), k (T, Hkv, D), v (T, Hkv, D): what a cache keeps are this k and v.
        """
        projected = self.qkv_projection(self.attention_norm(x, fused_rows.product_dtype(x)))
        if fused_rows.is_fast(projected, self.qkv_projection.weight):
            weights = None
            if self.query_norm is not None and self.key_norm is not None:
                weights = (self.query_norm.weight, self.key_norm.weight)
            heads = (self.n_heads, self.n_kv_heads)
            return fused_rows.split_heads(
                projected, weights, angles, heads, self.attention_norm.eps
            )
        projected = projected.view(x.shape[0], -1, self.d_head)
        q, k, v = projected.split([self.n_heads, self.n_kv_heads, self.n_kv_heads], dim=1)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        return q, k, v

    def bias(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """a and tau of the time bias, (H,) each, or two Nones."""
        if self.time_bias is None:
            return None, None
        a, tau = self.time_bias()
        return a, tau

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residual stream after the block.

        Args:
            x: residual stream before the block (T, d_model).
            attended: output of attention (T, H, D).
        """
        x = x + self.attention_output(attended.reshape(x.shape[0], -1))
        normalized = self.feed_forward_norm(x, fused_rows.product_dtype(x))
        gate_and_up = self.gate_and_up(normalized)
        if fused_rows.is_fast(gate_and_up, self.gate_and_up.weight):
            return x + fused_rows.gated_product(gate_and_up, self.down.weight)
        gate, up = gate_and_up.chunk(2, dim=-1)
        result: Tensor = x + self.down(functional.silu(gate) * up)
        return result
