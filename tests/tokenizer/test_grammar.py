from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.tokenizer.clinic import DAY_US, EPOCH_2010, SPECS

from chronoward.errors import DataError
from chronoward.tokenizer import TokenClass, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from chronoward.tokenizer import GrammarTables


def is_short_gap(grammar: GrammarTables) -> np.ndarray:
    return (grammar.token_class == TokenClass.GAP) & (grammar.duration_lo < 1440)


def test_masks_agree_with_the_automaton_but_for_continued(
    tokenizer_of: Callable[[str], Tokenizer],
) -> None:
    for name in SPECS:
        grammar = tokenizer_of(name).grammar()
        for state in range(len(grammar.state_names)):
            wanted = grammar.next_state[state, grammar.token_class] >= 0
            wanted[grammar.continued_id] = False
            if grammar.state_names[state] == "start":
                wanted &= ~is_short_gap(grammar)
            assert np.array_equal(grammar.legal(state), wanted)


def test_every_state_but_the_last_has_a_legal_token_for_every_sex(
    tokenizer_of: Callable[[str], Tokenizer],
) -> None:
    for name in SPECS:
        grammar = tokenizer_of(name).grammar()
        for state, label in enumerate(grammar.state_names):
            for sex in range(3):
                assert grammar.legal(state, sex).any() == (label != "done")


def test_quantile_functions_stay_inside_their_buckets(
    tokenizer_of: Callable[[str], Tokenizer],
) -> None:
    for name in SPECS:
        grammar = tokenizer_of(name).grammar()
        drawn = grammar.duration_rule == 1
        q = grammar.duration_q[drawn]
        assert (np.diff(q, axis=1) >= 0).all()
        assert (q[:, 0] >= grammar.duration_lo[drawn]).all()
        assert (q[:, -1] < grammar.duration_hi[drawn]).all()


def test_a_prompt_rederived_at_a_cut_moves_year_and_age_on(
    tokenizer_of: Callable[[str], Tokenizer],
) -> None:
    tokenizer = tokenizer_of("compact")
    grammar = tokenizer.grammar()
    prompt = tokenizer.prompt(year=2006, age_years=50.5, sex="F", race="Race/2")
    labels = [tokenizer.labels[t] for t in prompt]
    assert labels == ["year:2006", "age:50", "Gender/F", "Race/2"]
    origin = EPOCH_2010 - 54 * 365 * DAY_US
    minutes = 54 * 365 * 1440 + 10
    moved = grammar.rederive_prompt(prompt, origin, minutes)
    labels = [tokenizer.labels[t] for t in moved]
    assert labels == ["year:2010", "age:53", "Gender/F", "Race/2", "[CONTINUED]"]
    again = tokenizer.prompt_at(origin, minutes, int(prompt[2]), int(prompt[3]))
    assert np.array_equal(again, moved[:-1])
    assert grammar.state_names[grammar.run(moved)] == "continued"


def test_an_unknown_age_stays_unknown(tokenizer_of: Callable[[str], Tokenizer]) -> None:
    tokenizer = tokenizer_of("compact")
    prompt = tokenizer.prompt(year=2008)
    moved = tokenizer.grammar().rederive_prompt(prompt, EPOCH_2010, 10_000_000)
    assert tokenizer.labels[moved[1]] == "age:unknown"


def test_a_drawn_start_agrees_with_its_prompt(tokenizer_of: Callable[[str], Tokenizer]) -> None:
    tokenizer = tokenizer_of("compact")
    grammar = tokenizer.grammar()
    rng = np.random.default_rng(0)
    years = np.flatnonzero(grammar.token_class == TokenClass.YEAR)
    for age in grammar.age_token:
        prompt = np.array([rng.choice(years), age, *tokenizer.prompt(year=2009)[2:]], np.int32)
        origin, clock = tokenizer.start(prompt, rng.random(3))
        assert origin % DAY_US == 0
        assert np.array_equal(
            grammar.rederive_prompt(prompt, origin, clock, continued=False), prompt
        )


def test_a_refused_token_is_named_by_position_and_state(
    tokenizer_of: Callable[[str], Tokenizer],
) -> None:
    tokenizer = tokenizer_of("compact")
    tokens = [*tokenizer.prompt(year=2009), tokenizer.grammar().pad_id]
    with pytest.raises(DataError, match=r"token 4 \(pad\) may not follow in start"):
        tokenizer.grammar().run(tokens)


def test_a_timeline_may_wait_for_its_first_visit_but_not_for_hours(
    tokenizer_of: Callable[[str], Tokenizer],
) -> None:
    for name in SPECS:
        tokenizer = tokenizer_of(name)
        grammar = tokenizer.grammar()
        start = grammar.state_names.index("start")
        gaps = grammar.legal(start) & (grammar.token_class == TokenClass.GAP)
        assert gaps.any() == (tokenizer.spec.preset != "cehr"), name
        assert not (gaps & is_short_gap(grammar)).any()
