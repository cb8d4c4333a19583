from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2
from tests.engine.toy import (
    COUGH,
    DAY,
    DEATH,
    END,
    FEMALE,
    FINISH,
    GAP,
    LONG_GAP,
    MALE,
    OUTCOME,
    PAD,
    PREGNANCY,
    PROSTATE,
    START,
    STAY,
    TYPE,
    YOUNG,
    V,
    toy_grammar,
)  # fmt: skip

from chronoward import _core
from chronoward.engine import SamplingParams
from chronoward.engine.randomness import draw_uniforms, stream_key
from chronoward.errors import ConfigError, DataError, NumericError

IN_VISIT = np.array([YOUNG, FEMALE, START, TYPE], np.int32)
AFTER_VISIT = np.array([YOUNG, FEMALE, START, TYPE, FINISH], np.int32)
KEY = stream_key(0, "main")


def loaded(prompt: np.ndarray, *, n_slots: int = 1, grammar=None, clock: int = 0, **options):
    """A sampler whose slot r holds rollout r after `prompt`."""
    start = {k: options.pop(k, -1) for k in ("prediction_min", "deadline_min", "masked_set")}
    sampler = SamplingParams(**options).sampler(grammar or toy_grammar(), n_slots)
    for slot in range(n_slots):
        sampler.load(
            slot, prompt, key=KEY, subject_id=-3, prediction_time_us=11, rollout=slot,
            clock_min=clock, **start,
        )  # fmt: skip
    return sampler


def first_tokens(logits: np.ndarray, n: int, prompt: np.ndarray = IN_VISIT, **options):
    """First token, clock and status of `n` rollouts with the same logits."""
    sampler = loaded(prompt, n_slots=n, **options)
    rows = np.broadcast_to(logits.astype(np.float32), (n, V)).copy()
    return (*sampler.step(rows, np.arange(n, dtype=np.int32)), sampler)


def legal_softmax(logits: np.ndarray, legal: list[int]) -> np.ndarray:
    p = np.zeros(V)
    p[legal] = np.exp(logits[legal] - logits[legal].max())
    return p / p.sum()


LEGAL_IN_VISIT = [COUGH, OUTCOME, PREGNANCY, STAY, FINISH]


def test_draws_follow_the_legal_softmax() -> None:
    logits = np.random.default_rng(0).normal(size=V)
    n = 20_000
    tokens, _, _, sampler = first_tokens(logits, n)
    expected = n * legal_softmax(logits, LEGAL_IN_VISIT)
    counts = np.bincount(tokens, minlength=V)
    kept = expected > 0
    assert counts[~kept].sum() == 0
    statistic = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    assert statistic < chi2.ppf(0.9999, kept.sum() - 1)
    log_p = sampler.arrays(0)["log_p"][0]
    assert log_p == pytest.approx(np.log(expected[tokens[0]] / n), abs=1e-5)


def cut_down(p: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float):
    """What the options leave of a distribution, in float64."""
    p = np.where(p > 0, p, 0) ** (1 / temperature)
    order = np.argsort(-p, kind="stable")[: (p > 0).sum()]
    if top_k:
        order = order[:top_k]
    if top_p < 1:
        running = np.cumsum(p[order]) / p[order].sum()
        order = order[: int(np.searchsorted(running, top_p)) + 1]
    order = order[p[order] >= min_p * p[order[0]]]
    kept = np.zeros_like(p)
    kept[order] = p[order] / p[order].sum()
    return kept


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("min_p", [0.0, 0.3])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_every_combination_of_options_draws_what_it_leaves(
    temperature: float, top_k: int, top_p: float, min_p: float, is_masked: bool
) -> None:
    """Chi-square over a hundred thousand draws each."""
    n = 100_000
    logits = np.array([0.7 * (v * 5 % V) / V for v in range(V)])
    options: dict[str, object] = {"outcome_sets": (np.array([OUTCOME], np.int32),)}
    if is_masked:
        options["masked_set"] = 0
    tokens, *_ = first_tokens(
        logits, n, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, **options
    )
    expected = cut_down(legal_softmax(logits, LEGAL_IN_VISIT), temperature, top_k, top_p, min_p)
    if is_masked:
        expected[OUTCOME] = 0
    counts, expected = np.bincount(tokens, minlength=V), n * expected / expected.sum()
    kept = expected > 0
    assert counts[~kept].sum() == 0
    if kept.sum() > 1:
        statistic = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
        assert statistic < chi2.ppf(1 - 1e-5, kept.sum() - 1)


