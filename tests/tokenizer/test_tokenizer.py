from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from chronoward import files
from chronoward.errors import FormatError
from chronoward.tokenizer import Tokenizer, TokenizerSpec, fit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa

    World = tuple[pa.Table, pa.Table, pa.Table]

NAMES = [
    "compact",
    "compact-split-day",
    "compact-ethos-none",
    "cehr",
    "cehr-mix-fused",
    "cehr-week",
    "cehr-bert",
    "cehr-hours",
    "events",
    "events-month-split",
    "events-ethos",
]


@pytest.mark.parametrize("name", NAMES)
def test_encoding_what_was_decoded_gives_the_same_timelines(
    name: str, world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    events, observation, codes = world
    tokenizer = tokenizer_of(name)
    batch = tokenizer.encode(events, observation, codes=codes)
    uniforms = np.random.default_rng(0).random(batch.n_tokens)
    again = tokenizer.encode(
        tokenizer.decode(batch, value_u=uniforms), tokenizer.decode_observation(batch), codes=codes
    )
    assert batch.same_timelines(again)


@pytest.mark.parametrize("name", NAMES)
def test_the_grammar_accepts_every_encoded_timeline(
    name: str, world: World, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of(name)
    batch = tokenizer.encode(world[0], world[1], codes=world[2])
    grammar = tokenizer.grammar()
    for i in range(len(batch)):
        tokens = batch.token_id[batch.offsets[i] : batch.offsets[i + 1]]
        assert grammar.state_names[grammar.run(tokens)] == "done"
        assert grammar.sex_of(tokens) in (0, 1, 2)


def test_saving_and_loading_keeps_hash_and_bytes(
    tmp_path: Path, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of("compact")
    tokenizer.save(tmp_path / "a.json")
    loaded = Tokenizer.load(tmp_path / "a.json")
    loaded.save(tmp_path / "b.json")
    assert loaded.hash == tokenizer.hash
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == files.canonical_json(
        files.read_json(tmp_path / "a.json")
    )


@pytest.mark.parametrize("key", ["a", "c", "e"])
def test_an_item_put_into_canonical_json_stands_where_it_would(key: str) -> None:
    value = {"b": [{"c": 1}, {"a": ["x", '\n "d"']}], "d": {"e": 1, "a": 2}}
    made = files.with_item(files.canonical_json(value), key, "f")
    assert made == files.canonical_json({**value, key: "f"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "has version 99"),
        ({"format": "other"}, "not a chronoward tokenizer"),
        ({"parent_hash": "x"}, "does not match its own hash"),
        ({"hash": "0"}, "does not match its own hash"),
    ],
)
def test_a_changed_tokenizer_file_is_refused(
    change: dict[str, object],
    message: str,
    tmp_path: Path,
    tokenizer_of: Callable[[str], Tokenizer],
) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer_of("compact").save(path)
    files.write_json(path, {**files.read_json(path), **change})
    with pytest.raises(FormatError, match=message):
        Tokenizer.load(path)


def test_fitting_does_not_depend_on_how_subjects_are_split_over_tables(world: World) -> None:
    events, _, codes = world
    subjects = np.unique(events["subject_id"].to_numpy())
    spec = TokenizerSpec(min_subjects=3)
    whole = fit([events], codes, spec)
    who = events["subject_id"].to_numpy()
    parts = [events.filter(np.isin(who, part)) for part in np.array_split(subjects[::-1], 7)]
    assert fit(parts, codes, spec).hash == whole.hash


def test_rare_codes_are_rolled_up_or_dropped_and_never_named(world: World, tmp_path: Path) -> None:
    events, _, codes = world
    tokenizer = fit([events], codes, TokenizerSpec(min_subjects=28))
    tokenizer.save(tmp_path / "tokenizer.json")
    text = (tmp_path / "tokenizer.json").read_text()
    lost = [*tokenizer.fit_report.dropped, *tokenizer.fit_report.rolled_up]
    assert lost
    kept = {entry.code for entry in tokenizer.codes}
    assert all(row["code"] not in text for row in lost if row["code"] not in kept)
