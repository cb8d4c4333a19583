"""The sampler's reference against the C++ sampler, and what both refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from chronoward.kernels.sample import (
    FAULTS,
    Column,
    Fault,
    Status,
    make_slots,
    make_tables,
    sample,
    tables,
)
from scipy.stats import chi2
from tests.engine.toy import (
    DEATH,
    GAP,
    LONG_GAP,
    STAY,
    V,
    toy_grammar,
)
from tests.kernels.sampling import AFTER_VISIT, CASES, IN_VISIT, SETS, Both, faulty, toy_both

from chronoward.engine import STATUSES
from chronoward.errors import ConfigError, DataError, NumericError
from chronoward.tokenizer.grammar import TokenClass


@pytest.mark.parametrize("case", CASES)
def test_the_reference_draws_what_the_core_draws(case: str) -> None:
    both = toy_both(case, 40)
    draw = np.random.default_rng(1)
    for _ in range(15):
        logits = torch.from_numpy(
            draw.normal(size=(40, len(both.tables.token_class))).astype(np.float32)
        )
        logits[:, LONG_GAP] += 2
        if len(both.running()) == 0:
            break
        core = both.core_step(logits)
        both.assert_same(sample(logits, both.slots, both.keys, both.tables, both.rule), core)
    assert (both.slots[:, Column.STEP] > 0).all()


def test_reference_draws_follow_what_the_options_leave() -> None:
    """Chi-square; ten times as many draws of the core, which it equals, are in tests/engine."""
    n = 3000
    logits = torch.linspace(0, 1, V).repeat(n, 1)
    both = Both(toy_grammar(), IN_VISIT, n, temperature=0.5, top_k=4)
    drawn = sample(logits, both.slots, both.keys, both.tables, both.rule).token.numpy()
    legal = [v for v in range(V) if int(both.tables.state_words[4, 0]) >> v & 1]
    legal = [v for v in legal if int(both.tables.sex_words[1, 0]) >> v & 1][-4:]
    expected = np.exp(2 * np.linspace(0, 1, V)[legal])
    expected *= n / expected.sum()
    counts = np.bincount(drawn, minlength=V)
    assert counts[legal].sum() == n
    assert ((counts[legal] - expected) ** 2 / expected).sum() < chi2.ppf(0.9999, 3)


def test_rows_that_cannot_go_on_say_why_and_leave_the_others_alone() -> None:
    both = Both(toy_grammar(), IN_VISIT, 6)
    logits, expected = faulty(both)
    draws = sample(logits, both.slots, both.keys, both.tables, both.rule)
    found = {row: Fault(x) for row, x in enumerate(both.slots[:, Column.FAULT].tolist()) if x}
    assert found == expected
    assert draws.status.tolist() == [0, 7, 7, 7, 0, 7]
    assert draws.token[[0, 4]].gt(0).all()
    again = sample(torch.zeros(6, V), both.slots, both.keys, both.tables, both.rule)
    assert again.status.tolist() == [0, 7, 7, 7, 0, 7]  # they stay where they are
    for row in (1, 2, 3):
        with pytest.raises(NumericError, match=FAULTS[expected[row]]):
            Both(toy_grammar(), IN_VISIT, 1).core_step(logits[row : row + 1])


def test_classes_and_statuses_are_those_of_the_tokenizer_and_the_engine() -> None:
    for name in (
        "PAD", "END", "SEX", "VISIT_START", "VISIT_TYPE", "DETAIL_END", "VISIT_END", "DISCHARGE",
        "INPATIENT_GAP", "CODE", "DEATH",
    ):  # fmt: skip
        assert getattr(tables, name) == TokenClass[name]
    assert [s.name.lower() for s in Status][: len(STATUSES)] == list(STATUSES)
    assert len(FAULTS) == len(Fault)


def test_tables_name_the_tokens_that_move_the_clock() -> None:
    made = make_tables(toy_grammar(), outcome_sets=SETS)
    assert made.moving.tolist() == [GAP, LONG_GAP, STAY]
    assert made.set_offsets.tolist() == [0, 2, 3]
    assert made.set_tokens.tolist() == [*sorted(SETS[0].tolist()), DEATH]
    with pytest.raises(ConfigError, match="at most 64 outcome sets, of tokens below 18"):
        make_tables(toy_grammar(), outcome_sets=[[V]])
    with pytest.raises(ConfigError, match="at most 64 outcome sets"):
        make_tables(toy_grammar(), outcome_sets=[[1]] * 65)


def test_arguments_that_do_not_fit_are_refused() -> None:
    both = Both(toy_grammar(), AFTER_VISIT, 2)
    slots, keys = make_slots(3)
    rest = (both.tables, both.rule)
    with pytest.raises(DataError, match="a line for each of 2 rows"):
        sample(torch.zeros(2, V), slots, keys, *rest)
    with pytest.raises(DataError, match="the tables have 18 tokens, the logits 17"):
        sample(torch.zeros(2, V - 1), both.slots, both.keys, *rest)
    with pytest.raises(DataError, match="slots must be int32"):
        sample(torch.zeros(2, V), both.slots.long(), both.keys, *rest)
    with pytest.raises(DataError, match="must be contiguous"):
        sample(torch.zeros(2, V), torch.cat([both.slots, both.slots], 1)[:, :12], both.keys, *rest)
    with pytest.raises(ConfigError, match="backend must be one of"):
        sample(torch.zeros(2, V), both.slots, both.keys, *rest, backend="cuda")
    with pytest.raises(ConfigError, match="needs triton and a CUDA device, got cpu"):
        sample(torch.zeros(2, V), both.slots, both.keys, *rest, backend="triton")
