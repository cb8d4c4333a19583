from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from tests.tokenizer.clinic import SPECS

from chronoward.errors import DataError
from chronoward.philox import permutation

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from chronoward.tokenizer import Tokenizer

    World = tuple[pa.Table, pa.Table, pa.Table]
    TokenizerOf = Callable[[str], Tokenizer]


def prints(tokenizer: Tokenizer, world: World) -> dict[int, int]:
    """Fingerprint by subject."""
    events, observation, codes = world
    given = tokenizer.input_of(events, observation, codes)
    found = tokenizer.fingerprints(given)
    assert found.dtype == np.uint64
    return dict(zip(given.subject_id.tolist(), found.tolist(), strict=True))


def changed(before: dict[int, int], after: dict[int, int]) -> set[int]:
    assert before.keys() == after.keys()
    return {subject for subject, number in before.items() if after[subject] != number}


def with_value(table: pa.Table, row: int, name: str, value: Any) -> pa.Table:
    values = table[name].to_pylist()
    assert values[row] != value
    values[row] = value
    place = table.schema.get_field_index(name)
    field = table.schema.field(name)
    return table.set_column(place, field, pa.array(values, field.type))


def test_the_order_of_events_and_the_batch_do_not_matter(
    world: World, tokenizer_of: TokenizerOf
) -> None:
    tokenizer = tokenizer_of("compact")
    events, observation, codes = world
    whole = prints(tokenizer, world)
    assert len(set(whole.values())) == len(whole)
    ids = events["subject_id"].to_numpy()
    rows: NDArray[np.int64] = permutation(3, len(events))
    shuffled = events.take(rows[np.argsort(ids[rows], kind="stable")])
    assert prints(tokenizer, (shuffled, observation, codes)) == whole
    plain = pa.table({name: shuffled[name] for name in shuffled.column_names})
    for name in ("table", "code", "unit", "text_value"):
        place = plain.schema.get_field_index(name)
        plain = plain.set_column(place, name, plain[name].dictionary_encode())
    for subject in list(whole)[:5]:
        alone = plain.filter(pa.array(plain["subject_id"].to_numpy() == subject))
        assert prints(tokenizer, (alone, observation, codes)) == {subject: whole[subject]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("time", 1_700_000_000_000_000),
        ("available_time", 1_800_000_000_000_000),
        ("code", "LOINC/never seen"),
        ("unit", "furlong"),
        ("table", "elsewhere"),
        ("numeric_value", 0.125),
        ("text_value", "said something"),
        ("visit_id", 77),
        ("end_time", 1_900_000_000_000_000),
    ],
)
def test_a_change_in_any_column_changes_its_subject_only(
    name: str, value: object, world: World, tokenizer_of: TokenizerOf
) -> None:
    tokenizer = tokenizer_of("compact")
    events, observation, codes = world
    row = events["code"].to_pylist().index("LOINC/sodium")
    other = (with_value(events, row, name, value), observation, codes)
    owner = events["subject_id"][row].as_py()
    assert changed(prints(tokenizer, world), prints(tokenizer, other)) == {owner}


def test_an_event_more_and_a_longer_observation_are_changes(
    world: World, tokenizer_of: TokenizerOf
) -> None:
    tokenizer = tokenizer_of("compact")
    events, observation, codes = world
    before = prints(tokenizer, world)
    twice = pa.concat_tables([events.slice(0, 4), events.slice(3)])
    assert changed(before, prints(tokenizer, (twice, observation, codes))) == {
        events["subject_id"][3].as_py()
    }
    longer = with_value(observation, 2, "end_time", 2_000_000_000_000_000)
    assert changed(before, prints(tokenizer, (events, longer, codes))) == {
        observation["subject_id"][2].as_py()
    }


def test_another_ancestor_of_a_code_is_a_change_of_those_who_have_it(
    world: World, tokenizer_of: TokenizerOf
) -> None:
    tokenizer = tokenizer_of("compact")
    events, observation, codes = world
    row = events["code"].to_pylist().index("SNOMED/pregnancy")
    rare = with_value(events, row, "code", "SNOMED/rare")
    place = codes["code"].to_pylist().index("SNOMED/rare")
    orphaned = with_value(codes, place, "parent_codes", [])
    found = changed(
        prints(tokenizer, (rare, observation, codes)),
        prints(tokenizer, (rare, observation, orphaned)),
    )
    assert found == {rare["subject_id"][row].as_py()}


def test_another_process_finds_the_same_numbers(world: World, tokenizer_of: TokenizerOf) -> None:
    code = (
        "from tests.tokenizer.clinic import SPECS, make_world\n"
        "from tests.tokenizer.test_fingerprint import prints\n"
        "from chronoward.tokenizer import fit\n"
        "world = make_world(60, seed=1)\n"
        "print(prints(fit([world[0]], world[2], SPECS['events']), world))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(prints(tokenizer_of("events"), world))
    assert "events" in SPECS


def test_hashes_that_do_not_fit_the_input_are_refused(
    world: World, tokenizer_of: TokenizerOf
) -> None:
    tokenizer = tokenizer_of("compact")
    given = tokenizer.input_of(*world)
    nothing = np.zeros(0, np.uint64)
    with pytest.raises(DataError, match="key_hash"):
        tokenizer.fingerprints(replace(given, key_hash=nothing))
    with pytest.raises(DataError, match="text_hash"):
        tokenizer.fingerprints(
            replace(given, text_hash=np.zeros(len(given.text_hash) + 1, np.uint64))
        )
