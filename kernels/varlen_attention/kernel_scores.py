"""The time bias of a tile of scores, shared by the forward and the backward kernels.

Scores are kept in units of log 2, so that softmax is exp2 and log(1 + x) is one log2: both are
single instructions of the GPU's special function unit (`FAST`; the interpreter has no libdevice).
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def bias_coefficient(a, inverse_tau, BIAS: tl.constexpr):
    """What `falloff` is multiplied with before it is taken from a score."""
    if BIAS == "linear":
        return a * inverse_tau * LOG2_E
    return a


@triton.jit
def elapsed(t_row, t_column):
    """|t_i - t_j| in minutes, subtracted as integers.  # (rows, columns) fp32"""
    return tl.abs((t_row[:, None] - t_column[None, :]).to(tl.float32))


@triton.jit
def falloff(dt, inverse_tau, BIAS: tl.constexpr, FAST: tl.constexpr):
    """log2(1 + dt / tau), or the minutes themselves with a linear bias."""
    if BIAS == "log":
        if FAST:
            return libdevice.fast_log2f(1.0 + dt * inverse_tau)
        return tl.log2(1.0 + dt * inverse_tau)
    return dt


@triton.jit
def log_slope(dt, inverse_tau, FAST: tl.constexpr):
    """x / (1 + x) of x = dt / tau, which is x f'(x) of the logarithmic bias."""
    x = dt * inverse_tau
    if FAST:
        return libdevice.fast_dividef(x, 1.0 + x)
    return x / (1.0 + x)
