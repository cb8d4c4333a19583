from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.tokenizer.clinic import SPECS
from tests.tokenizer.other_site import RENAMED, make_other_world

from chronoward.errors import ConfigError, DataError, FormatError
from chronoward.tokenizer import Tokenizer, count, expand, fit
from chronoward.tokenizer.concept_embeddings import (
    ConceptEmbeddings,
    place_unseen,
    token_vectors,
)
from chronoward.tokenizer.inputs import prepare_input
from chronoward.tokenizer.twin import encode as twin_encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    World = tuple[pa.Table, pa.Table, pa.Table]
    TokenizerOf = Callable[[str], Tokenizer]


def write(path: Path, vectors: dict[str, list[float]], kind: pa.DataType | None = None) -> Path:
    table = pa.table(
        {
            "code": pa.array(list(vectors), pa.string()),
            "vector": pa.array(list(vectors.values()), kind or pa.list_(pa.float32())),
        }
    )
    pq.write_table(table, path)
    return path


VECTORS = {
    "CPT4/xray": [1.0, 0.0, 0.0],
    "CPT4/mri": [0.9, 0.1, 0.0],  # near the x-ray, unknown to the first site
    "LOINC/sodium": [0.0, 1.0, 0.0],
    "LOINC/creatinine": [0.0, 0.9, 0.1],
    "LOINC/potassium": [0.0, 2.0, 0.01],
    "SNOMED/hf": [0.0, 0.0, 1.0],
    "AAA/first of all": [-1.0, 0.0, 0.0],  # near nothing
}


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> ConceptEmbeddings:
    return ConceptEmbeddings.read(write(tmp_path_factory.mktemp("e") / "e.parquet", VECTORS))


@pytest.fixture(scope="module")
def other_world() -> World:
    return make_other_world(80, seed=9)


def placed(tokenizer: Tokenizer) -> dict[tuple[str, str], str]:
    return tokenizer.vocabulary.placed


def test_an_unseen_code_goes_to_the_nearest_kept_code_of_its_table(
    embeddings: ConceptEmbeddings, tokenizer_of: TokenizerOf, world: World
) -> None:
    made = place_unseen(tokenizer_of("compact"), embeddings, at_least=0.8, codes=world[2])
    assert placed(made)["procedure_occurrence", "CPT4/mri"] == "CPT4/xray"
    assert placed(made)["measurement", "LOINC/potassium"] == "LOINC/sodium"
    assert ("condition_occurrence", "CPT4/mri") not in placed(made)
    assert not any(code == "AAA/first of all" for _, code in placed(made))
    strict = place_unseen(tokenizer_of("compact"), embeddings, at_least=0.9999, codes=world[2])
    assert placed(strict) == {("measurement", "LOINC/potassium"): "LOINC/sodium"}


@pytest.mark.parametrize("name", SPECS)
def test_placing_is_counted_as_its_own_rule_and_the_twin_agrees(
    name: str,
    embeddings: ConceptEmbeddings,
    tokenizer_of: TokenizerOf,
    other_world: World,
    world: World,
) -> None:
    plain = tokenizer_of(name)
    made = place_unseen(plain, embeddings, at_least=0.8, codes=world[2])
    events, observation, codes = other_world
    before = plain.encode(events, observation, codes=codes)
    after = made.encode(events, observation, codes=codes)
    n_mri = events["code"].to_pylist().count(RENAMED["CPT4/xray"])
    assert "placed" not in before.counts
    assert after.counts["placed"] == n_mri > 0
    assert before.counts["unknown_code"] - after.counts.get("unknown_code", 0) == n_mri
    if made.spec.preset != "cehr":  # there a visit without codes is not told; now some have one
        assert before.counts.get("rolled_up", 0) == after.counts.get("rolled_up", 0)
    given = prepare_input(events, observation, made.resolver(codes))
    twin = twin_encode(made.encode_tables, given)
    assert after.same_timelines(twin)
    assert after.counts == twin.counts
    assert made.validate(after) == []
    same = made.encode(world[0], world[1], codes=world[2])
    assert same.same_timelines(plain.encode(world[0], world[1], codes=world[2]))


def test_a_code_s_ancestor_comes_before_its_nearest_neighbor(
    tmp_path: Path, tokenizer_of: TokenizerOf, world: World
) -> None:
    vectors = {"SNOMED/rare": [1.0, 0.1], "SNOMED/pregnancy": [1.0, 0.0], "SNOMED/hf": [0.0, 1.0]}
    near = ConceptEmbeddings.read(write(tmp_path / "e.parquet", vectors))
    made = place_unseen(tokenizer_of("compact"), near, at_least=0.5, codes=world[2])
    key = (6, "condition_occurrence", "SNOMED/rare", None)
    with_ancestors = made.resolver(world[2]).find(*key)
    assert made.codes[with_ancestors[0]].code == "SNOMED/hf"
    without = made.resolver(None).find(*key)
    assert made.codes[without[0]].code == "SNOMED/pregnancy"
    assert (with_ancestors[1], without[1]) == (0, 2)


def test_places_are_saved_and_checked(
    tmp_path: Path, embeddings: ConceptEmbeddings, tokenizer_of: TokenizerOf, world: World
) -> None:
    made = place_unseen(tokenizer_of("compact"), embeddings, at_least=0.8, codes=world[2])
    made.save(tmp_path / "t.json")
    loaded = Tokenizer.load(tmp_path / "t.json")
    assert placed(loaded) == placed(made)
    assert loaded.hash == made.hash != tokenizer_of("compact").hash
    from dataclasses import replace

    wrong = replace(made.vocabulary, placements=(("measurement", "x", "LOINC/none"),))
    with pytest.raises(FormatError, match="places codes"):
        Tokenizer(wrong)


