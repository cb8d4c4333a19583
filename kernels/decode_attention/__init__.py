"""Attention of single rows over a key-value cache.

`decode_cache` is a CPU's: `cpu` (C++) and `reference` (NumPy, the oracle of all). `paged_attention`
is that of tensors on a device: `triton` and `reference` (plain torch).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from chronoward.kernels.decode_attention.paged import (
    PAGED_BACKENDS,
    choose_paged_backend,
    paged_attention,
    write_pages,
)
from chronoward.kernels.decode_attention.pages import Pages, Rows, grouped, make_pages, places
from chronoward.kernels.decode_attention.reference import ReferenceCache

from chronoward._core import KeyValueCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BACKENDS = ("cpu", "reference")


class DecodeCache(Protocol):
    """Keys and values of many buffers. places is int32 (rows, 4): prefix buffer, prefix length,
    own buffer, own length; a row's own token is the last of its own buffer."""

    def write_times(self, places: NDArray[np.int32], time_min: NDArray[np.int32]) -> None:
        """Clocks of the rows' own tokens, once before the layers."""

    def attend(
        self,
        layer: int,
        places: NDArray[np.int32],
        q: NDArray[np.float32],
        k: NDArray[np.float32],
        v: NDArray[np.float32],
        slope: NDArray[np.float32],
        inverse_tau: NDArray[np.float32],
        out: NDArray[np.float32],
    ) -> None:
        """Appends k, v (rows, Hkv, D) of one layer, then attends q (rows, H, D) into `out`."""


def decode_cache(
    n_buffers: int,
    *,
    n_layers: int,
    n_heads: int,
    n_kv_heads: int,
    d_head: int,
    capacity: int,
    bias: str,
    dtype: str = "float32",
    backend: str = "cpu",
) -> DecodeCache:
    """Room for `n_buffers` timelines of `capacity` tokens.

    `dtype` is that of keys and values, float32 or bfloat16; the reference's are always float32.

    Raises:
        ValueError: sizes that do not fit each other, an unknown bias or backend.
    """
    if backend not in BACKENDS:
        message = f"backend must be one of {BACKENDS}, got {backend!r}"
        raise ValueError(message)
    sizes = {"n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": n_kv_heads, "d_head": d_head}
    if backend == "reference":
        return ReferenceCache(n_buffers, **sizes, capacity=capacity, bias=bias)
    return KeyValueCache(n_buffers, **sizes, capacity=capacity, bias=bias, dtype=dtype)


__all__ = [
    "BACKENDS",
    "PAGED_BACKENDS",
    "DecodeCache",
    "Pages",
    "ReferenceCache",
    "Rows",
    "choose_paged_backend",
    "decode_cache",
    "grouped",
    "make_pages",
    "paged_attention",
    "places",
    "write_pages",
]
