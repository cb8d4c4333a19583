"""The engine's part of the list of bad input (cases 77 to 84), by number."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.engine.toy import (
    COUGH,
    DAY,
    FINISH,
    GAP,
    MALE,
    PROSTATE,
    START,
    TYPE,
    YOUNG,
    MarkovDecoder,
    V,
    toy_engine,
    toy_grammar,
    toy_probabilities,
    toy_prompt,
)  # fmt: skip

from chronoward.engine import Engine, EngineConfig, Rollout, SamplingParams, admission
from chronoward.engine import memory as engine_memory
from chronoward.engine.workers import map_units
from chronoward.errors import ConfigError, DataError, LimitError, NumericError, StateError
from chronoward.model import Model, ModelConfig

PLAIN = SamplingParams(max_new_tokens=30)


class Broken(MarkovDecoder):
    """One logit of the third step is not a number, or infinite."""

    value = np.nan

    def forward(self, *arguments: object, **options: object) -> np.ndarray | None:
        logits = super().forward(*arguments, **options)  # type: ignore[arg-type]
        self.calls = getattr(self, "calls", 0) + (logits is not None)
        if logits is not None and self.calls == 3:
            logits[-1, :] = self.value
        return logits


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"NaN logits at step 2, slot \d"),
        (np.inf, r"no finite logit among the legal tokens at step 2, slot \d"),
        (-np.inf, r"no finite logit among the legal tokens at step 2, slot \d"),
    ],
)
def test_77_logits_that_are_no_numbers_name_step_and_slot(value: float, message: str) -> None:
    decoder = Broken(toy_probabilities())
    decoder.value = value
    engine = Engine(decoder, toy_grammar(), EngineConfig(n_slots=4))
    with pytest.raises(NumericError, match=message):
        list(engine.generate([toy_prompt(8, n_days=50)], PLAIN))


def test_78_an_empty_mask_names_step_and_slot() -> None:
    grammar = toy_grammar()
    grammar.state_mask[5] = 0  # nothing may follow a visit's end
    engine = Engine(MarkovDecoder(toy_probabilities()), grammar, EngineConfig(n_slots=1))
    with pytest.raises(NumericError, match="the grammar allows no token at step 0, slot 0"):
        list(engine.generate([toy_prompt(1)], PLAIN))


class Drowned(MarkovDecoder):
    """Tokens that the grammar forbids everywhere behind a prompt have all the mass there is."""

    def forward(self, *arguments: object, **options: object) -> np.ndarray | None:
        logits = super().forward(*arguments, **options)  # type: ignore[arg-type]
        if logits is not None:
            logits[:, [YOUNG, MALE]] = 3e38
        return logits


def test_79_probabilities_are_those_of_the_legal_tokens_whatever_the_others_hold() -> None:
    def draw(decoder: MarkovDecoder) -> list[Rollout]:
        engine = Engine(decoder, toy_grammar(), EngineConfig(n_slots=4))
        return sorted(engine.generate([toy_prompt(20)], PLAIN), key=lambda r: r.rollout)

    for plain, drowned in zip(
        draw(MarkovDecoder(toy_probabilities())), draw(Drowned(toy_probabilities())), strict=True
    ):
        assert np.array_equal(plain.token_id, drowned.token_id)
        assert np.array_equal(plain.log_p, drowned.log_p)
        assert (plain.log_p <= 0).all()


def test_prompts_are_remembered_in_constant_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "REMEMBERED_PROMPTS", 4)
    prompts = [replace(toy_prompt(1), subject_id=i) for i in range(8)]
    engine = toy_engine(toy_probabilities())
    assert len(list(engine.generate([*prompts, prompts[0]], PLAIN))) == 9  # the first is forgotten
    with pytest.raises(DataError, match="prompts 5 and 8 are of one subject"):
        list(engine.generate([*prompts, prompts[5]], PLAIN))


def test_80_a_prefix_longer_than_the_context_keeps_its_newest_half_and_is_counted() -> None:
    engine = Engine(MarkovDecoder(toy_probabilities()), toy_grammar(), EngineConfig(max_context=64))
    short = toy_prompt(1)
    more = np.array([GAP, START, TYPE, COUGH, FINISH] * 30, np.int32)
    tokens = np.concatenate([short.token_id, more])
    times = 70 * DAY + np.cumsum(tokens == GAP, dtype=np.int32) * DAY
    long = replace(short, subject_id=8, token_id=tokens, time_min=times.astype(np.int32))
    assert len(list(engine.generate([short, long], PLAIN))) == 2
    assert engine.statistics.cut_prompts == 1
    assert engine.statistics.prefilled_tokens < len(short.token_id) + 64


def test_81_82_a_rollout_at_the_token_cap_is_undetermined_not_lost() -> None:
    stuck = toy_probabilities()
    stuck[COUGH] = 0
    stuck[COUGH, COUGH] = 1  # a loop in which no time passes
    stuck[TYPE] = 0
    stuck[TYPE, COUGH] = 1
    engine = Engine(MarkovDecoder(stuck), toy_grammar(), EngineConfig(n_slots=2))
    rollouts = list(engine.generate([toy_prompt(5, n_days=50)], PLAIN))
    assert [r.status for r in rollouts] == ["token_cap"] * 5
    assert all(len(r.token_id) == 30 for r in rollouts)


def test_83_a_clock_past_the_cap_is_an_error_and_one_at_the_cap_stops_there() -> None:
    grammar = toy_grammar(max_clock_min=102 * DAY)
    engine = toy_engine(toy_probabilities(death=0.0), grammar=grammar)
    prompt = replace(toy_prompt(3), deadline_min=None)
    for rollout in engine.generate([prompt], SamplingParams()):
        assert rollout.status == "clock_cap"
        assert rollout.time_min.max() <= 102 * DAY
    late = replace(prompt, time_min=prompt.time_min + 10 * DAY, prediction_min=None)
    with pytest.raises(DataError, match=r"prompt 0: .*past the grammar's last minute"):
        list(engine.generate([late], PLAIN))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_84_a_temperature_that_is_not_positive_and_finite_is_an_error(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature must be positive"):
        SamplingParams(temperature=temperature)


def test_84_no_rollouts_is_an_error() -> None:
    with pytest.raises(ConfigError, match="prompt 0: rollouts must be a non-empty range"):
        list(toy_engine(toy_probabilities()).generate([toy_prompt(0)], PLAIN))


def test_a_prefix_that_the_grammar_refuses_names_position_and_rule() -> None:
    engine = toy_engine(toy_probabilities())
    good = toy_prompt(1)
    for token, rule in ((START, "order"), (V, "token_range"), (-1, "token_range")):
        tokens = good.token_id.copy()
        tokens[4] = token
        with pytest.raises(DataError, match=rf"prompt 0: .* position 4 \(rule {rule}\)"):
            list(engine.generate([replace(good, token_id=tokens)], PLAIN))


def test_an_unfinished_admission_goes_on() -> None:
    engine = toy_engine(toy_probabilities())
    clock = 100 * DAY
    tokens = np.array([YOUNG, MALE, START, TYPE, PROSTATE], np.int32)
    prompt = replace(
        toy_prompt(20), token_id=tokens, time_min=np.full(5, clock, np.int32), prediction_min=None
    )
    probabilities = toy_probabilities()
    probabilities[PROSTATE, FINISH] = 1
    engine = toy_engine(probabilities)
    for rollout in engine.generate([prompt], PLAIN):
        assert rollout.token_id[0] == FINISH  # the visit is ended, not begun again


def test_an_outcome_set_that_is_empty_or_unknown_is_an_error() -> None:
    with pytest.raises(ConfigError, match="outcome set 0 is empty"):
        SamplingParams(outcome_sets=(np.zeros(0, np.int32),))
    for token in (V, -1):
        params = SamplingParams(outcome_sets=(np.array([token], np.int32),))
        with pytest.raises(ValueError, match="outside the vocabulary"):
            list(toy_engine(toy_probabilities()).generate([toy_prompt(1)], params))


def test_more_slots_than_memory_is_said_before_any_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model(ModelConfig(vocab_size=V))
    with pytest.raises(LimitError, match=r"tokens of keys and values take .* GiB, and .* GiB are"):
        Engine(model, toy_grammar(), EngineConfig(n_slots=10**7))
    monkeypatch.setattr(engine_memory, "_MEMINFO", Path("/nowhere"))
    monkeypatch.setattr(engine_memory, "_GROUP", Path("/nowhere"))
    assert engine_memory.available_bytes() is None  # a system that does not say: nothing is refused
    Engine(model, toy_grammar())


def _die(_engine: Engine, unit: int) -> int:
    if unit == 2:
        os._exit(9)
    return unit


def test_a_worker_that_dies_fails_the_job_loudly() -> None:
    make = partial(toy_engine, toy_probabilities())
    with pytest.raises(StateError, match="a worker process died"):
        list(map_units(make, _die, range(8), n_workers=2))


def _interrupt(_engine: Engine, unit: int) -> int:
    if unit == 1:
        raise KeyboardInterrupt
    return unit


def test_ctrl_c_ends_the_run_at_once() -> None:
    make = partial(toy_engine, toy_probabilities())
    results = map_units(make, _interrupt, range(3))
    assert next(results) == 0
    with pytest.raises(KeyboardInterrupt):
        next(results)
    rollouts = toy_engine(toy_probabilities()).generate([toy_prompt(50)], PLAIN)
    next(rollouts)
    rollouts.close()  # what a Ctrl-C in the caller's loop does
