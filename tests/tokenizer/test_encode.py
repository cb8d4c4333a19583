from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.tokenizer.clinic import (
    CODES,
    EPOCH_2010,
    MIN_US,
    SPECS,
    VISITS,
    make_observation,
    make_world,
    row,
    shuffled,
    table,
)

from chronoward.errors import DataError
from chronoward.schema import Role, observation_schema
from chronoward.tokenizer import TokenClass, twin
from chronoward.tokenizer.decode import DecodedRows, decode_rows
from chronoward.tokenizer.inputs import prepare_input

if TYPE_CHECKING:
    from collections.abc import Callable

    from chronoward.tokenizer import Tokenizer

    World = tuple[pa.Table, pa.Table, pa.Table]

QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TIMES = st.one_of(
    st.none(),
    st.integers(-3, 4000).map(lambda m: EPOCH_2010 + m * MIN_US + (m % 3) * 20_000_000),
    st.sampled_from([EPOCH_2010 - 10**15, EPOCH_2010, EPOCH_2010 + 5 * 10**15]),
)


@st.composite
def rough_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Events that no source should give: any role, any order, broken links, odd values."""
    rows = []
    for _ in range(draw(st.integers(1, 14))):
        role = Role(draw(st.integers(0, 8)))
        code, more = _code_of(draw, role)
        time = draw(TIMES)
        more["visit_id"] = draw(st.sampled_from([None, 0, 1, 1, 2, 7]))
        more["end_time"] = draw(TIMES)
        available = draw(TIMES) if draw(st.booleans()) else time
        rows.append(row(draw(st.integers(1, 3)), role, code, time, available, **more))
    return rows


def _code_of(draw: st.DrawFn, role: Role) -> tuple[str, dict[str, Any]]:
    if role == Role.CODE:
        code = draw(st.sampled_from([*CODES, "SNOMED/rare", "nowhere"]))
        domain, units = CODES.get(code, ("condition_occurrence", [None]))
        more: dict[str, Any] = {"table": domain, "unit": draw(st.sampled_from([*units, "odd"]))}
        more["numeric_value"] = draw(
            st.sampled_from([None, 0.5, 1.25, -3.0, float("nan"), float("inf"), 1e30])
        )
        more["text_value"] = draw(st.sampled_from([None, "POS", "NEG", "never seen"]))
        return code.strip(), more
    names = {
        Role.SEX: ["Gender/F", "Gender/M", "Gender/X"],
        Role.RACE: ["Race/1", "Race/2", "Race/odd"],
        Role.VISIT: [*VISITS, "Visit/odd"],
        Role.DETAIL: ["Ward/1", "Ward/2", "Ward/odd"],
        Role.DISCHARGE: ["Discharge/home", "Discharge/odd"],
    }
    return draw(st.sampled_from(names.get(role, [role.name]))), {}


@pytest.mark.parametrize("name", list(SPECS))
@QUICK
@given(rows=rough_rows())
def test_the_core_encodes_like_its_twin_and_the_grammar_accepts_it(
    name: str, rows: list[dict[str, Any]], world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of(name)
    events = table(rows)
    observation = make_observation(events)
    given_input = prepare_input(events, observation, tokenizer.resolver(world[2]))
    wanted = twin.encode(tokenizer.encode_tables, given_input)
    batch = tokenizer.encode(events, observation, codes=world[2])
    assert batch.same_timelines(wanted)
    assert batch.counts == wanted.counts
    assert tokenizer.validate(batch) == []
    other = shuffled(events, np.random.default_rng(0))
    assert tokenizer.encode(other, observation, codes=world[2]).same_timelines(batch)


@pytest.mark.parametrize("name", list(SPECS))
def test_threads_and_order_of_rows_do_not_change_a_byte(
    name: str, world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of(name)
    events, observation, codes = make_world(40, seed=5)
    batch = tokenizer.encode(events, observation, codes=codes)
    other = shuffled(events, np.random.default_rng(1))
    for threads in (1, 2, 7):
        again = tokenizer.encode(other, observation, codes=codes, threads=threads)
        assert again.same_timelines(batch)
        assert again.counts == batch.counts


@pytest.mark.parametrize("name", list(SPECS))
def test_the_core_decodes_like_its_twin(
    name: str, world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of(name)
    batch = tokenizer.encode(world[0], world[1])
    wanted = decode_rows(tokenizer.vocabulary, batch)
    for threads in (1, 7):
        rows = tokenizer.decode_rows(batch, threads=threads)
        for field in dataclasses.fields(DecodedRows):
            assert np.array_equal(getattr(rows, field.name), getattr(wanted, field.name))


@pytest.mark.parametrize("name", ["compact", "events", "cehr"])
def test_a_timeline_begins_with_observation(
    name: str, world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of(name)
    grammar = tokenizer.grammar()
    n_prompt = len(grammar.prompt_classes)
    batch = tokenizer.encode(world[0], world[1], codes=world[2])
    waits = 0
    for i in range(len(batch)):
        first, last = batch.offsets[i] + n_prompt, batch.offsets[i + 1] - 1
        if first == last:
            continue
        begun = batch.time_min[first - 1]
        is_gap = grammar.token_class[batch.token_id[first]] == TokenClass.GAP
        watched_from = batch.obs_start_min[batch.obs_offsets[i]]
        assert begun == (watched_from if is_gap else batch.time_min[first])
        assert not is_gap or batch.time_min[first] - begun >= 1440
        waits += is_gap
    assert waits > 10 or (name == "cehr" and not waits)


def test_an_empty_event_table_gives_an_empty_batch(
    world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of("compact")
    batch = tokenizer.encode(world[0].slice(0, 0), world[1])
    assert len(batch) == 0
    assert tokenizer.decode(batch).num_rows == 0


def test_subjects_out_of_order_are_refused_with_their_row(
    world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    events = table([row(1, Role.SEX, "Gender/F"), row(2, Role.SEX, "Gender/F")])
    turned = pa.concat_tables([events.slice(1), events.slice(0, 1)])
    empty = observation_schema().empty_table()
    with pytest.raises(DataError, match="events row 1: subjects must be contiguous"):
        tokenizer_of("compact").encode(turned, empty)


def test_unknown_codes_are_rolled_up_to_the_nearest_kept_ancestor_and_counted(
    world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of("compact")
    codes = {"table": "condition_occurrence", "visit_id": 0}
    events = table(
        [
            row(1, Role.VISIT, "Visit/OP", EPOCH_2010, visit_id=0, end_time=EPOCH_2010),
            row(1, Role.CODE, "SNOMED/rare", EPOCH_2010, **codes),
            row(1, Role.CODE, "SNOMED/never", EPOCH_2010, **codes),
        ]
    )
    batch = tokenizer.encode(events, world[1], codes=world[2])
    assert batch.counts == {"rolled_up": 1, "unknown_code": 1}
    assert "SNOMED/hf@condition_occurrence" in [tokenizer.labels[t] for t in batch.token_id]


def test_n_prior_counts_earlier_visits_with_the_code(
    world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of("compact")
    rows = []
    for visit in range(3):
        at = EPOCH_2010 + visit * 1000 * MIN_US
        rows.append(row(1, Role.VISIT, "Visit/OP", at, visit_id=visit, end_time=at + 60 * MIN_US))
        for minute in (0, 30):
            more = {"table": "procedure_occurrence", "visit_id": visit}
            rows.append(row(1, Role.CODE, "CPT4/xray", at + minute * MIN_US, **more))
    batch = tokenizer.encode(table(rows), world[1])
    xray = tokenizer.token_ids_of([(None, "CPT4/xray")])
    assert batch.n_prior[np.isin(batch.token_id, xray)].tolist() == [0, 0, 1, 1, 2, 2]
    visits = tokenizer.token_ids_of([("visit_occurrence", "Visit/OP")])
    assert batch.n_prior[np.isin(batch.token_id, visits)].tolist() == [0, 1, 2]


def test_preset_cehr_tells_no_empty_visits_and_no_units(
    world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of("cehr")
    assert [x for x in tokenizer.labels if "sodium" in x] == ["LOINC/sodium"]  # of two units
    rows = []
    for visit in range(3):
        at = EPOCH_2010 + visit * 10 * 1440 * MIN_US
        rows.append(row(1, Role.VISIT, "Visit/OP", at, visit_id=visit, end_time=at))
        if visit != 1:
            more = {"table": "measurement", "visit_id": visit, "unit": "an odd one"}
            rows.append(row(1, Role.CODE, "LOINC/sodium", at, **more))
    batch = tokenizer.encode(table(rows), world[1])
    told = [tokenizer.labels[t] for t in batch.token_id[4:].tolist()]
    visit = ["[VS]", "9202", "LOINC/sodium", "[VE]"]
    assert told == [*visit, "D20", *visit, "[END]"]
    assert batch.counts == {"empty_visit": 1}
