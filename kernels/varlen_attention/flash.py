"""Flash attention over packed rows: only causal and without a bias, fp16 or bf16, on a GPU.

torch's own `varlen_attn` where this torch has it, else the flash-attn package.
"""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from chronoward.errors import ConfigError


def _varlen_options(function: Any) -> dict[str, Any]:
    """What says causal in this torch: `is_causal` until 2.11, `window_size` since."""
    names = inspect.signature(function).parameters
    options: dict[str, Any] = {"is_causal": True}
    if "window_size" in names:
        options = {"window_size": (-1, 0)}
    return options | ({"enable_gqa": True} if "enable_gqa" in names else {})


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int | None = None
) -> Tensor:
    """Causal attention of each segment.

    Args:
        q: (T, H, D), fp16 or bf16.
        k, v: (T, Hkv, D).
        cu_seqlens: int32 (n + 1,); must start at 0 and end at T if `max_seqlen` is given.
        max_seqlen: length of the longest segment; None reads it back, which waits for the GPU.

    Returns:
        (T, H, D), zero outside every segment.

    Raises:
        ConfigError: neither implementation is installed.
    """
    n_tokens = q.shape[0]
    bounds = cu_seqlens
    if max_seqlen is None:
        # what lies outside becomes segments too, so that no output or gradient stays unwritten
        ends = cu_seqlens.new_tensor([0, n_tokens])
        bounds = torch.cat([ends[:1], cu_seqlens, ends[1:]])
        max_seqlen = int(bounds.diff().max())
    if find_spec("torch.nn.attention.varlen"):
        from torch.nn.attention.varlen import varlen_attn

        options = _varlen_options(varlen_attn)
        if "enable_gqa" not in options:
            group = q.shape[1] // k.shape[1]
            k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        out: Any = varlen_attn(q, k, v, bounds, bounds, max_seqlen, max_seqlen, **options)
    elif find_spec("flash_attn"):
        from flash_attn import flash_attn_varlen_func

        out = flash_attn_varlen_func(
            q, k, v, bounds, bounds, max_seqlen, max_seqlen, causal=True, deterministic=True
        )
    else:
        message = "backend 'flash' needs torch.nn.attention.varlen or the package flash-attn"
        raise ConfigError(message)
    position = torch.arange(n_tokens, device=q.device)
    is_inside = (position >= cu_seqlens[0]) & (position < cu_seqlens[-1])
    result: Tensor = torch.where(is_inside[:, None, None], out, 0)
    return result
