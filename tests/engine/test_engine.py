from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.engine.toy import (
    COUGH,
    DAY,
    DEATH,
    FEMALE,
    FINISH,
    GAP,
    MALE,
    OUTCOME,
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

from chronoward.engine import Engine, EngineConfig, Prompt, Rollout, SamplingParams
from chronoward.engine.context import cut
from chronoward.engine.precision import DTYPES
from chronoward.engine.randomness import stream_key
from chronoward.engine.workers import map_units
from chronoward.errors import ConfigError, DataError, NumericError
from chronoward.model import Model, ModelConfig

SETS = (np.array([OUTCOME], np.int32),)


@pytest.fixture(scope="module", params=["half-log-2", "none-linear-4"])
def model(request: pytest.FixtureRequest) -> Model:
    rotary, bias, kv_heads = request.param.split("-")
    config = ModelConfig(
        vocab_size=V, d_model=32, n_layers=2, n_heads=4, n_kv_heads=int(kv_heads), d_ff=48,
        rotary=rotary, time_bias=bias,
    )  # fmt: skip
    made = Model(config, seed=1)
    with torch.no_grad():  # time must matter for the test to see it
        for block in made.blocks:
            block.time_bias.strength += 0.5
        made.embedding.weight *= 60
    return made


def bytes_of(rollouts: list[Rollout]) -> list[bytes]:
    rollouts = sorted(rollouts, key=lambda r: (r.subject_id, r.pool, r.rollout))
    return [
        b"|".join(
            a.tobytes()
            for a in (r.token_id, r.time_min, r.outcome_p, r.log_p, r.value_u, r.step_min)
        )
        + f"{r.subject_id} {r.pool} {r.rollout} {r.status}".encode()
        for r in rollouts
    ]


def prompts(n: int = 5, n_rollouts: int = 3) -> list[Prompt]:
    """Prefixes of different lengths."""
    made = []
    for subject in range(n):
        prompt = toy_prompt(n_rollouts, subject_id=subject - 2, sex=MALE if subject % 2 else FEMALE)
        more = [GAP, START, TYPE, COUGH, FINISH] * (9 * subject)
        tokens = np.concatenate([prompt.token_id, more]).astype(np.int32)
        times = 90 * DAY + np.cumsum(tokens == GAP, dtype=np.int32) * 100
        made.append(
            replace(
                prompt, token_id=tokens, time_min=times.astype(np.int32), deadline_min=130 * DAY
            )
        )
    return made


PARAMS = SamplingParams(outcome_sets=SETS, mask_outcomes=True, max_new_tokens=60)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_slots", [1, 3, 256])
def test_bytes_do_not_depend_on_slots_or_order(model: Model, n_slots: int, dtype: str) -> None:
    room = EngineConfig(n_slots=32, dtype=dtype)
    expected = bytes_of(list(Engine(model, toy_grammar(), room).generate(prompts(), PARAMS)))
    engine = Engine(model, toy_grammar(), EngineConfig(n_slots=n_slots, dtype=dtype))
    mixed = [prompts()[i] for i in (3, 0, 4, 2, 1)]
    for order in (prompts()[::-1], mixed):
        assert bytes_of(list(engine.generate(order, PARAMS))) == expected


def _part(engine: Engine, subjects: list[int]) -> list[bytes]:
    chosen = [p for p in prompts(7) if p.subject_id in subjects]
    return bytes_of(list(engine.generate(chosen, PARAMS)))


@pytest.mark.parametrize("n_workers", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_bytes_do_not_depend_on_workers(n_workers: int) -> None:
    model = Model(ModelConfig(vocab_size=V, n_visit_kinds=2), seed=3)
    make = partial(Engine, model, toy_grammar(), EngineConfig(n_slots=3))
    subjects = [p.subject_id for p in prompts(7)]
    expected = _part(make(), subjects)
    units = [[s] for s in subjects]
    parts = map_units(make, _part, units, n_workers=n_workers)
    assert [rollout for part in parts for rollout in part] == expected


def test_contexts_are_cut_the_same_whatever_runs_beside_them(model: Model) -> None:
    immortal = copy.deepcopy(model)
    with torch.no_grad():
        immortal.context_bias.unseen[:, DEATH] = -40
    lives = [replace(p, deadline_min=None) for p in prompts(4, 2)]
    params = SamplingParams(outcome_sets=SETS, max_new_tokens=150)
    expected = None
    for n_slots in (32, 3, 1):
        engine = Engine(immortal, toy_grammar(), EngineConfig(n_slots=n_slots, max_context=64))
        got = bytes_of(list(engine.generate(lives, params)))
        expected = expected or got
        assert got == expected
        assert engine.statistics.cut_contexts >= 8
        assert engine.decoder is not None
        assert engine.decoder.cache_bytes == 0  # every page was given back


def test_statistics_count_what_was_drawn(model: Model) -> None:
    engine = Engine(model, toy_grammar(), EngineConfig(n_slots=4))
    rollouts = list(engine.generate(prompts(), PARAMS))
    counts = engine.statistics
    assert counts.rollouts == len(rollouts) == 15
    assert counts.tokens == sum(len(r.token_id) for r in rollouts)
    assert counts.prefilled_tokens == sum(len(p.token_id) - 1 for p in prompts())
    assert 0.5 < counts.slot_use <= 1
    assert counts.peak_cache_bytes > 0


def test_a_range_of_rollouts_adds_to_another(model: Model) -> None:
    engine = Engine(model, toy_grammar(), EngineConfig(n_slots=4))
    whole = list(engine.generate(prompts(2, 4), PARAMS))
    first, second = (
        list(engine.generate([replace(p, rollouts=part) for p in prompts(2, 4)], PARAMS))
        for part in (range(2), range(2, 4))
    )
    assert bytes_of(first + second) == bytes_of(whole)


@pytest.mark.parametrize("max_context", [1024, 64])
def test_the_engine_equals_model_generate(model: Model, max_context: int) -> None:
    """The naive loop over full forward passes, under the same sampler and the same cut."""
    grammar = toy_grammar()
    config = EngineConfig(n_slots=4, max_context=max_context)
    params = SamplingParams(outcome_sets=SETS, max_new_tokens=40)
    for prompt in prompts(3, 2):
        prompt = replace(prompt, deadline_min=None)
        rollouts = list(Engine(model, grammar, config).generate([prompt], params))
        for rollout in rollouts:
            tokens, times = naive(model, prompt, rollout.rollout, params, max_context)
            assert rollout.token_id.tolist() == tokens
            assert rollout.time_min.tolist() == times


def naive(
    model: Model, prompt: Prompt, rollout: int, params: SamplingParams, max_context: int
) -> tuple[list[int], list[int]]:
    grammar = toy_grammar()
    sampler = params.sampler(grammar, 1)
    sampler.load(
        0, prompt.token_id, key=stream_key(0, "main"), subject_id=prompt.subject_id,
        prediction_time_us=prompt.prediction_time_us, rollout=rollout,
        clock_min=int(prompt.time_min[-1]), prediction_min=prompt.prediction_min, deadline_min=-1,
        masked_set=-1,
    )  # fmt: skip
    drawn: list[tuple[int, int]] = []
    context = prompt.token_id, prompt.time_min
    status = 0

    def choose(logits: torch.Tensor) -> tuple[int, int] | None:
        nonlocal status
        token, time, ended = sampler.step(logits.numpy()[None], np.zeros(1, np.int32))
        drawn.append((int(token[0]), int(time[0])))
        status = int(ended[0])
        grown = len(context[0]) + 1 + len(drawn) - start > max_context
        return None if status or grown else drawn[-1]

    while not status:
        if len(context[0]) > max_context:
            context = cut(
                *context, grammar=grammar, origin_us=0, keep=max_context // 2,
                accepts=lambda window: sampler.walk(window) < 0,
            )  # fmt: skip
        start = len(drawn) + 1
        ids, times = model.generate(
            torch.from_numpy(context[0]), torch.from_numpy(context[1]), choose
        )
        context = (
            np.append(ids.numpy(), drawn[-1][0]).astype(np.int32),
            np.append(times.numpy(), drawn[-1][1]).astype(np.int32),
        )
    return [t for t, _ in drawn], [m for _, m in drawn]


def test_a_cut_keeps_the_newest_visits_under_a_new_prompt() -> None:
    grammar = toy_grammar(age_edge_min=np.array([0, 95 * DAY], np.int32))
    tokens = np.array([YOUNG, FEMALE] + [START, TYPE, COUGH, FINISH, GAP] * 10, np.int32)
    times = (90 * DAY + np.cumsum(tokens == GAP) * DAY).astype(np.int32)
    window, clock = cut(
        tokens, times, grammar=grammar, origin_us=0, keep=12,
        accepts=lambda run: bool(grammar.run(run) >= 0),
    )  # fmt: skip
    old_age, continued = 3, 6
    assert window.tolist() == [old_age, FEMALE, continued] + [START, TYPE, COUGH, FINISH, GAP] * 2
    assert clock[:4].tolist() == [98 * DAY] * 4
    assert clock[-1] == times[-1]


def test_a_visit_longer_than_the_window_is_cut_at_a_moment() -> None:
    stay = 12
    grammar = toy_grammar()
    tokens = np.array([YOUNG, FEMALE, START, TYPE] + [COUGH, stay] * 20 + [COUGH], np.int32)
    times = np.cumsum(tokens == stay, dtype=np.int32) * DAY
    window, clock = cut(
        tokens, times.astype(np.int32), grammar=grammar, origin_us=0, keep=8,
        accepts=lambda run: bool(grammar.run(run) >= 0),
    )  # fmt: skip
    assert window[:5].tolist() == [YOUNG, FEMALE, 6, START, TYPE]
    assert window[5] == COUGH
    assert 4 <= len(window) - 5 <= 8
    assert clock[0] == clock[5]


def test_duplicate_prompts_are_an_error() -> None:
    engine = toy_engine(toy_probabilities())
    with pytest.raises(DataError, match="prompts 0 and 2 are of one subject and prediction time"):
        list(engine.generate([toy_prompt(1), toy_prompt(1, subject_id=8), toy_prompt(1)], PARAMS))


def test_bad_prompts_name_their_row() -> None:
    engine = toy_engine(toy_probabilities())
    good = toy_prompt(1)
    cases = [
        (replace(good, rollouts=range(0)), ConfigError, "rollouts must be a non-empty range"),
        (replace(good, token_id=np.zeros(0, np.int32), time_min=np.zeros(0, np.int32)), DataError,
         "the prefix is empty"),
        (replace(good, token_id=good.token_id.astype(np.int64)), DataError, "must be int32"),
        (replace(good, time_min=good.time_min[::-1] - np.arange(6, dtype=np.int32)), DataError,
         "runs backwards"),
        (replace(good, prediction_min=5), DataError, "later than the prediction time"),
        (replace(good, deadline_min=good.prediction_min), ConfigError, "deadline must lie after"),
        (replace(good, token_id=good.token_id[::-1].copy()), DataError, "refuses its token"),
        (replace(good, time_min=good.time_min[1:]), DataError, "one length"),
    ]  # fmt: skip
    for prompt, error, message in cases:
        with pytest.raises(error, match=rf"prompt 1: .*{message}"):
            list(engine.generate([toy_prompt(1, subject_id=9), prompt], PARAMS))


def test_vocabularies_must_agree() -> None:
    with pytest.raises(ConfigError, match="the model has 18 tokens, the grammar 20"):
        Engine(MarkovDecoder(toy_probabilities()), toy_grammar(n_more_codes=2))
    with pytest.raises(ConfigError, match="n_slots must be positive"):
        EngineConfig(n_slots=0)
    with pytest.raises(ConfigError, match="max_context must be at least"):
        EngineConfig(max_context=8)


def test_nan_weights_are_a_numeric_error(model: Model) -> None:
    broken = Model(model.config)
    with torch.no_grad():
        broken.final_norm.weight.fill_(float("nan"))
    with pytest.raises(NumericError, match="NaN logits at step 0"):
        list(Engine(broken, toy_grammar()).generate(prompts(), PARAMS))


def test_the_shared_prefix_is_prefilled_once() -> None:
    decoder = MarkovDecoder(toy_probabilities())
    engine = Engine(decoder, toy_grammar(), EngineConfig(n_slots=2))
    rollouts = list(engine.generate([toy_prompt(10)], SamplingParams()))
    n_drawn = sum(len(r.token_id) for r in rollouts)
    assert decoder.rows == n_drawn + len(toy_prompt(1).token_id) - 1
