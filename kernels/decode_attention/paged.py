"""Decode attention over pages on a device; the backend is chosen here."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from chronoward.kernels.decode_attention import tiles
from chronoward.kernels.decode_attention.operators import triton_attention, triton_write
from chronoward.kernels.decode_attention.paged_reference import paged_attention_reference
from chronoward.kernels.decode_attention.pages import FP8, Pages, Rows, as_fp8, check_shapes

from chronoward.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

PAGED_BACKENDS = ("triton", "reference")
BIASES = ("log", "linear", "none")
_HAS_TRITON = find_spec("triton") is not None


def choose_paged_backend(q: Tensor) -> str:
    """The backend that `paged_attention` uses for this input when none is named."""
    return "triton" if q.is_cuda and _HAS_TRITON and tiles.supports(q) else "reference"


def _chosen(backend: str | None, q: Tensor) -> str:
    backend = backend or choose_paged_backend(q)
    if backend not in PAGED_BACKENDS:
        message = f"backend must be one of {PAGED_BACKENDS}, got {backend!r}"
        raise ConfigError(message)
    if backend == "triton":
        tiles.check(q)
        if not (q.is_cuda or tiles.interprets()):
            message = f"backend 'triton' needs a CUDA device, got {q.device.type}"
            raise ConfigError(message)
        if not _HAS_TRITON:
            message = "backend 'triton' needs the package triton: pip install 'chronoward[gpu]'"
            raise ConfigError(message)
    return backend


def paged_attention(
    q: Tensor,
    pages: Pages,
    rows: Rows,
    *,
    bias: str = "none",
    a: Tensor | None = None,
    tau: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Attention of one query a row over its prefix and its own tokens, one layer.

    s_j = q·k_j / √D − a_h f(|t − t_j| / τ_h), f(x) = log(1 + x) or x; the newest own token is the
    query's and is already in its page (`write_pages`).

    Args:
        q: (R, H, D).
        pages: the layer's keys and values; H is a multiple of Hkv.
        rows: what each row sees.
        bias: `log`, `linear` or `none`.
        a: (H,), >= 0; needed unless bias is `none`.
        tau: (H,), minutes, > 0; needed unless bias is `none`.
        backend: one of `PAGED_BACKENDS`; None chooses by device, dtype and head dimension.

    Returns:
        (R, H, D) in q's dtype; zero for rows of length 0. No gradient.

    Raises:
        DataError: shapes or dtypes that do not fit.
        ConfigError: an unknown bias or backend, a or tau missing, or an input that the named
            backend does not take.
    """
    check_shapes(q, pages, rows)
    chosen = _chosen(backend, q)
    if bias not in BIASES:
        message = f"bias must be one of {BIASES}, got {bias!r}"
        raise ConfigError(message)
    if bias == "none":
        a = tau = q.new_zeros(0, dtype=torch.float32)
    elif a is None or tau is None or a.shape != q.shape[1:2] or tau.shape != q.shape[1:2]:
        message = f"bias {bias!r} needs a and tau with one entry for each of {q.shape[1]} heads"
        raise ConfigError(message)
    if chosen == "reference":
        return paged_attention_reference(q, pages, rows, a, tau, bias)
    out: Tensor = triton_attention(q, list(pages), list(rows), a, tau, bias)
    return out


def write_pages(
    k: Tensor, v: Tensor, pages: Pages, place: Tensor, *, backend: str | None = None
) -> None:
    """Takes new tokens' keys and values of one layer into their pages.

    Args:
        k: (T, Hkv, D).
        v: (T, Hkv, D).
        pages: the layer's; its times are the caller's to write, once for all layers.
        place: int64 (T,), page · P + slot of each token (see `places`).
        backend: as of `paged_attention`.

    Raises:
        ConfigError: an unknown backend, or an input that the named backend does not take.
    """
    chosen = _chosen(backend, k)
    page, slot = place // pages.page_tokens, place % pages.page_tokens
    if pages.keys.dtype == FP8:
        (k, key_scale), (v, value_scale) = as_fp8(k), as_fp8(v)
        pages.key_scale[page, :, slot], pages.value_scale[page, :, slot] = key_scale, value_scale
    else:
        k, v = k.to(pages.keys.dtype), v.to(pages.values.dtype)
    if chosen == "triton":
        triton_write(k, v, pages.keys, pages.values, pages.time_min, place)
        return
    for stored, new in ((pages.keys, k), (pages.values, v)):
        as_stored = torch.uint8 if stored.dtype == FP8 else stored.dtype
        stored.view(as_stored)[page, :, slot] = new.view(as_stored)