def test_a_draw_is_the_inverse_of_the_running_sum_in_float64() -> None:
    logits = np.random.default_rng(1).normal(size=V).astype(np.float32)
    tokens, *_ = first_tokens(logits, 500)
    p = legal_softmax(logits.astype(np.float64), LEGAL_IN_VISIT)
    running = np.cumsum(p)
    for rollout, token in enumerate(tokens):
        u, _, _ = draw_uniforms(KEY, subject_id=-3, prediction_time_us=11, rollout=rollout, step=0)
        expected = int(np.argmax(running > u * running[-1]))
        near = np.abs(running - u * running[-1]).min() < 1e-6  # exp is single precision
        assert token == expected or near


@pytest.mark.parametrize(
    "n", [25_000, pytest.param(250_000, marks=pytest.mark.slow, id="ten-million-draws")]
)
def test_a_masked_token_is_never_drawn(n: int) -> None:
    """A million draws over states, sexes and masked outcomes; illegal tokens have huge logits."""
    grammar = toy_grammar()
    logits = np.full(V, 30.0, np.float32)
    logits[LEGAL_IN_VISIT] = 0.0
    logits[FINISH] = -4.0
    slots = np.arange(n, dtype=np.int32)
    sampler = loaded(
        IN_VISIT,
        n_slots=n,
        outcome_sets=(np.array([OUTCOME], np.int32),),
        masked_set=0,
    )
    rows = np.broadcast_to(logits, (n, V)).copy()
    drawn = np.zeros(V, np.int64)
    state = np.full(n, grammar.run(IN_VISIT))
    for _ in range(55):
        tokens, _, status = sampler.step(rows[: len(slots)], slots)
        drawn += np.bincount(tokens, minlength=V)
        state = grammar.next_state[state, grammar.token_class[tokens]]
        assert (state >= 0).all()
        slots, state = slots[status == 0], state[status == 0]
    assert drawn.sum() >= 40 * n
    assert drawn[[PAD, END, OUTCOME, PROSTATE, MALE]].sum() == 0
    assert drawn[PREGNANCY] > 0


def test_zero_mass_is_never_drawn() -> None:
    logits = np.zeros(V)
    logits[[COUGH, OUTCOME]] = -np.inf
    tokens, *_ = first_tokens(logits, 2000)
    assert not np.isin(tokens, [COUGH, OUTCOME]).any()


def test_sex_masks_follow_the_prompt() -> None:
    for sex, allowed, refused in ((FEMALE, PREGNANCY, PROSTATE), (MALE, PROSTATE, PREGNANCY)):
        prompt = np.array([YOUNG, sex, START, TYPE], np.int32)
        tokens, *_ = first_tokens(np.zeros(V), 2000, prompt)
        assert allowed in tokens
        assert refused not in tokens


def test_end_is_drawn_only_where_it_is_allowed() -> None:
    assert END not in first_tokens(np.zeros(V), 1000, AFTER_VISIT)[0]
    tokens, _, status, _ = first_tokens(np.zeros(V), 1000, AFTER_VISIT, forbid_end=False)
    assert END in tokens
    assert (status[tokens == END] == 3).all()


def test_outcome_probability_is_legal_mass_before_masking() -> None:
    logits = np.random.default_rng(3).normal(size=V)
    sets = (np.array([OUTCOME, PROSTATE], np.int32), np.array([COUGH], np.int32))
    p = legal_softmax(logits, LEGAL_IN_VISIT)
    for masked in (-1, 0):
        tokens, _, _, sampler = first_tokens(logits, 3000, outcome_sets=sets, masked_set=masked)
        assert sampler.arrays(0)["outcome_p"] == pytest.approx(np.array([[p[OUTCOME], p[COUGH]]]))
        assert (OUTCOME in tokens) == (masked < 0)


def test_only_the_outcome_possible_ends_the_path_with_certainty() -> None:
    logits = np.full(V, -np.inf)
    logits[OUTCOME] = 1.0
    _, _, status, sampler = first_tokens(
        logits, 1, outcome_sets=(np.array([OUTCOME], np.int32),), masked_set=0
    )
    arrays = sampler.arrays(0)
    assert status[0] == 4
    assert len(arrays["token_id"]) == 0
    assert arrays["outcome_p"].tolist() == [[1.0]]


