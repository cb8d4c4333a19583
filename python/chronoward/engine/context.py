"""What stays when a context is full: the newest tokens from a visit border on, under a new prompt.

The prompt is derived again at the cut (year and age have moved on) and followed by `continued`, as
in training windows that start mid-life. A visit that fills the whole window is cut at one of its
moments, and keeps its `visit_start visit_type` and a detail that is open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chronoward.errors import DataError
from chronoward.tokenizer.grammar import TokenClass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from chronoward.tokenizer.grammar import GrammarTables

_PROMPT = [
    TokenClass.YEAR,
    TokenClass.AGE,
    TokenClass.SEX,
    TokenClass.RACE,
    TokenClass.CONTINUED,
]
_BETWEEN_VISITS = [TokenClass.GAP, TokenClass.GAP_REPEAT]
_BETWEEN_MOMENTS = [TokenClass.INPATIENT_GAP, TokenClass.INPATIENT_HOUR]
_VISIT_TYPES = [TokenClass.VISIT_TYPE, TokenClass.FLAT_VISIT_TYPE]

# Tokens that a cut may add: four of prompt, `continued`, `visit_start visit_type detail_start`.
MAX_ADDED = 8


def _last(classes: NDArray[np.uint8], wanted: TokenClass) -> int:
    places = np.flatnonzero(classes == wanted)
    return int(places[-1]) if len(places) else -1


def _open_visit(classes: NDArray[np.uint8], position: int) -> list[int]:
    """Places of what is still open at `position`: `visit_start visit_type`, then `detail_start`."""
    before = classes[:position]
    start = _last(before, TokenClass.VISIT_START)
    if start < 0 or classes[start + 1] not in _VISIT_TYPES:
        return []
    detail = _last(before, TokenClass.DETAIL_START)
    is_open = detail > max(start, _last(before, TokenClass.DETAIL_END))
    return [start, start + 1] + [detail] * is_open


def _candidates(classes: NDArray[np.uint8], first: int) -> Iterator[tuple[int, list[int]]]:
    """Places to cut, best first, with the places of the tokens to repeat before them."""
    positions = np.arange(first, len(classes))
    before = classes[positions - 1]
    for position in positions[np.isin(before, _BETWEEN_VISITS)]:
        yield int(position), []
    for position in positions[np.isin(before, _BETWEEN_MOMENTS)]:
        yield int(position), _open_visit(classes, int(position))
    for position in positions:
        yield int(position), _open_visit(classes, int(position))


def cut(
    token_id: NDArray[np.int32],
    time_min: NDArray[np.int32],
    *,
    grammar: GrammarTables,
    origin_us: int,
    keep: int,
    accepts: Callable[[NDArray[np.int32]], bool],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """A window of at most `keep` + `MAX_ADDED` tokens that ends where the context ends.

    Args:
        token_id: int32 (n,), a grammatical context from its prompt on.
        time_min: int32 (n,), its clock.
        grammar: classes, `continued`, and the rule of the prompt.
        origin_us: what the clock counts from.
        keep: how many of the newest tokens may stay.
        accepts: whether the grammar takes a run of tokens.

    Returns:
        Token ids and clock of the new window, int32.

    Raises:
        DataError: no place gives a grammatical window.
    """
    classes = grammar.token_class[token_id]
    n_prompt = int(np.argmin(np.isin(classes, _PROMPT)))
    first = max(n_prompt + 1, len(token_id) - keep)
    for position, repeated in _candidates(classes, first):
        minute = int(time_min[position])
        prompt = grammar.rederive_prompt(token_id, origin_us, minute)
        head = np.concatenate([prompt, token_id[repeated]]).astype(np.int32)
        window = np.concatenate([head, token_id[position:]])
        if accepts(window):
            times = np.concatenate([np.full(len(head), minute, np.int32), time_min[position:]])
            return window, times
    message = "a full context has no place where the grammar allows a cut"
    raise DataError(message)
