"""Kinds of visit, companions and rates, counted in whole timelines."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tests.slow_context import slow_context

from chronoward import _core
from chronoward.tokenizer import TokenClass
from chronoward.train.context import (
    MAX_VISIT_KINDS,
    PRIOR_EVENTS,
    companions,
    token_rates,
    visit_kinds,
)

PROMPT, GAP, START, CLINIC, WARD, CLOSE = range(6)
DISEASE, SUBTYPE, COUGH, RARE = range(6, 10)
CLASSES = np.array(
    [
        *(TokenClass.SEX, TokenClass.GAP, TokenClass.VISIT_START, TokenClass.VISIT_TYPE),
        *(TokenClass.VISIT_TYPE, TokenClass.VISIT_END, *[TokenClass.CODE] * 4),
    ],
    np.uint8,
)
V = len(CLASSES)
TOKENIZER = SimpleNamespace(vocab_size=V, token_class=CLASSES)


def history(rng: np.random.Generator) -> list[int]:
    """The disease begins in a ward; its subtype follows in clinics; coughs come anywhere."""
    tokens, is_ill = [PROMPT], False
    for _ in range(int(rng.integers(2, 12))):
        in_ward = rng.random() < 0.2
        tokens += [GAP, START, WARD if in_ward else CLINIC]
        if rng.random() < 0.3:
            tokens.append(COUGH)
        if in_ward and rng.random() < 0.5:
            tokens.append(DISEASE)
            is_ill = True
        elif is_ill and rng.random() < 0.5:
            tokens.append(SUBTYPE)
        if rng.random() < 0.002:
            tokens.append(RARE)
        tokens.append(CLOSE)
    return tokens


def make_split(n: int, n_shards: int = 2) -> SimpleNamespace:
    rng = np.random.default_rng(5)
    shards = []
    for _ in range(n_shards):
        timelines = [history(rng) for _ in range(n // n_shards)]
        offsets = np.cumsum([0, *map(len, timelines)]).astype(np.int64)
        token_id = np.concatenate(timelines).astype(np.int32)
        shards.append(SimpleNamespace(offsets=offsets, token_id=token_id))
    return SimpleNamespace(shards=shards)


def test_visit_types_begin_kinds_by_how_common_they_are() -> None:
    kinds = visit_kinds(make_split(200), TOKENIZER)
    assert kinds.dtype == np.int8
    assert kinds.tolist() == [-1, 0, -1, 1, 2, 0, -1, -1, -1, -1]


def test_rare_visit_types_share_a_kind() -> None:
    n = MAX_VISIT_KINDS + 5
    token_id = np.repeat(np.arange(n), np.arange(n, 0, -1)).astype(np.int32)
    split = SimpleNamespace(shards=[SimpleNamespace(token_id=token_id)])
    classes = np.full(n, TokenClass.VISIT_TYPE, np.uint8)
    kinds = visit_kinds(split, SimpleNamespace(vocab_size=n, token_class=classes))
    assert kinds.tolist() == [*range(1, MAX_VISIT_KINDS + 1), *[MAX_VISIT_KINDS + 1] * 5]


def test_the_companion_is_the_code_that_announces() -> None:
    companion = companions(make_split(2000), TOKENIZER)
    assert companion.dtype == np.int32
    assert companion[SUBTYPE] == DISEASE
    assert (np.delete(companion, SUBTYPE) == -1).all()


def test_where_little_was_seen_there_is_no_companion() -> None:
    assert (companions(make_split(20), TOKENIZER) == -1).all()


def test_rates_are_counts_over_places() -> None:
    split = make_split(300)
    kind, companion = visit_kinds(split, TOKENIZER), np.full(V, -1, np.int32)
    companion[SUBTYPE] = DISEASE
    companion[RARE] = COUGH
    rules = _core.ContextRules(kind, companion, 3)
    counted, exposed = np.zeros((2, 3, 3, V))
    for shard in split.shards:
        for first, last in zip(shard.offsets[:-1], shard.offsets[1:], strict=True):
            tokens = shard.token_id[first:last].tolist()
            states, kinds = slow_context(tokens, kind, companion)
            for place, following in enumerate(tokens[1:]):
                exposed[states[place], kinds[place], np.arange(V)] += 1
                counted[states[place, following], kinds[place], following] += 1
    rates = token_rates(split, TOKENIZER, rules)
    well_known = exposed > 500
    np.testing.assert_allclose(
        np.where(counted > 200, rates * exposed, counted)[well_known],
        counted[well_known],
        rtol=0.02,
    )
    assert (rates > 0).all()
    # never seen at many places: below one event; never there: the rate without the companion
    assert rates[0, 1, DISEASE] * exposed[0, 1, DISEASE] < PRIOR_EVENTS
    assert counted[0, :, SUBTYPE].sum() == 0
    assert rates[0, 1, SUBTYPE] < 0.02 * rates[1, 1, SUBTYPE]


def test_counts_do_not_depend_on_shards() -> None:
    rules = _core.ContextRules(np.full(V, -1, np.int8), np.full(V, -1, np.int32), 1)
    whole = make_split(40, n_shards=1)
    shard = whole.shards[0]
    cut = shard.offsets[20]
    halves = SimpleNamespace(
        shards=[
            SimpleNamespace(offsets=shard.offsets[:21], token_id=shard.token_id[:cut]),
            SimpleNamespace(offsets=shard.offsets[20:] - cut, token_id=shard.token_id[cut:]),
        ]
    )
    one, two = (token_rates(split, TOKENIZER, rules) for split in (whole, halves))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("token", [-1, V])
def test_a_token_outside_the_vocabulary_is_refused(token: int) -> None:
    rules = _core.ContextRules(np.full(V, -1, np.int8), np.full(V, -1, np.int32), 1)
    offsets, token_id = np.array([0, 2]), np.array([0, token], np.int32)
    with pytest.raises(ValueError, match="not in the vocabulary"):
        _core.count_contexts(rules, offsets, token_id)
    with pytest.raises(ValueError, match="not in the vocabulary"):
        _core.count_precedence(offsets, token_id, np.full(V, -1, np.int32), 0)
