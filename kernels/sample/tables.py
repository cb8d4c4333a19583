"""What the sampler looks up and what it keeps of each row, as tensors on one device.

A row's place in the grammar, its clock and its random numbers are a line of `slots` and of `keys`:
nothing of it lives on the host while a rollout runs.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from chronoward.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MAX_SETS = 64
N_KNOTS = 33  # of a duration's quantile function: u = 0, 1/32 .. 1

# Classes that the sampler must know by name; csrc/core/token_class.hpp has them all.
PAD, END, SEX, VISIT_START, VISIT_TYPE, DETAIL_END, VISIT_END = 0, 1, 4, 7, 8, 10, 11
DISCHARGE, INPATIENT_GAP, CODE, DEATH = 12, 14, 16, 18
_STRUCTURAL = (VISIT_START, VISIT_TYPE, DETAIL_END, VISIT_END, DISCHARGE)


class Column(IntEnum):
    """Columns of `slots`, int32 (R, 12). Minutes are since the subject's origin; -1 means none."""

    STATE = 0
    SEX = 1
    PREVIOUS_CLASS = 2
    PREVIOUS_TOKEN = 3
    CLOCK = 4
    STEP = 5  # tokens drawn so far
    PREDICTION = 6
    DEADLINE = 7
    MASKED = 8  # outcome set that is not drawn
    ROLLOUT = 9
    STATUS = 10
    FAULT = 11


class Status(IntEnum):
    """Why a row ended, in the order of csrc/core/sample.hpp; the last three are a device's own."""

    RUNNING = 0
    DEADLINE = 1
    DEATH = 2
    END = 3
    OUTCOME = 4
    TOKEN_CAP = 5
    CLOCK_CAP = 6
    FAULT = 7  # its `FAULT` says which
    IDLE = 8
    FULL = 9  # its context is: the host cuts it and finds it another row


class Fault(IntEnum):
    """What a row could not go on with; the host reads it when it reads results."""

    NONE = 0
    NAN = 1
    NO_TOKEN = 2
    NO_FINITE = 3
    NO_MASS = 4


FAULTS = (
    "",
    "NaN logits",
    "the grammar allows no token",
    "no finite logit among the legal tokens",
    "nothing to choose from",
)


class Grammar(Protocol):
    """The arrays of the tokenizer's GrammarTables that are used here."""

    @property
    def token_class(self) -> NDArray[np.uint8]:
        """(V,)."""

    @property
    def next_state(self) -> NDArray[np.int8]:
        """(S, C)."""

    @property
    def state_mask(self) -> NDArray[np.uint32]:
        """(S, W)."""

    @property
    def sex_mask(self) -> NDArray[np.uint32]:
        """(3, W)."""

    @property
    def token_sex(self) -> NDArray[np.uint8]:
        """(V,)."""

    @property
    def duration_rule(self) -> NDArray[np.uint8]:
        """(V,)."""

    @property
    def duration_q(self) -> NDArray[np.int32]:
        """(V, 33)."""

    @property
    def is_moving(self) -> NDArray[np.bool_]:
        """(V,)."""

    @property
    def max_clock_min(self) -> int:
        """Cap on the clock."""

    @property
    def codes_ascend(self) -> bool:
        """Whether codes of a moment ascend."""


class Tables(NamedTuple):
    """Grammar, durations and outcome sets; int32, words hold the bits of 32 tokens.

    Attributes:
        token_class: (V,).
        token_sex: (V,).
        next_state: (S, C), -1 refused.
        state_words: (S, W), what a state allows, without `pad` and what is never drawn.
        sex_words: (3, W).
        code_words: (W,), tokens of class code.
        limits: (3, W): all tokens, those that move the clock, those that only close a visit.
        moving: (n,), tokens that move the clock, ascending.
        moving_index: (V,), place of a token in `moving`, -1.
        rule: (n,), how each of them moves it.
        duration: (n, 33), quantile function of each.
        set_words: (K, W), outcome sets as bits.
        set_tokens: tokens of all sets, ascending in each.
        set_offsets: (K + 1,), bounds of the sets in `set_tokens`.
    """

    token_class: Tensor
    token_sex: Tensor
    next_state: Tensor
    state_words: Tensor
    sex_words: Tensor
    code_words: Tensor
    limits: Tensor
    moving: Tensor
    moving_index: Tensor
    rule: Tensor
    duration: Tensor
    set_words: Tensor
    set_tokens: Tensor
    set_offsets: Tensor