def test_a_code_that_an_expansion_brings_is_placed_no_more(
    embeddings: ConceptEmbeddings, tokenizer_of: TokenizerOf, world: World, other_world: World
) -> None:
    parent = place_unseen(tokenizer_of("compact"), embeddings, at_least=0.8, codes=world[2])
    child = expand(parent, count([other_world[0]], other_world[2]))
    assert ("procedure_occurrence", "CPT4/mri") not in placed(child)
    assert placed(child)["measurement", "LOINC/potassium"] == "LOINC/sodium"
    batch = child.encode(other_world[0], other_world[1], codes=other_world[2])
    assert "placed" not in batch.counts


def test_the_fit_report_says_which_rare_codes_were_placed(
    tmp_path: Path, other_world: World
) -> None:
    events = other_world[0]
    names = events["code"].to_pylist()
    names[names.index("CPT4/mri")] = "CPT4/rare scan"  # one subject has it
    place = events.schema.get_field_index("code")
    events = events.set_column(place, events.schema.field("code"), [names])
    fitted = fit([events], other_world[2], SPECS["compact"])
    assert "CPT4/rare scan" in [row["code"] for row in fitted.fit_report.dropped]
    file = write(tmp_path / "e.parquet", {"CPT4/rare scan": [1.0], "CPT4/mri": [3.0]})
    near = ConceptEmbeddings.read(file)
    made = place_unseen(fitted, near, at_least=1.0, codes=other_world[2])
    assert [(row["code"], row["to"]) for row in made.fit_report.placed] == [
        ("CPT4/rare scan", "CPT4/mri")
    ]
    assert "CPT4/rare scan" not in [row["code"] for row in made.fit_report.dropped]


def test_tokens_of_a_code_share_its_vector(
    embeddings: ConceptEmbeddings, tokenizer_of: TokenizerOf
) -> None:
    tokenizer = tokenizer_of("compact")
    token, vector, is_valued = token_vectors(tokenizer, embeddings)
    assert vector.dtype == np.float32
    assert (np.diff(token) > 0).all()
    for i, which in enumerate(token.tolist()):
        code = tokenizer.codes[tokenizer.base_code[which]].code
        expected = np.array(VECTORS[code]) / np.linalg.norm(VECTORS[code])
        assert np.allclose(vector[i], expected, atol=1e-6)
        assert is_valued[i] == ("//q" in tokenizer.labels[which])
    assert is_valued.any()
    assert not is_valued.all()
    later = token_vectors(tokenizer, embeddings, first=int(token[2]))
    whole = (token, vector, is_valued)
    assert all(np.array_equal(a[2:], b) for a, b in zip(whole, later, strict=True))


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64()), pa.list_(pa.float32(), 3), pa.large_list(pa.float32())],
)
def test_lists_of_any_kind_are_read(
    tmp_path: Path, kind: pa.DataType, embeddings: ConceptEmbeddings
) -> None:
    read = ConceptEmbeddings.read(write(tmp_path / "e.parquet", VECTORS, kind))
    assert read.codes == embeddings.codes
    assert np.array_equal(read.vectors, embeddings.vectors)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ["a"], "vector": [[1.0]]}, "column code is missing"),
        ({"code": [1], "vector": [[1.0]]}, "code is int64, expected string"),
        ({"code": ["a", "a"], "vector": [[1.0], [2.0]]}, "row 1: column code is there twice"),
        ({"code": ["a", None], "vector": [[1.0], [2.0]]}, "row 1: column code is null"),
        ({"code": ["a"], "vector": ["x"]}, "vector is string, expected a list"),
        ({"code": ["a", "b"], "vector": [[1.0], [2.0, 3.0]]}, "row 1: column vector is null"),
        ({"code": ["a", "b"], "vector": [[1.0], None]}, "row 1: column vector is null"),
        ({"code": ["a", "b"], "vector": [[1.0], [None]]}, "row 1: column vector is zero or not"),
        ({"code": ["a", "b"], "vector": [[1.0], [0.0]]}, "row 1: column vector is zero or not"),
        ({"code": ["a"], "vector": [[float("inf")]]}, "row 0: column vector is zero or not"),
    ],
)
def test_faulty_files_are_refused_by_row_and_column(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    with pytest.raises(DataError, match=message):
        ConceptEmbeddings.read(tmp_path / "e.parquet")


def test_what_is_no_parquet_file_or_names_nothing_is_refused(
    tmp_path: Path, tokenizer_of: TokenizerOf, world: World, embeddings: ConceptEmbeddings
) -> None:
    (tmp_path / "e.parquet").write_text("hello")
    with pytest.raises(FormatError, match="not a readable Parquet"):
        ConceptEmbeddings.read(tmp_path / "e.parquet")
    strange = ConceptEmbeddings.read(write(tmp_path / "s.parquet", {"x": [1.0]}))
    with pytest.raises(ConfigError, match="named alike"):
        place_unseen(tokenizer_of("compact"), strange, at_least=0.8, codes=world[2])
    for at_least in (0.0, 1.5):
        with pytest.raises(ConfigError, match="above 0, at most 1"):
            place_unseen(tokenizer_of("compact"), embeddings, at_least=at_least, codes=world[2])
