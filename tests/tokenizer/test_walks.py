from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.tokenizer.clinic import SPECS
from tests.tokenizer.walks import walks

from chronoward.schema import Role
from chronoward.tokenizer import TokenClass, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from chronoward.tokenizer import TokenBatch

    World = tuple[pa.Table, pa.Table, pa.Table]

# hours may be drawn past midnight or below the clock; they are re-expressed once, then stable
EXACT = [name for name in SPECS if name != "cehr-hours"]
QUICK = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _again(tokenizer: Tokenizer, batch: TokenBatch, world: World, seed: int) -> TokenBatch:
    uniforms = np.random.default_rng(seed).random(batch.n_tokens)
    events = tokenizer.decode(batch, value_u=uniforms)
    return tokenizer.encode(events, tokenizer.decode_observation(batch), codes=world[2])


@pytest.mark.parametrize("name", EXACT)
@QUICK
@given(seed=st.integers(0, 2**32))
def test_generated_timelines_are_valid_and_come_back_in_canonical_order(
    name: str, seed: int, world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of(name)
    generated = walks(tokenizer, 5, seed)
    assert tokenizer.validate(generated) == []
    ordered = tokenizer.canonical(generated)
    assert tokenizer.validate(ordered) == []
    assert _again(tokenizer, ordered, world, seed).same_timelines(ordered, ignore=("n_prior",))


def test_hours_are_stable_after_one_round(
    world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of("cehr-hours")
    generated = walks(tokenizer, 30, 1)
    assert tokenizer.validate(generated) == []
    once = _again(tokenizer, generated, world, 1)
    assert _again(tokenizer, once, world, 2).same_timelines(once)


@pytest.mark.parametrize("name", EXACT)
def test_canonical_order_leaves_encoded_timelines_alone(
    name: str, world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of(name)
    batch = tokenizer.encode(world[0], world[1])
    assert tokenizer.canonical(batch).same_timelines(batch)


@pytest.mark.parametrize("name", ["compact", "cehr", "events"])
def test_generated_visits_contain_their_events(
    name: str, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of(name)
    events = tokenizer.decode(walks(tokenizer, 40, 2)).to_pylist()
    visits = {(e["subject_id"], e["visit_id"]): e for e in events if e["role"] == Role.VISIT}
    for event in events:
        if event["visit_id"] is not None and event["role"] != Role.VISIT:
            visit = visits[event["subject_id"], event["visit_id"]]
            assert visit["available_time"] <= event["available_time"] <= visit["end_time"]
        if name != "events" and event["role"] in (Role.CODE, Role.DISCHARGE):
            assert event["visit_id"] is not None


def test_clock_from_durations_lies_in_the_bucket_of_every_token(
    world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of("compact")
    batch = tokenizer.encode(world[0], world[1])
    rng = np.random.default_rng(0)
    for i in range(len(batch)):
        part = slice(int(batch.offsets[i]), int(batch.offsets[i + 1]))
        tokens = batch.token_id[part]
        times = tokenizer.clock(tokens, int(batch.time_min[part][0]), rng.random(len(tokens)))
        one = type(batch).from_timelines([tokens], [times], subject_id=[0], origin_us=[0])
        assert tokenizer.validate(one) == []


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("token", "token_range"),
        ("order", "order"),
        ("sex", "sex"),
        ("back", "clock_back"),
        ("moved", "clock_moved"),
        ("duration", "duration"),
        ("cap", "clock_cap"),
        ("event", "event_time"),
        ("cut", "incomplete"),
    ],
)
def test_the_validator_names_position_and_rule(
    change: str, rule: str, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of("compact")
    batch, at = _one_timeline(tokenizer)
    token_id, time_min, event_min = (
        batch.token_id.copy(),
        batch.time_min.copy(),
        batch.event_min.copy(),
    )
    position = {"cut": len(token_id) - 2, "moved": at["code"], "duration": at["gap"]}.get(change, 5)
    if change == "token":
        token_id[5] = 10**6
    elif change == "order":
        token_id[5] = tokenizer.grammar().end_id
    elif change == "sex":
        position = at["code"]
        token_id[position] = tokenizer.token_ids_of([(None, "SNOMED/pregnancy")])[0]
    elif change == "back":
        time_min[5:] -= 1
    elif change == "moved":
        time_min[at["code"] :] += 1
    elif change == "duration":
        time_min[at["gap"] :] += 500_000
    elif change == "cap":
        position = 0
        time_min += 10**8
    elif change == "event":
        event_min[5] = time_min[5] + 1
    n = len(token_id) - (change == "cut")
    if change != "event":
        event_min = time_min
    broken = replace(
        batch,
        token_id=token_id[:n],
        time_min=time_min[:n],
        event_min=event_min[:n],
        n_prior=batch.n_prior[:n],
        offsets=np.array([0, n], np.int64),
    )
    violation = tokenizer.validate(broken)[0]
    assert (violation.rule, violation.position) == (rule, position)


def _one_timeline(tokenizer: Tokenizer) -> tuple[TokenBatch, dict[str, int]]:
    def first(kind: TokenClass) -> int:
        return int(np.flatnonzero(tokenizer.token_class == kind)[0])

    prompt = tokenizer.prompt(year=2010, age_years=50, sex="M")
    visit = [first(TokenClass.VISIT_START), first(TokenClass.VISIT_TYPE)]
    xray = int(tokenizer.token_ids_of([(None, "CPT4/xray")])[0])
    end_visit = first(TokenClass.VISIT_END)
    body = [*visit, xray, end_visit, first(TokenClass.GAP), *visit, end_visit]
    tokens = np.array([*prompt, *body, tokenizer.grammar().end_id], np.int32)
    times = tokenizer.clock(tokens, 26_298_000)
    batch = walks(tokenizer, 1, 0)
    batch = type(batch).from_timelines([tokens], [times], subject_id=[0], origin_us=[0])
    assert tokenizer.validate(batch) == []
    return batch, {"code": 6, "gap": 8}


@pytest.mark.parametrize("name", SPECS)
def test_codes_of_a_moment_ascend_where_the_grammar_says_so(
    name: str, world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of(name)
    batch = tokenizer.encode(world[0], world[1], codes=world[2])
    is_code = tokenizer.token_class[batch.token_id] == TokenClass.CODE
    follows = is_code[1:] & is_code[:-1]
    follows[batch.offsets[1:-1] - 1] = False
    says = tokenizer.grammar().codes_ascend
    assert says == (SPECS[name].event_order == "canonical" and SPECS[name].values != "split")
    if says:
        assert follows.sum() > 5
        assert (np.diff(batch.token_id)[follows] > 0).all()