class Rule(NamedTuple):
    """How tokens are drawn; what SamplingParams says, and what the grammar says of the clock."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    max_new_tokens: int
    max_clock_min: int
    codes_ascend: bool

    def truncates(self, vocab_size: int) -> bool:
        """Whether any token is cut off for being improbable."""
        return 0 < self.top_k < vocab_size or self.top_p < 1.0 or self.min_p > 0.0


def _words(tokens: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Bits of tokens (…, V) as words (…, W)."""
    n_words = -(-tokens.shape[-1] // 32)
    padded = np.zeros((*tokens.shape[:-1], 32 * n_words), bool)
    padded[..., : tokens.shape[-1]] = tokens
    return np.packbits(padded, axis=-1, bitorder="little").view(np.int32)


def make_tables(
    grammar: Grammar,
    *,
    outcome_sets: Sequence[Sequence[int]] = (),
    forbid_end: bool = True,
    device: torch.device | str = "cpu",
) -> Tables:
    """Tables of a grammar on a device.

    Args:
        grammar: the tokenizer's.
        outcome_sets: token ids of each set.
        forbid_end: never draw `end`.
        device: where they lie.

    Raises:
        ConfigError: more than 64 sets, or one that names a token outside the vocabulary.
    """
    classes = grammar.token_class
    vocab = len(classes)
    sets = [np.unique(np.asarray(tokens, np.int64)) for tokens in outcome_sets]
    if len(sets) > MAX_SETS or any(len(x) and not 0 <= x[0] <= x[-1] < vocab for x in sets):
        message = f"at most {MAX_SETS} outcome sets, of tokens below {vocab}"
        raise ConfigError(message)
    members = np.zeros((len(sets), vocab), bool)
    for row, tokens in zip(members, sets, strict=True):
        row[tokens] = True
    is_moving = np.asarray(grammar.is_moving, bool)
    moving = np.flatnonzero(is_moving)
    index = np.full(vocab, -1)
    index[moving] = np.arange(len(moving))
    drawable = (classes != PAD) & ~((classes == END) & forbid_end)
    everything = np.full_like(_words(drawable), -1)
    arrays: dict[str, Any] = {
        "token_class": classes,
        "token_sex": grammar.token_sex,
        "next_state": grammar.next_state,
        "state_words": grammar.state_mask.view(np.int32) & _words(drawable),
        "sex_words": grammar.sex_mask.view(np.int32),
        "code_words": _words(classes == CODE),
        "limits": np.stack([everything, _words(is_moving), _words(np.isin(classes, _STRUCTURAL))]),
        "moving": moving,
        "moving_index": index,
        "rule": grammar.duration_rule[moving],
        "duration": grammar.duration_q[moving],
        "set_words": _words(members),
        "set_tokens": np.concatenate([np.zeros(0), *sets]),
        "set_offsets": np.cumsum([0, *(len(x) for x in sets)]),
    }
    return Tables(
        **{n: torch.from_numpy(np.array(x, np.int32)).to(device) for n, x in arrays.items()}
    )


def make_slots(n_rows: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """`slots` int32 (R, 12), all idle, and `keys` int64 (R, 2): Philox key, hash of the subject."""
    slots = torch.full((n_rows, len(Column)), -1, dtype=torch.int32, device=device)
    slots[:, Column.STATUS], slots[:, Column.FAULT] = Status.IDLE, Fault.NONE
    return slots, torch.zeros((n_rows, 2), dtype=torch.int64, device=device)
