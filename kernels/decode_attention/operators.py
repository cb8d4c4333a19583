"""Decode attention over pages as torch operators, each one node for torch.compile."""

from __future__ import annotations

import torch
from chronoward.kernels.decode_attention.pages import Pages, Rows
from torch import Tensor


@torch.library.custom_op("chronoward::decode_attention", mutates_args=())
def triton_attention(
    q: Tensor,
    pages: list[Tensor],
    rows: list[Tensor],
    a: Tensor,
    tau: Tensor,
    bias: str,
) -> Tensor:
    """`kernel.attend`; `pages` and `rows` are the fields of `Pages` and `Rows`."""
    from chronoward.kernels.decode_attention import kernel

    return kernel.attend(q, Pages(*pages), Rows(*rows), a, tau, bias)


@triton_attention.register_fake
def _shape(
    q: Tensor, pages: list[Tensor], rows: list[Tensor], a: Tensor, tau: Tensor, bias: str
) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


@torch.library.custom_op("chronoward::decode_attention_write", mutates_args=("keys", "values"))
def triton_write(
    k: Tensor, v: Tensor, keys: Tensor, values: Tensor, time_min: Tensor, place: Tensor
) -> None:
    """`kernel.write` of a layer's keys and values."""
    from chronoward.kernels.decode_attention import kernel

    nothing = time_min.new_empty(0)
    kernel.write(k, v, Pages(keys, values, time_min, nothing, nothing), place)


@triton_write.register_fake
def _nothing(
    k: Tensor, v: Tensor, keys: Tensor, values: Tensor, time_min: Tensor, place: Tensor
) -> None:
    return None
