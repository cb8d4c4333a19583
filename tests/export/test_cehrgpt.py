"""A store of preset cehr as CEHR-GPT reads it."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.tokenizer.clinic import SPECS, make_world

import chronoward as cw
from chronoward import files
from chronoward.errors import ConfigError, StateError
from chronoward.export import export
from chronoward.export.cehrgpt import schema
from chronoward.store import StoreWriter, TokenStore
from chronoward.tokenizer import TokenClass, Tokenizer, TokenizerSpec, fit

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.tokenizer import TokenBatch

Made = tuple["Tokenizer", "TokenBatch", "Path"]


def make_store(folder: Path, spec: TokenizerSpec, **tokens: int) -> Made:
    """A store of 60 subjects, every fifth held out, every fifth of the others for tuning."""
    events, observation, codes = make_world(60, seed=3)
    tokenizer = fit([events], codes, spec)
    batch = tokenizer.encode(events, observation, codes=codes)
    store = folder / "tokens"
    files.make_output_folder(store)
    tokenizer.save(store / "tokenizer.json")
    writer = StoreWriter(store, tokenizer_hash=tokenizer.hash, **tokens)
    split = np.arange(len(batch)) % 5
    writer.add(batch, np.where(split == 4, 2, np.where(split == 3, 1, 0)).astype(np.int64))
    writer.finish(calendar="real", observation="source", split_rule="source", counts={})
    return tokenizer, batch, store


def rows_of(out: Path) -> dict[int, dict[str, Any]]:
    rows = [
        r
        for f in sorted(out.glob("patient_sequence/*/*.parquet"))
        for r in pq.read_table(f).to_pylist()
    ]
    return {row["person_id"]: row for row in rows}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_store(tmp_path_factory.mktemp("export"), SPECS["cehr"])


@pytest.fixture(scope="module")
def out(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "cehrgpt"
    export(made[2], folder, to="cehrgpt")
    return folder


def test_every_told_subject_is_there_once_with_its_tokens(made: Made, out: Path) -> None:
    tokenizer, batch, _ = made
    rows = rows_of(out)
    known_ages = 0
    for i, subject in enumerate(batch.subject_id.tolist()):
        tokens = batch.token_id[batch.offsets[i] : batch.offsets[i + 1] - 1].tolist()
        labels = [tokenizer.labels[t] for t in tokens]
        told = "age:unknown" not in labels and any(
            x.startswith("Visit/") or x.isdigit() for x in labels[4:]
        )
        assert (subject in rows) == told
        if told:
            row = rows[subject]
            known_ages += 1
            assert len(row["concept_ids"]) == row["num_of_concepts"] == len(tokens)
            assert [x for x in labels if x[0] in "[DLi"] == [
                x for x in row["concept_ids"] if x[0] in "[DLi"
            ]
            assert "[END]" not in row["concept_ids"]
    assert known_ages == len(rows) > 30


def test_codes_are_concept_ids_where_there_are_some(out: Path) -> None:
    seen = {x for row in rows_of(out).values() for x in row["concept_ids"]}
    assert {"9201", "9202", "9203"} <= seen
    assert "SNOMED/hf" in seen  # no concept id; the same in both of its tables
    assert not any("@" in x for x in seen)


def test_lists_have_one_length_and_times_and_ages_go_with_the_clock(made: Made, out: Path) -> None:
    for row in rows_of(out).values():
        lists = [value for value in row.values() if isinstance(value, list)]
        assert {len(value) for value in lists} == {row["num_of_concepts"]}
        assert row["epoch_times"] == sorted(row["epoch_times"])
        assert row["ages"] == sorted(row["ages"])
        assert row["ages"][0] == int(row["concept_ids"][1].removeprefix("age:"))
        assert max(row["ages"]) <= 90
        ranks = row["record_ranks"]
        assert ranks[0] == 1
        assert set(np.diff(ranks)) <= {0, 1}


def test_a_shard_is_a_file_however_many_record_batches_it_has(out: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path, SPECS["cehr"], batch_tokens=200)[2]
    assert len(TokenStore.open(store).split("train").shards) > 3
    export(store, tmp_path / "out", to="cehrgpt")
    assert rows_of(tmp_path / "out") == rows_of(out)
    assert [p.name for p in (tmp_path / "out").glob("patient_sequence/*/train*")] == [
        "train-00000.parquet"
    ]


def test_splits_are_the_stores(made: Made, out: Path) -> None:
    table = pq.read_table(out / "patient_splits").to_pydict()
    split_of = dict(zip(table["person_id"], table["split"], strict=True))
    place = {s: i % 5 for i, s in enumerate(made[1].subject_id.tolist())}
    assert split_of.keys() == rows_of(out).keys()
    names = {3: "validation", 4: "test"}
    assert all(name == names.get(place[s], "train") for s, name in split_of.items())
    test = pq.read_table(out / "patient_sequence" / "test")["person_id"].to_pylist()
    assert set(test) == {s for s, name in split_of.items() if name == "test"}


def test_what_is_left_out_is_counted_and_the_folder_is_private(made: Made, out: Path) -> None:
    report = files.read_json(out / "export.json")
    splits = report["splits"].values()
    left_out = sum(s["without_visits"] + s["age_unknown"] for s in splits)
    assert sum(s["subjects"] for s in splits) + left_out == len(made[1])
    assert left_out > 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("values", ["split", "fused"])
def test_a_value_is_a_property_of_its_code(tmp_path: Path, values: str) -> None:
    order = {"event_order": "canonical"} if values == "split" else {}
    spec = TokenizerSpec(preset="cehr", min_subjects=3, n_value_bins=4, values=values, **order)
    tokenizer, batch, store = make_store(tmp_path, spec)
    export(store, tmp_path / "out", to="cehrgpt")
    rows = rows_of(tmp_path / "out")
    numbers, answers = 0, set()
    entries = {(e.code, e.unit): e for e in tokenizer.vocabulary.codes if e.quantiles}
    for row in rows.values():
        assert not any("VALUE" in x or "//q" in x for x in row["concept_ids"])
        listed = zip(
            *(row[n] for n in ("concept_ids", "units", "number_as_values", "concept_as_values")),
            *(row[n] for n in ("is_numeric_types", "concept_value_masks")),
            strict=True,
        )
        for concept, unit, number, answer, is_number, has_value in listed:
            assert has_value == max(is_number, int(answer != "0"))
            if is_number:
                bins = entries[concept, None if unit == "N/A" else unit].quantiles
                assert any(q[0] - 1e-6 <= number <= q[-1] + 1e-6 for q in bins)
                numbers += 1
            elif answer != "0":
                answers.add((concept, answer))
    assert numbers > 20
    assert ("LOINC/culture", "POS") in answers
    is_value = tokenizer.token_class[batch.token_id] == TokenClass.VALUE
    assert is_value.any() == (values == "split")


def test_gaps_under_five_minutes_are_silent_in_ethos_time(tmp_path: Path) -> None:
    spec = TokenizerSpec(preset="cehr", min_subjects=3, time_scheme="ethos")
    tokenizer, batch, store = make_store(tmp_path, spec)
    export(store, tmp_path / "out", to="cehrgpt")
    seen = {x for row in rows_of(tmp_path / "out").values() for x in row["concept_ids"]}
    assert "0m-5m" in {tokenizer.labels[t] for t in batch.token_id}
    assert not seen & {"0m-5m", "i-0m-5m", "i-2mt+"}
    assert "=6mt" in seen


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SPECS["compact"], "made with preset compact"),
        (TokenizerSpec(preset="cehr", min_subjects=3, time_scheme="log"), "time scheme log"),
        (
            TokenizerSpec(preset="cehr", min_subjects=3, prompt_fields=("age", "sex")),
            "needs year, age, sex and race",
        ),
    ],
)
def test_stores_that_cehrgpt_cannot_read_are_refused(
    tmp_path: Path, spec: TokenizerSpec, message: str
) -> None:
    _, _, store = make_store(tmp_path, spec)
    with pytest.raises(ConfigError, match=message):
        export(store, tmp_path / "out", to="cehrgpt")
    assert not (tmp_path / "out").exists()


def test_an_unknown_target_and_a_full_folder_are_refused(made: Made, out: Path) -> None:
    with pytest.raises(ConfigError, match="to must be one of cehrgpt, hf; got 'spark'"):
        cw.export(made[2], out, to="spark")
    with pytest.raises(StateError, match="not empty"):
        cw.export(made[2], out, to="cehrgpt")


def test_the_verb_says_what_it_wrote(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from chronoward.cli import main

    arguments = ["export", str(made[2]), "--to", "cehrgpt", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    said = capsys.readouterr()
    assert not exit_.value.code
    assert "subjects" in said.out
    assert "left out" in said.out
    assert "export: 60 of 60 subjects" in said.err
    schemas = {pq.read_schema(f) for f in (tmp_path / "out").glob("patient_sequence/*/*.parquet")}
    assert schemas == {schema()}
