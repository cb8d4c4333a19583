"""The same rollouts in the C++ sampler and in that of a device, for tests to compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from chronoward.kernels.sample import Column, Draws, Fault, Rule, Status, make_slots, make_tables
from tests.engine.toy import (
    COUGH,
    DAY,
    DEATH,
    FEMALE,
    FINISH,
    OUTCOME,
    START,
    TYPE,
    YOUNG,
    V,
    toy_grammar,
)
from torch import Tensor

from chronoward import philox
from chronoward.engine import SamplingParams
from chronoward.engine.randomness import stream_key

if TYPE_CHECKING:
    from chronoward.tokenizer.grammar import GrammarTables

IN_VISIT = np.array([YOUNG, FEMALE, START, TYPE], np.int32)
AFTER_VISIT = np.array([YOUNG, FEMALE, START, TYPE, FINISH], np.int32)
SETS = (np.array([OUTCOME, COUGH], np.int32), np.array([DEATH], np.int32))
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tempered": {"temperature": 0.7},
    "top-k": {"top_k": 5},
    "top-p": {"top_p": 0.8},
    "min-p": {"min_p": 0.3},
    "all-cuts": {"temperature": 1.3, "top_k": 9, "top_p": 0.9, "min_p": 0.05, "masked": 0},
    "masked": {"masked": 1},
    "silent": {"prediction": 130 * DAY, "deadline": 140 * DAY},
    "silent-beyond-every-gap": {"prediction": 900 * DAY, "masked": 0},
    "near-the-cap": {"clock": 120 * 366 * DAY - DAY // 2},
}
KEY = stream_key(0, "main")
SUBJECT, PREDICTED_US = -3, 11


def rule_of(params: SamplingParams, grammar: GrammarTables) -> Rule:
    return Rule(
        params.temperature,
        params.top_k,
        params.top_p,
        params.min_p,
        params.max_new_tokens,
        grammar.max_clock_min,
        grammar.codes_ascend,
    )


class Both:
    """n rollouts after one prompt, in the C++ sampler and as lines of `slots`."""

    def __init__(
        self,
        grammar: GrammarTables,
        prompt: np.ndarray,
        n_rows: int,
        *,
        clock: int = 0,
        prediction: int = -1,
        deadline: int = -1,
        masked: int = -1,
        **params: Any,
    ) -> None:
        self.params = SamplingParams(**params)
        self.rule = rule_of(self.params, grammar)
        self.core = self.params.sampler(grammar, n_rows)
        self.tables = make_tables(
            grammar, outcome_sets=self.params.outcome_sets, forbid_end=self.params.forbid_end
        )
        for slot in range(n_rows):
            self.core.load(
                slot, prompt, key=KEY, subject_id=SUBJECT, prediction_time_us=PREDICTED_US,
                rollout=slot, clock_min=clock, prediction_min=prediction, deadline_min=deadline,
                masked_set=masked,
            )  # fmt: skip
        self.slots, self.keys = make_slots(n_rows)
        state, sex = grammar.start_state, 0
        for token in prompt:
            state = int(grammar.next_state[state, grammar.token_class[token]])
            sex = int(grammar.token_sex[token]) or sex
        line = {
            Column.STATE: state,
            Column.SEX: sex,
            Column.PREVIOUS_CLASS: int(grammar.token_class[prompt[-1]]),
            Column.PREVIOUS_TOKEN: int(prompt[-1]),
            Column.CLOCK: clock,
            Column.STEP: 0,
            Column.PREDICTION: prediction,
            Column.DEADLINE: deadline,
            Column.MASKED: masked,
            Column.STATUS: Status.RUNNING,
            Column.FAULT: Fault.NONE,
        }
        for column, value in line.items():
            self.slots[:, column] = int(value)
        self.slots[:, Column.ROLLOUT] = torch.arange(n_rows)
        subject = philox.hash64(SUBJECT, PREDICTED_US)
        who = np.array([KEY, subject], np.uint64).view(np.int64)
        self.keys[:] = torch.from_numpy(who)

    def running(self) -> np.ndarray:
        return np.flatnonzero((self.slots[:, Column.STATUS] == Status.RUNNING).numpy())

    def core_step(self, logits: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rows that ran, their tokens, clocks and statuses."""
        rows = self.running().astype(np.int32)
        chosen = np.ascontiguousarray(logits.numpy()[rows])
        return (rows, *self.core.step(chosen, rows))

    def assert_same(self, draws: Draws, core: tuple[np.ndarray, ...]) -> None:
        """Every row that ran drew what C++ drew: token, clock, status, probabilities."""
        rows, tokens, times, statuses = core
        assert draws.status.numpy()[rows].tolist() == statuses.tolist()
        drew = ~np.isin(statuses, [Status.OUTCOME, Status.CLOCK_CAP])
        assert draws.token.numpy()[rows][drew].tolist() == tokens[drew].tolist()
        assert draws.time_min.numpy()[rows].tolist() == times.tolist()
        for row, is_drawn in zip(rows, drew, strict=True):
            kept = self.core.arrays(int(row))
            if is_drawn:
                np.testing.assert_allclose(draws.log_p[row], kept["log_p"][-1], atol=2e-6)
                assert float(draws.value_u[row]) == kept["value_u"][-1]
            if int(draws.step_min[row]) >= 0:
                assert int(draws.step_min[row]) == kept["step_min"][-1]
                np.testing.assert_allclose(
                    draws.outcome_p[row].numpy(), kept["outcome_p"][-1], rtol=1e-5, atol=1e-7
                )


def toy_both(case: str, n_rows: int) -> Both:
    """Rollouts over the toy's tokens and 60 more codes, which ascend."""
    options = {"clock": 100 * DAY, **CASES[case]}
    grammar = toy_grammar(n_more_codes=60, long_gap=(2 * DAY, 90 * DAY), codes_ascend=True)
    return Both(grammar, IN_VISIT, n_rows, outcome_sets=SETS, max_new_tokens=15, **options)


def faulty(both: Both) -> tuple[Tensor, dict[int, Fault]]:
    """Logits of six rows, and what is wrong with some of them."""
    logits = torch.zeros(6, V)
    logits[1, 0] = float("nan")  # even where the token is not legal
    logits[2, COUGH] = float("inf")
    logits[3] = float("-inf")
    logits[4, DEATH] = float("inf")  # not legal here: no harm
    both.slots[5, Column.STATE] = 7
    both.tables.state_words[7] = 0
    return logits, {1: Fault.NAN, 2: Fault.NO_FINITE, 3: Fault.NO_FINITE, 5: Fault.NO_TOKEN}