def test_truncation_keeps_the_most_probable() -> None:
    logits = np.zeros(V)
    logits[[COUGH, OUTCOME, PREGNANCY, STAY, FINISH]] = np.log([0.4, 0.3, 0.15, 0.1, 0.05])
    cases = [
        ({"top_k": 2}, {COUGH, OUTCOME}),
        ({"top_p": 0.71}, {COUGH, OUTCOME, PREGNANCY}),
        ({"min_p": 0.3}, {COUGH, OUTCOME, PREGNANCY}),
        ({"temperature": 1e-3}, {COUGH}),
    ]
    for options, expected in cases:
        assert set(first_tokens(logits, 3000, **options)[0]) == expected


def test_outcome_probability_ignores_temperature() -> None:
    logits = np.random.default_rng(4).normal(size=V)
    sets = (np.array([OUTCOME], np.int32),)
    cold = first_tokens(logits, 1, outcome_sets=sets, temperature=0.1, top_k=1)[3]
    assert cold.arrays(0)["outcome_p"][0, 0] == pytest.approx(
        legal_softmax(logits, LEGAL_IN_VISIT)[OUTCOME], rel=1e-5
    )


def test_durations_follow_the_quantile_function_and_the_clock() -> None:
    grammar = toy_grammar(long_gap=(2 * DAY, 4 * DAY))
    logits = np.full(V, -np.inf)
    logits[LONG_GAP] = 0
    _, times, _, sampler = first_tokens(logits, 2000, AFTER_VISIT, grammar=grammar, clock=50)
    assert times.min() >= 50 + 2 * DAY
    assert times.max() <= 50 + 4 * DAY
    assert np.mean(times) == pytest.approx(50 + 3 * DAY, rel=0.02)
    _, u, value = draw_uniforms(KEY, subject_id=-3, prediction_time_us=11, rollout=5, step=0)
    assert times[5] == 50 + grammar.duration(LONG_GAP, u)
    assert sampler.arrays(5)["value_u"][0] == value


def test_silence_draws_the_first_move_beyond_the_prediction_time() -> None:
    grammar = toy_grammar(long_gap=(0, 10 * DAY))
    logits = np.zeros(V)
    logits[GAP] = np.log(3.0)
    _, times, _, _ = first_tokens(
        logits, 4000, AFTER_VISIT, grammar=grammar, prediction_min=4 * DAY
    )
    assert times.min() > 4 * DAY
    assert np.mean(times) == pytest.approx(7 * DAY, rel=0.02)  # uniform on 4..10 days


def test_silence_weighs_the_straddling_bucket_by_its_survival_share() -> None:
    """At half a day GAP (one day) survives wholly, LONG_GAP (0–1 day) by half."""
    grammar = toy_grammar(long_gap=(0, DAY))
    sets = (np.array([LONG_GAP], np.int32),)
    *_, sampler = first_tokens(
        np.zeros(V), 1, AFTER_VISIT, grammar=grammar, prediction_min=DAY // 2, outcome_sets=sets
    )
    assert sampler.arrays(0)["outcome_p"][0, 0] == pytest.approx(0.5 / 1.5, abs=1e-3)


def test_silence_inside_an_open_visit_lets_only_time_pass() -> None:
    tokens, times, _, _ = first_tokens(np.zeros(V), 500, prediction_min=100)
    assert set(tokens) == {STAY}
    assert (times > 100).all()


def test_a_silence_longer_than_every_bucket_ends_just_after_the_prediction_time() -> None:
    tokens, times, _, _ = first_tokens(np.zeros(V), 50, AFTER_VISIT, prediction_min=9000 * DAY)
    assert set(tokens) == {LONG_GAP}
    assert (times == 9000 * DAY + 1).all()


def test_silence_closes_what_is_open_where_no_move_is_allowed() -> None:
    """A visit without inner time (no inpatient gap) is closed first, and nothing else happens."""
    grammar = toy_grammar()
    next_state = grammar.next_state.copy()
    next_state[:, 14] = -1
    state_mask = grammar.state_mask.copy()
    state_mask[:, 0] &= ~np.uint32(1 << STAY)
    still = toy_grammar(next_state=next_state, state_mask=state_mask)
    tokens, *_ = first_tokens(np.zeros(V), 300, grammar=still, prediction_min=100)
    assert set(tokens) == {FINISH}


def test_the_clock_stops_at_its_cap() -> None:
    grammar = toy_grammar(long_gap=(DAY, 10 * DAY), max_clock_min=3 * DAY)
    logits = np.zeros(V)
    logits[GAP] = -np.inf
    _, times, _, _ = first_tokens(logits, 500, AFTER_VISIT, grammar=grammar, clock=DAY)
    assert times.max() == 3 * DAY
    _, _, status, _ = first_tokens(logits, 3, AFTER_VISIT, grammar=grammar, clock=3 * DAY)
    assert (status == 6).all()


