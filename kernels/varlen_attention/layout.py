"""Where the tokens of a packed row lie in time and among segments, and what is wrong with it.

Shapes and dtypes are checked in every call. Values are checked in every call on a CPU; on a GPU
that would wait for the device, so `check_layout` is there to be called once, where a row is made
or arrives (the kernels never read outside of their inputs, whatever the bounds say).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from chronoward.errors import DataError, LimitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_TOKENS = 2**31 - 1  # positions are int32; offsets into q, k and v are int64


def array(x: Tensor) -> NDArray[Any]:
    """A CPU tensor as a NumPy array that shares its memory where it is contiguous."""
    return np.asarray(x.detach().contiguous().numpy())


class Layout(NamedTuple):
    """Where the tokens of a packed row lie, in time and among segments."""

    time_min: Tensor  # int32 (T,)
    cu_seqlens: Tensor  # int32 (n + 1,)
    kv_end: Tensor | None  # int32 (T,), None is causal

    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """As NumPy arrays; an empty one stands for causal."""
        kv_end = np.zeros(0, np.int32) if self.kv_end is None else array(self.kv_end)
        return array(self.time_min), array(self.cu_seqlens), kv_end


class TimeBias(NamedTuple):
    """The time bias and its parameters."""

    kind: str
    a: Tensor  # (H,)
    tau: Tensor  # (H,)


def check_shapes(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> None:
    """Checks what can be checked without reading the tensors.

    Raises:
        DataError: shapes or types that do not fit each other, times or bounds that are not int32.
        LimitError: more tokens than positions can count.
    """
    n_tokens, n_heads, d_head = q.shape
    n_kv = k.shape[1]
    if k.shape != v.shape or k.shape != (n_tokens, n_kv, d_head):
        message = f"k and v must be (T, Hkv, D) beside q {tuple(q.shape)}, got {tuple(k.shape)}"
        raise DataError(message)
    if not q.is_floating_point() or not q.dtype == k.dtype == v.dtype:
        message = (
            "q, k and v must share one of float64, float32, float16 and bfloat16, "
            f"got {q.dtype}, {k.dtype} and {v.dtype}"
        )
        raise DataError(message)
    if n_heads % n_kv:
        message = f"{n_heads} query heads are not a multiple of {n_kv} key heads"
        raise DataError(message)
    for name, x in layout._asdict().items():
        if x is not None and x.dtype != torch.int32:
            message = f"{name} must be int32, got {x.dtype}"
            raise DataError(message)
    time_min, cu_seqlens, kv_end = layout
    if time_min.shape != (n_tokens,) or (kv_end is not None and kv_end.shape != (n_tokens,)):
        message = f"time_min and kv_end need one entry for each of {n_tokens} tokens"
        raise DataError(message)
    if cu_seqlens.dim() != 1 or len(cu_seqlens) == 0:
        message = f"cu_seqlens must be (n + 1,), got {tuple(cu_seqlens.shape)}"
        raise DataError(message)
    if n_tokens > MAX_TOKENS:
        message = f"at most {MAX_TOKENS} tokens a call, got {n_tokens}: positions are int32"
        raise LimitError(message)


def check_layout(time_min: Tensor, cu_seqlens: Tensor, kv_end: Tensor | None = None) -> None:
    """Checks the values of a packed row's layout; on a GPU this waits for the device.

    Args:
        time_min: int32 (T,), minutes.
        cu_seqlens: int32 (n + 1,), bounds of the segments.
        kv_end: int32 (T,), end of the keys that each query sees; None is causal.

    Raises:
        DataError: bounds that fall or leave 0..T, times that fall inside a segment or span more
            than int32 there, `kv_end` that is not past its token, past its segment, or falls.
    """
    n_tokens = len(time_min)
    bounds = cu_seqlens.long()
    if bool((bounds[1:] < bounds[:-1]).any()):
        entry = int((bounds[1:] < bounds[:-1]).nonzero()[0]) + 1
        message = f"cu_seqlens must not fall, but does at entry {entry}"
        raise DataError(message)
    if int(bounds[0]) < 0 or int(bounds[-1]) > n_tokens:
        message = f"cu_seqlens must lie in 0..{n_tokens} (the row's tokens)"
        raise DataError(message)
    position = torch.arange(n_tokens, device=bounds.device)
    place = torch.searchsorted(bounds, position, right=True)
    in_segment = (place > 0) & (place < len(bounds))
    same = in_segment[1:] & (place[1:] == place[:-1])
    _refuse(same & (time_min[1:] < time_min[:-1]), 1, "time_min falls inside a segment")
    start = bounds[(place - 1).clamp(min=0)].clamp(max=max(n_tokens - 1, 0))
    span = torch.where(in_segment, time_min.long() - time_min.long()[start], 0)
    _refuse(span > MAX_TOKENS, 0, "time_min spans more than int32 minutes inside a segment")
    if kv_end is None:
        return
    end = bounds[place.clamp(max=len(bounds) - 1)]
    odd = in_segment & ((kv_end <= position) | (kv_end > end))
    _refuse(odd, 0, "kv_end must lie past its token and not past the end of its segment")
    _refuse(same & (kv_end[1:] < kv_end[:-1]), 1, "kv_end falls inside a segment")


def _refuse(is_faulty: Tensor, offset: int, what: str) -> None:
    if bool(is_faulty.any()):
        message = f"{what} at token {int(is_faulty.nonzero()[0]) + offset}"
        raise DataError(message)
