"""Draws the next token of each row on a device, under a grammar and its clock.

The mathematics is in this folder's README. On a CPU the engine draws in C++ (csrc/core/sample.cpp);
this is the same sampler for rows whose state stays on the device.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

import torch
from chronoward.kernels.sample.operators import triton_sample
from chronoward.kernels.sample.reference import sample_reference
from chronoward.kernels.sample.tables import (
    FAULTS,
    Column,
    Fault,
    Rule,
    Status,
    Tables,
    make_slots,
    make_tables,
)
from chronoward.kernels.varlen_attention.tiles import interprets
from torch import Tensor

from chronoward.errors import ConfigError, DataError

__all__ = [
    "BACKENDS",
    "FAULTS",
    "Column",
    "Draws",
    "Fault",
    "Rule",
    "Status",
    "Tables",
    "make_slots",
    "make_tables",
    "sample",
]

BACKENDS = ("triton", "reference")
_HAS_TRITON = find_spec("triton") is not None


class Draws(NamedTuple):
    """What a step drew, a row each.

    Attributes:
        token: int32 (R,), 0 where nothing was drawn.
        time_min: int32 (R,), the clock after it.
        status: int32 (R,), see `Status`.
        step_min: int32 (R,), the clock before it, -1 where there was nothing to draw from.
        log_p: fp32 (R,), under the distribution it was drawn from.
        value_u: fp64 (R,), uniform number for the value inside its bin.
        outcome_p: fp32 (R, K), probability of each outcome set, before any masking.
    """

    token: Tensor
    time_min: Tensor
    status: Tensor
    step_min: Tensor
    log_p: Tensor
    value_u: Tensor
    outcome_p: Tensor


def _check(logits: Tensor, slots: Tensor, keys: Tensor, tables: Tables) -> None:
    n_rows, n_vocab = logits.shape
    if slots.shape != (n_rows, len(Column)) or keys.shape != (n_rows, 2):
        message = f"slots and keys need a line for each of {n_rows} rows of logits"
        raise DataError(message)
    if slots.dtype != torch.int32 or keys.dtype != torch.int64:
        message = f"slots must be int32 and keys int64, got {slots.dtype} and {keys.dtype}"
        raise DataError(message)
    if not (slots.is_contiguous() and keys.is_contiguous()):
        message = "slots and keys must be contiguous"
        raise DataError(message)
    if tables.token_class.shape != (n_vocab,):
        message = f"the tables have {len(tables.token_class)} tokens, the logits {n_vocab}"
        raise DataError(message)


def sample(
    logits: Tensor,
    slots: Tensor,
    keys: Tensor,
    tables: Tables,
    rule: Rule,
    *,
    backend: str | None = None,
) -> Draws:
    """Draws one token for each running row and takes its state a step further.

    What a row draws depends on its own logits, its line of `slots` and its line of `keys` only.
    A row that cannot go on gets status `FAULT` and the reason in its column, for the host to read
    when it reads results; nothing here waits for a device.

    Args:
        logits: (R, V).
        slots: int32 (R, 12), see `Column`; changed in place.
        keys: int64 (R, 2), bits of the Philox key and of the subject's hash.
        tables: of the grammar, on the same device.
        rule: how to draw.
        backend: one of `BACKENDS`; None takes `triton` on a GPU, else `reference`.

    Raises:
        DataError: shapes or dtypes that do not fit.
        ConfigError: an unknown backend, or `triton` where it cannot run.
    """
    chosen = backend or ("triton" if logits.is_cuda and _HAS_TRITON else "reference")
    if chosen not in BACKENDS:
        message = f"backend must be one of {BACKENDS}, got {backend!r}"
        raise ConfigError(message)
    if chosen == "triton" and not (_HAS_TRITON and (logits.is_cuda or interprets())):
        message = f"backend 'triton' needs triton and a CUDA device, got {logits.device.type}"
        raise ConfigError(message)
    _check(logits, slots, keys, tables)
    if chosen == "triton":
        return Draws(*triton_sample(logits, slots, keys, list(tables), *rule))
    found = sample_reference(logits, slots, keys, tables, rule)

    def tensor(name: str, dtype: torch.dtype) -> Tensor:
        return torch.tensor([getattr(x, name) for x in found], dtype=dtype, device=logits.device)

    outcome_p = torch.zeros((len(found), len(tables.set_words)), device=logits.device)
    for row, x in zip(outcome_p, found, strict=True):
        row.copy_(torch.from_numpy(x.outcome_p))
    return Draws(
        token=tensor("token", torch.int32),
        time_min=tensor("time", torch.int32),
        status=tensor("status", torch.int32),
        step_min=tensor("step_min", torch.int32),
        log_p=tensor("log_p", torch.float32),
        value_u=tensor("value_u", torch.float64),
        outcome_p=outcome_p,
    )
