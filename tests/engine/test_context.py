"""Cutting a full context, with tokens that are their own classes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from chronoward.engine.context import MAX_ADDED, cut
from chronoward.errors import DataError
from chronoward.tokenizer.grammar import TokenClass as T

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROMPT = [T.YEAR, T.AGE, T.SEX, T.RACE]


def _accepts(window: NDArray[np.int32]) -> bool:
    """Details are opened before they are closed, and codes stand inside a visit."""
    in_visit = in_detail = False
    for token in window.tolist():
        if token == T.DETAIL_END and not in_detail:
            return False
        if token == T.CODE and not in_visit:
            return False
        in_visit = {T.VISIT_START: True, T.VISIT_END: False}.get(token, in_visit)
        in_detail = {T.DETAIL_START: True, T.DETAIL_END: False}.get(token, in_detail)
    return True


def _cut(tokens: list[int], keep: int) -> list[int]:
    token_id = np.asarray([*PROMPT, *tokens], np.int32)
    grammar = SimpleNamespace(
        token_class=np.arange(len(T), dtype=np.uint8),
        rederive_prompt=lambda *_: np.asarray([*PROMPT, T.CONTINUED], np.int32),
    )
    window, times = cut(
        token_id,
        np.arange(len(token_id), dtype=np.int32),
        grammar=grammar,  # type: ignore[arg-type]
        origin_us=0,
        keep=keep,
        accepts=_accepts,
    )
    assert len(window) == len(times) <= keep + MAX_ADDED
    assert (np.diff(times) >= 0).all()
    return window.tolist()[len(PROMPT) :]


def test_a_cut_falls_between_visits_where_it_can() -> None:
    visit = [T.VISIT_START, T.VISIT_TYPE, T.CODE, T.VISIT_END]
    window = _cut([*visit, T.GAP, *visit, T.GAP, *visit], keep=8)
    assert window == [T.CONTINUED, *visit]


def test_a_visit_that_fills_the_window_keeps_its_start_and_its_open_detail() -> None:
    opened = [T.VISIT_START, T.VISIT_TYPE, T.DETAIL_START]
    window = _cut([*opened, *[T.CODE] * 20, T.DETAIL_END], keep=6)
    assert window == [T.CONTINUED, *opened, *[T.CODE] * 5, T.DETAIL_END]


def test_a_detail_that_is_closed_is_not_opened_again() -> None:
    tokens = [T.VISIT_START, T.VISIT_TYPE, T.DETAIL_START, T.DETAIL_END, *[T.CODE] * 20]
    assert _cut(tokens, keep=4) == [T.CONTINUED, T.VISIT_START, T.VISIT_TYPE, *[T.CODE] * 4]


def test_a_context_that_cannot_be_cut_is_an_error() -> None:
    with pytest.raises(DataError, match="no place"):
        _cut([T.CODE] * 20, keep=4)