def test_rollouts_end_at_deadline_and_token_cap() -> None:
    *_, status, _ = first_tokens(np.zeros(V), 5, AFTER_VISIT, deadline_min=DAY - 1)
    assert (status == 1).all()
    *_, status, _ = first_tokens(np.zeros(V), 5, AFTER_VISIT, deadline_min=5 * DAY)
    assert (status == 0).all()
    *_, status, _ = first_tokens(np.zeros(V), 5, IN_VISIT, max_new_tokens=1)
    assert (status == 5).all()


def test_death_ends_a_rollout() -> None:
    logits = np.full(V, -np.inf)
    logits[DEATH] = 0
    prompt = np.append(AFTER_VISIT, GAP).astype(np.int32)
    assert first_tokens(logits, 1, prompt)[2].tolist() == [2]


def test_nan_logits_name_step_and_row() -> None:
    sampler = loaded(IN_VISIT, n_slots=3)
    rows = np.zeros((3, V), np.float32)
    rows[2, COUGH] = np.nan
    with pytest.raises(NumericError, match=r"NaN logits at step 0, slot 2"):
        sampler.step(rows, np.arange(3, dtype=np.int32))


def test_an_empty_choice_names_step_and_row() -> None:
    grammar = toy_grammar()
    with pytest.raises(NumericError, match=r"the grammar allows no token at step 0, slot 0"):
        first_tokens(
            np.zeros(V), 1, AFTER_VISIT, grammar=toy_grammar(state_mask=grammar.state_mask * 0)
        )
    with pytest.raises(NumericError, match=r"no finite logit among the legal tokens at step 0"):
        first_tokens(np.full(V, -np.inf), 1)


def test_a_refused_or_ended_prompt_is_an_error() -> None:
    with pytest.raises(DataError, match="refuses the prompt at position 1"):
        loaded(np.array([YOUNG, START], np.int32))
    with pytest.raises(DataError, match="the prompt has ended already"):
        loaded(np.array([YOUNG, FEMALE, START, TYPE, FINISH, GAP, DEATH], np.int32))
    with pytest.raises(DataError, match="position 0"):
        loaded(np.array([V], np.int32))


def test_wrong_shapes_and_dtypes_are_errors() -> None:
    sampler = loaded(IN_VISIT)
    with pytest.raises(ValueError, match="arrays do not fit"):
        sampler.step(np.zeros((2, V), np.float32), np.zeros(1, np.int32))
    with pytest.raises(TypeError):
        sampler.step(np.zeros((1, V), np.float64), np.zeros(1, np.int32))
    with pytest.raises(ValueError, match="grammar tables do not fit"):
        _core.Sampler(
            toy_grammar(token_sex=np.zeros(3, np.uint8)), 1, outcome_sets=[], temperature=1.0,
            top_k=0, top_p=1.0, min_p=0.0, forbid_end=True, max_new_tokens=1,
        )  # fmt: skip
    with pytest.raises(ValueError, match="outside the vocabulary"):
        SamplingParams(outcome_sets=(np.array([V], np.int32),)).sampler(toy_grammar(), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"top_p": 0.0}, "top_p in"),
        ({"max_new_tokens": 0}, "max_new_tokens must be positive"),
        ({"outcome_sets": (np.zeros(0, np.int32),)}, "outcome set 0 is empty"),
        ({"mask_outcomes": True}, "needs at least one outcome set"),
    ],
)
def test_bad_parameters_are_config_errors(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingParams(**options)


def test_where_codes_ascend_an_earlier_code_or_the_same_never_follows() -> None:
    low, high = sorted((COUGH, OUTCOME))
    for previous, legal in ((low, {high}), (high, set())):
        prompt = np.array([*IN_VISIT, previous], np.int32)
        for ascend in (True, False):
            grammar = toy_grammar(codes_ascend=ascend)
            tokens, _, _, _ = first_tokens(np.zeros(V), 2000, prompt, grammar=grammar)
            drawn = set(tokens.tolist()) & {COUGH, OUTCOME}
            assert drawn == (legal if ascend else {COUGH, OUTCOME})


def test_a_move_of_the_clock_begins_a_new_order_of_codes() -> None:
    prompt = np.array([*IN_VISIT, max(COUGH, OUTCOME), STAY], np.int32)
    grammar = toy_grammar(codes_ascend=True)
    tokens, _, _, _ = first_tokens(np.zeros(V), 2000, prompt, grammar=grammar)
    assert {COUGH, OUTCOME} <= set(tokens.tolist())
