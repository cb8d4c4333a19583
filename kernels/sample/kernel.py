"""Host side of the Triton sampler: allocate, launch; nothing here waits for the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
from chronoward.kernels.sample.kernel_draw import sample_draw_kernel
from chronoward.kernels.sample.kernel_legal import sample_legal_kernel
from chronoward.kernels.sample.kernel_outcomes import sample_outcomes_kernel
from chronoward.kernels.varlen_attention.tiles import interprets

if TYPE_CHECKING:
    from chronoward.kernels.sample.tables import Rule, Tables
    from torch import Tensor

WORDS, MOVING, SET_TOKENS = 256, 128, 128  # of a block
MAX_BLOCKS = 64


def _launch(kernel: Any, n_programs: int, *arguments: Any, **constants: Any) -> None:
    kernel[(n_programs,)](*arguments, **constants)


def block_tokens(vocab_size: int) -> int:
    """Tokens of a block of logits: at most 64 blocks; small in the interpreter, so that a toy's
    vocabulary has several."""
    least = 32 if interprets() else 1024
    return max(least, int(triton.next_power_of_2(triton.cdiv(vocab_size, MAX_BLOCKS))))


def sample(logits: Tensor, slots: Tensor, keys: Tensor, tables: Tables, rule: Rule) -> list[Tensor]:
    """A step of all rows; `slots` is changed in place. Arguments and results as of `sample`."""
    n_rows, n_vocab = logits.shape
    device = logits.device

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    n_words, n_moving = tables.code_words.shape[0], tables.moving.shape[0]
    n_sets, block = tables.set_words.shape[0], block_tokens(n_vocab)
    n_blocks = triton.cdiv(n_vocab, block)
    words = empty(n_rows, n_words, dtype=torch.int32)
    share = empty(n_rows, n_moving, dtype=torch.float64)
    scope = empty(n_rows, dtype=torch.int32)
    totals = empty(n_rows, 2, dtype=torch.float64)
    token, time_min, status, step_min = (empty(n_rows, dtype=torch.int32) for _ in range(4))
    log_p = empty(n_rows, dtype=torch.float32)
    value_u = empty(n_rows, dtype=torch.float64)
    outcome_p = empty(n_rows, n_sets, dtype=torch.float32)
    logits = logits.contiguous()
    allowed = (words, share, scope, tables.limits, tables.moving_index)
    top_k = rule.top_k if rule.top_k < n_vocab else 0
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        _launch(
            sample_legal_kernel,
            n_rows,
            *(slots, tables.state_words, tables.sex_words, tables.code_words, tables.limits),
            *(tables.moving, tables.rule, tables.duration, words, share, scope, n_words, n_moving),
            MAX_CLOCK=rule.max_clock_min,
            CODES_ASCEND=rule.codes_ascend,
            BW=WORDS,
            BM=MOVING,
        )
        _launch(
            sample_draw_kernel,
            n_rows,
            *(logits, slots, keys, words, share, scope, tables.limits, tables.moving_index),
            *(tables.token_class, tables.token_sex, tables.next_state, tables.rule),
            *(tables.duration, tables.set_words, totals),
            *(token, time_min, status, step_min, log_p, value_u),
            *(n_vocab, n_words, n_moving, tables.next_state.shape[1], n_blocks),
            *(rule.temperature, top_k, rule.top_p, rule.min_p),
            *(rule.max_new_tokens, rule.max_clock_min),
            TEMPERED=rule.temperature != 1.0,
            TRUNCATES=rule.truncates(n_vocab),
            BLOCK=block,
            NB=triton.next_power_of_2(n_blocks),
            num_warps=8,
        )
        if n_sets:
            _launch(
                sample_outcomes_kernel,
                n_rows * n_sets,
                *(logits, *allowed, tables.set_tokens, tables.set_offsets, totals, outcome_p),
                *(n_vocab, n_words, n_moving, n_sets),
                BLOCK=SET_TOKENS,
            )
    return [token, time_min, status, step_min, log_p, value_u, outcome_p]
