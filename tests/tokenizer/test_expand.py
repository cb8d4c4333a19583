from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.tokenizer.clinic import SPECS
from tests.tokenizer.other_site import make_other_world
from tests.tokenizer.walks import walks

from chronoward.tokenizer import TokenClass, Tokenizer, count, expand
from chronoward.tokenizer.inputs import prepare_input
from chronoward.tokenizer.twin import encode as twin_encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa

    World = tuple[pa.Table, pa.Table, pa.Table]
    TokenizerOf = Callable[[str], Tokenizer]


@pytest.fixture(scope="session")
def other_world() -> World:
    return make_other_world(80, seed=9)


@pytest.fixture(scope="session")
def expanded_of(tokenizer_of: TokenizerOf, other_world: World) -> TokenizerOf:
    """Tokenizers of the first site expanded by the other, by the name of their spec."""
    made: dict[str, Tokenizer] = {}

    def get(name: str) -> Tokenizer:
        if name not in made:
            counts = count([other_world[0]], other_world[2])
            made[name] = expand(tokenizer_of(name), counts)
        return made[name]

    return get


@pytest.mark.parametrize("name", SPECS)
def test_nothing_of_the_parent_changes_and_its_hash_is_recorded(
    name: str, tokenizer_of: TokenizerOf, expanded_of: TokenizerOf
) -> None:
    parent, child = tokenizer_of(name), expanded_of(name)
    old, new = parent.vocabulary, child.vocabulary
    assert new.tokens[: len(old.tokens)] == old.tokens
    assert new.codes[: len(old.codes)] == old.codes
    assert len(new.tokens) > len(old.tokens)
    assert new.parent_hash == parent.hash != child.hash
    known = {entry.code for entry in new.codes[len(old.codes) :]}
    assert {"CPT4/mri", "AAA/first of all"} <= known
    assert new.start_day_q == old.start_day_q
    for what in ("duration_rule", "duration_q", "next_state", "year_token", "age_token"):
        before, after = getattr(parent.grammar(), what), getattr(child.grammar(), what)
        assert np.array_equal(after[: len(before)], before), what


@pytest.mark.parametrize("name", SPECS)
def test_the_first_site_s_timelines_keep_their_ids(
    name: str, world: World, tokenizer_of: TokenizerOf, expanded_of: TokenizerOf
) -> None:
    before = tokenizer_of(name).encode(world[0], world[1], codes=world[2])
    after = expanded_of(name).encode(world[0], world[1], codes=world[2])
    assert after.same_timelines(before)
    assert after.counts == before.counts


@pytest.mark.parametrize("name", SPECS)
def test_the_grammar_accepts_the_other_site_and_codes_stand_in_the_order_of_their_ids(
    name: str, other_world: World, tokenizer_of: TokenizerOf, expanded_of: TokenizerOf
) -> None:
    child = expanded_of(name)
    batch = child.encode(other_world[0], other_world[1], codes=other_world[2])
    assert child.validate(batch) == []
    first_new = tokenizer_of(name).vocab_size
    assert (batch.token_id >= first_new).sum() > 50
    assert child.grammar().codes_ascend == tokenizer_of(name).grammar().codes_ascend
    is_code = child.token_class[batch.token_id] == TokenClass.CODE
    follows = is_code[1:] & is_code[:-1]
    follows[batch.offsets[1:-1] - 1] = False
    if child.grammar().codes_ascend:
        later = (batch.token_id[1:] >= first_new) & follows
        assert later.sum() > 5
        assert (np.diff(batch.token_id)[follows] > 0).all()


@pytest.mark.parametrize("name", SPECS)
def test_the_twin_agrees_on_the_other_site(
    name: str, other_world: World, expanded_of: TokenizerOf
) -> None:
    child = expanded_of(name)
    events, observation, codes = other_world
    given = prepare_input(events, observation, child.resolver(codes))
    twin = twin_encode(child.encode_tables, given)
    fast = child.encode(events, observation, codes=codes)
    assert fast.same_timelines(twin)
    assert fast.counts == twin.counts


@pytest.mark.parametrize("name", [name for name in SPECS if name != "cehr-hours"])
def test_generated_timelines_of_the_expanded_tokenizer_come_back(
    name: str, other_world: World, expanded_of: TokenizerOf
) -> None:
    child = expanded_of(name)
    ordered = child.canonical(walks(child, 40, seed=4))
    assert child.validate(ordered) == []
    uniforms = np.random.default_rng(4).random(ordered.n_tokens)
    events = child.decode(ordered, value_u=uniforms)
    again = child.encode(events, child.decode_observation(ordered), codes=other_world[2])
    assert again.same_timelines(ordered, ignore=("n_prior",))


