"""The sampler as a torch operator, one node for torch.compile."""

from __future__ import annotations

import torch
from chronoward.kernels.sample.tables import Rule, Tables
from torch import Tensor


@torch.library.custom_op("chronoward::sample", mutates_args=("slots",))
def triton_sample(
    logits: Tensor,
    slots: Tensor,
    keys: Tensor,
    tables: list[Tensor],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    max_new_tokens: int,
    max_clock_min: int,
    codes_ascend: bool,
) -> list[Tensor]:
    """`kernel.sample`; `tables` and the numbers are the fields of `Tables` and `Rule`."""
    from chronoward.kernels.sample import kernel

    rule = Rule(temperature, top_k, top_p, min_p, max_new_tokens, max_clock_min, codes_ascend)
    return kernel.sample(logits, slots, keys, Tables(*tables), rule)


@triton_sample.register_fake
def _shapes(
    logits: Tensor,
    slots: Tensor,
    keys: Tensor,
    tables: list[Tensor],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    max_new_tokens: int,
    max_clock_min: int,
    codes_ascend: bool,
) -> list[Tensor]:
    rows = (logits.shape[0],)
    whole = [logits.new_empty(rows, dtype=torch.int32) for _ in range(4)]
    numbers = [logits.new_empty(rows, dtype=x) for x in (torch.float32, torch.float64)]
    n_sets = Tables(*tables).set_words.shape[0]
    return [*whole, *numbers, logits.new_empty((*rows, n_sets), dtype=torch.float32)]
