"""What lies between a block's products, as one C++ pass over each row, with its gradient.

On a CPU every operation of torch reads and writes the whole batch, and its backward keeps a copy;
here a row is read once, and what the gradient needs is computed again from the products' outputs.
Elsewhere and in fp64 torch's own operations run (`model.blocks`), which are the oracle of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from chronoward import _core

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

_NOTHING = torch.zeros(0)


def is_fast(x: Tensor, weight: Tensor) -> bool:
    """Whether the passes take this tensor, made by or for a module with this weight.

    Weights stay fp32, whatever autocast computes products in; a compiler is given torch's own
    operations, which it can look into.
    """
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and weight.dtype == torch.float32
        and not torch.compiler.is_compiling()
    )


def product_dtype(x: Tensor) -> torch.dtype:
    """The type that a matrix product of `x` is computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _array(x: Tensor) -> NDArray[Any]:
    """A view of the tensor; bfloat16 as its bits."""
    x = x.detach().contiguous()
    array: NDArray[np.generic] = x.view(torch.uint16).numpy() if x.itemsize == 2 else x.numpy()
    return array


def weights_of(parameter: Tensor) -> Tensor:
    """A parameter's values, for C++: in a run of several processes a copy, since `fully_shard`
    frees a parameter's memory after use, which it cannot once numpy has looked at it."""
    is_alone = not (distributed.is_available() and distributed.is_initialized())
    return parameter.detach() if is_alone else parameter.detach().clone()


def _gated(gate_and_up: Tensor) -> Tensor:
    width = gate_and_up.shape[1] // 2
    out = gate_and_up.new_empty(gate_and_up.shape[0], width)
    _core.gate_rows(_array(gate_and_up), width, _array(out), torch.get_num_threads())
    return out


class GatedProductFunction(torch.autograd.Function):
    """(silu(gate) * up) Wᵀ; what is between the two products is made again for the gradient."""

    @staticmethod
    def forward(ctx: Any, gate_and_up: Tensor, weight: Tensor) -> Tensor:
        matrix = weight.to(gate_and_up.dtype)
        ctx.save_for_backward(gate_and_up, weight)
        return _gated(gate_and_up) @ matrix.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate_and_up, weight = ctx.saved_tensors
        gradient = gradient.to(gate_and_up.dtype)
        gated = gradient @ weight.to(gate_and_up.dtype)  # its gradient, at first
        result = torch.empty_like(gate_and_up, memory_format=torch.contiguous_format)
        arrays = (_array(gate_and_up), gated.shape[1], _array(gated), _array(result))
        _core.gate_rows_backward(*arrays, torch.get_num_threads())
        d_weight = gradient.T @ gated
        return result, d_weight.to(weight.dtype)


class NormFunction(torch.autograd.Function):
    """x / rms(x) * weight over the last dimension of fp32 `x`, in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x = x.contiguous()
        out = torch.empty(x.shape, dtype=dtype)
        inverse = torch.empty(x.shape[:-1])
        weights = _array(weights_of(weight))
        arrays = (_array(x), weights, eps, _array(out), _array(inverse))
        _core.norm_rows(*arrays, torch.get_num_threads())
        ctx.save_for_backward(x, weight, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        d_x, d_weight = torch.empty_like(x), torch.zeros_like(weight)
        weights = _array(weights_of(weight))
        saved = (_array(x), weights, _array(inverse), _array(gradient))
        made = (_array(d_x), _array(d_weight))
        _core.norm_rows_backward(*saved, *made, torch.get_num_threads())
        return d_x, d_weight, None, None


def _head_arrays(tensors: Sequence[Tensor]) -> tuple[Any, Any, Any, Any, Any]:
    """Projection, weights of queries and of keys, cos and sin."""
    projected, query_weight, key_weight, cosine, sine = tensors
    weights = _array(weights_of(query_weight)), _array(weights_of(key_weight))
    return _array(projected), *weights, _array(cosine), _array(sine)


class HeadsFunction(torch.autograd.Function):
    """Queries, keys and values of a joint projection: split, normalized, rotated; fp32."""

    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        query_weight: Tensor,
        key_weight: Tensor,
        cosine: Tensor,
        sine: Tensor,
        heads: tuple[int, int],
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, d_head = projected.shape[0], projected.shape[1] // (heads[0] + 2 * heads[1])
        q, k, v = (torch.empty(n, h, d_head) for h in (*heads, heads[1]))
        inverse = torch.empty(n if len(query_weight) else 0, sum(heads))
        fixed = (projected, query_weight, key_weight, cosine, sine)
        made = (_array(q), _array(k), _array(v), _array(inverse))
        _core.head_rows(*_head_arrays(fixed), eps, *made, torch.get_num_threads())
        ctx.save_for_backward(*fixed, inverse)
        ctx.eps = eps
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *fixed, inverse = ctx.saved_tensors
        projected, query_weight, key_weight = fixed[:3]
        made = (
            torch.empty_like(projected, memory_format=torch.contiguous_format),
            torch.zeros_like(query_weight),
            torch.zeros_like(key_weight),
        )
        d_q, d_k, d_v = (_array(x) for x in gradients)
        read = (_array(inverse), d_q, d_k, d_v)
        written = (_array(made[0]), _array(made[1]), _array(made[2]))
        _core.head_rows_backward(
            *_head_arrays(fixed), ctx.eps, *read, *written, torch.get_num_threads()
        )
        return (*made, None, None, None, None)


def gated_product(gate_and_up: Tensor, weight: Tensor) -> Tensor:
    """(silu(gate) * up) Wᵀ.  # (T, 2F), (d, F) -> (T, d)"""
    result: Tensor = GatedProductFunction.apply(gate_and_up, weight)  # type: ignore[no-untyped-call]
    return result


def norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / rms(x) * weight over the last dimension of fp32 `x`, in `dtype`."""
    result: Tensor = NormFunction.apply(x, weight, eps, dtype)  # type: ignore[no-untyped-call]
    return result


def split_heads(
    projected: Tensor,
    weights: tuple[Tensor, Tensor] | None,
    angles: tuple[Tensor, Tensor] | None,
    heads: tuple[int, int],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a joint projection.

    Args:
        projected: (T, (H + 2 Hkv) D), fp32 or bf16.
        weights: of the norms of queries and keys, (D,) each; None without them.
        angles: cos and sin (T, D / 2), fp32; None without rotation.
        heads: H and Hkv.
        eps: of the norms.

    Returns:
        fp32 (T, H, D), (T, Hkv, D), (T, Hkv, D).
    """
    weights, angles = weights or (_NOTHING, _NOTHING), angles or (_NOTHING, _NOTHING)
    made: tuple[Tensor, Tensor, Tensor] = HeadsFunction.apply(  # type: ignore[no-untyped-call]
        projected, *weights, *angles, heads, eps
    )
    return made