def test_an_expanded_tokenizer_is_saved_whole(tmp_path: Path, expanded_of: TokenizerOf) -> None:
    for name in ("compact", "compact-split-day"):
        child = expanded_of(name)
        child.save(tmp_path / name)
        loaded = Tokenizer.load(tmp_path / name)
        assert loaded.hash == child.hash
        assert loaded.vocabulary.generations == child.vocabulary.generations
        assert loaded.encode_tables.token_rank.tolist() == child.encode_tables.token_rank.tolist()


def test_a_source_with_nothing_new_leaves_the_tokenizer_as_it_is(
    world: World, other_world: World, expanded_of: TokenizerOf, tokenizer_of: TokenizerOf
) -> None:
    parent = tokenizer_of("compact")
    assert expand(parent, count([world[0]], world[2])).hash == parent.hash
    child = expanded_of("compact")
    assert expand(child, count([other_world[0]], other_world[2])).hash == child.hash


def test_an_expansion_of_an_expansion_names_both(
    other_world: World, expanded_of: TokenizerOf, tokenizer_of: TokenizerOf
) -> None:
    child = expanded_of("compact")
    events = other_world[0]
    codes = [c.replace("CPT4/mri", "AAA/third") for c in events["code"].to_pylist()]
    place = events.schema.get_field_index("code")
    third = events.set_column(place, events.schema.field("code"), [codes])
    grandchild = expand(child, count([third], other_world[2]))
    assert [g.hash for g in grandchild.vocabulary.generations] == [
        tokenizer_of("compact").hash,
        child.hash,
    ]
    batch = grandchild.encode(third, other_world[1])
    assert grandchild.validate(batch) == []
    assert grandchild.grammar().codes_ascend
    assert {e.code for e in grandchild.codes[len(child.codes) :]} == {"AAA/third"}


def test_the_report_says_what_became_of_the_other_site_s_codes(
    other_world: World, expanded_of: TokenizerOf
) -> None:
    child = expanded_of("compact")
    for row in child.fit_report.dropped:
        key = (row["kind"], row["table"], row["code"], row["unit"])
        assert key not in child.vocabulary.entry_index
        assert row["n_subjects"] < SPECS["compact"].min_subjects or row["kind"] == "static"


def test_a_text_that_two_sites_share_keeps_its_shared_value_token(
    expanded_of: TokenizerOf, tokenizer_of: TokenizerOf
) -> None:
    parent, child = tokenizer_of("compact-split-day"), expanded_of("compact-split-day")
    numbers = parent.vocabulary.text_index
    assert numbers
    assert {t: n for t, n in child.vocabulary.text_index.items() if t in numbers} == numbers
    assert "VALUE//=CONTAMINATED" in child.labels[parent.vocab_size :]


def test_labels_that_the_parent_has_get_longer_ones(
    other_world: World, tokenizer_of: TokenizerOf
) -> None:
    parent = tokenizer_of("compact")
    events = other_world[0]
    tables = [t.replace("drug_exposure", "device") for t in events["table"].to_pylist()]
    place = events.schema.get_field_index("table")
    moved = events.set_column(place, events.schema.field("table"), [tables])
    child = expand(parent, count([moved], other_world[2]))
    assert "RxNorm/aspirin" in parent.labels
    assert "RxNorm/aspirin@device" in child.labels[parent.vocab_size :]


def test_bins_of_codes_that_are_known_are_not_fitted_again(
    other_world: World, tokenizer_of: TokenizerOf
) -> None:
    parent = tokenizer_of("compact")
    events = other_world[0]
    doubled = pa_times_two(events)
    child = expand(parent, count([doubled], other_world[2]))
    sodium = [i for i, e in enumerate(parent.codes) if e.code == "LOINC/sodium"]
    assert sodium
    assert all(child.codes[i] == parent.codes[i] for i in sodium)


def pa_times_two(events: pa.Table) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    place = events.schema.get_field_index("numeric_value")
    doubled = pc.multiply(events["numeric_value"], pa.scalar(2.0, pa.float32()))
    return events.set_column(place, events.schema.field("numeric_value"), doubled)


def test_a_unit_that_is_new_is_a_new_entry_and_others_still_take_the_old_one(
    expanded_of: TokenizerOf, tokenizer_of: TokenizerOf
) -> None:
    parent, child = tokenizer_of("compact"), expanded_of("compact")
    key = ("code", "measurement", "LOINC/creatinine")
    assert (*key, "umol/L") in child.vocabulary.entry_index
    old = parent.vocabulary.dominant_entry[key]
    assert child.vocabulary.dominant_entry[key] == old
    many = replace(child.codes[child.vocabulary.entry_index[*key, "umol/L"]], n_subjects=10**6)
    codes = tuple(many if e.key == many.key else e for e in child.codes)
    assert replace(child.vocabulary, codes=codes).dominant_entry[key] == old
