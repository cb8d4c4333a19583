from __future__ import annotations

import csv
import json
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.tokenize.conftest import N_MEDS, N_OMOP, content, write_meds

from chronoward import population
from chronoward.errors import ConfigError, DataError, FormatError, StateError
from chronoward.loader import Loader
from chronoward.philox import permutation, splitmix64
from chronoward.tokenize import tokenize, verify
from chronoward.tokenizer import Tokenizer, TokenizerSpec

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.store import TokenStore


_SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def meds_store(meds: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return tokenize(meds, tmp_path_factory.mktemp("stores") / "tokens")


@pytest.fixture(scope="module")
def store(omop: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return tokenize(omop, tmp_path_factory.mktemp("stores") / "tokens")


def test_a_store_has_the_files_of_the_contract_and_is_private(store: TokenStore) -> None:
    names = {path.name for path in store.path.iterdir()}
    assert names == {
        "store.json",
        "tokenizer.json",
        "codes.parquet",
        "fingerprints.arrow",
        "ingest_report.json",
        "ledger",
        "train",
        "tuning",
        "held_out",
    }
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700
    assert store.calendar == "real"


def test_a_store_of_ours_verifies(store: TokenStore) -> None:
    findings = verify(store.path)
    report = json.loads((store.path / "ingest_report.json").read_text())
    assert findings.n_subjects == report["n_subjects"] >= N_OMOP
    assert findings.n_tokens == sum(s["n_tokens"] for s in store.manifest["splits"].values())


def test_hash_splits_follow_the_subject_only(store: TokenStore) -> None:
    for name, tenths in (("train", range(8)), ("tuning", [8]), ("held_out", [9])):
        ids = store.split(name).subject_id
        assert set((splitmix64(ids) % np.uint64(10)).tolist()) <= set(tenths)


def test_the_report_says_what_encoding_did(store: TokenStore) -> None:
    report = json.loads((store.path / "ingest_report.json").read_text())
    assert report["tokenizer"]["split_rule"] == store.manifest["split_rule"] == "hash"
    assert report["tokenizer"]["counts"] == store.manifest["counts"]
    assert report["tokenizer"]["dropped"]  # sixty subjects: most codes are rare


def test_a_store_feeds_the_loader_and_the_population(store: TokenStore) -> None:
    grammar = Tokenizer.load(store.tokenizer_path).grammar()
    loader = Loader(store.split("train"), grammar, row_tokens=256, seed=1)
    rows = [row for step in loader.batches(0) for row in step]
    assert sum(row.n_tokens for row in rows) == loader.plan(0).rows.n_tokens
    late = np.flatnonzero(loader.windows.begin > 0)
    assert len(late) > 3
    for row in rows:
        bounds = row.cu_seqlens.tolist()
        for k in np.flatnonzero((row.segment_lead > 0).numpy()).tolist():
            window = row.token_id[bounds[k] : bounds[k + 1]].numpy()
            grammar.run(window[: int(row.segment_lead[k]) + 1])  # raises where it is refused
    made = population.profile(store)
    assert made["fields"] == ["year", "age", "sex", "race"]
    assert sum(cell["n"] for cell in made["cells"]) == len(store.split("train"))


@pytest.mark.parametrize(
    ("source", "threads"), [("meds", 2), ("omop", 7), pytest.param("omop", 2, marks=_SLOW)]
)
def test_threads_do_not_change_a_byte(
    request: pytest.FixtureRequest, tmp_path: Path, source: str, threads: int
) -> None:
    alone = request.getfixturevalue("store" if source == "omop" else "meds_store")
    folder = request.getfixturevalue(source)
    again = tokenize(folder, tmp_path / "tokens", threads=threads, temp_dir=tmp_path)
    assert content(again.path) == content(alone.path)
    assert {path.name for path in tmp_path.iterdir()} == {"tokens"}


def test_events_prepared_before_are_used_again(
    omop: Path, meds: Path, store: TokenStore, tmp_path: Path
) -> None:
    kept = tmp_path / "events"
    assert content(tokenize(omop, tmp_path / "first", events_dir=kept).path) == content(store.path)
    made = content(kept)
    assert content(tokenize(omop, tmp_path / "second", events_dir=kept).path) == content(store.path)
    assert content(kept) == made
    with pytest.raises(StateError, match="another source"):
        tokenize(meds, tmp_path / "third", events_dir=kept)


def test_permuted_omop_rows_give_the_same_store(
    omop: Path, store: TokenStore, tmp_path: Path
) -> None:
    shuffled = tmp_path / "omop"
    shuffled.mkdir()
    for path in omop.iterdir():
        if path.suffix != ".csv":
            continue
        with path.open(newline="") as handle:
            header, *rows = csv.reader(handle)
        with (shuffled / path.name).open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(header)
            writer.writerows(rows[i] for i in permutation(7, len(rows)))
    again = tokenize(shuffled, tmp_path / "tokens")
    # a table without a primary key is entered in the ledger by row, so the ledger may differ
    assert content(again.path, ledger=False) == content(store.path, ledger=False)


def test_permuted_meds_rows_give_the_same_store(meds_store: TokenStore, tmp_path: Path) -> None:
    again = tokenize(write_meds(tmp_path / "meds", key=11), tmp_path / "second")
    assert content(again.path, ledger=False) == content(meds_store.path, ledger=False)


def test_a_source_without_visits_gets_the_preset_without_visits(meds_store: TokenStore) -> None:
    assert Tokenizer.load(meds_store.tokenizer_path).spec.preset == "events"
    assert verify(meds_store.path).n_subjects == N_MEDS


@pytest.mark.parametrize("preset", ["compact", "cehr"])
def test_a_preset_of_visits_is_refused_where_records_are_in_none(
    meds: Path, tmp_path: Path, preset: str
) -> None:
    out = tmp_path / "tokens"
    with pytest.raises(DataError, match=r"^\d+ of \d+ events are in no visit.*use preset events"):
        tokenize(meds, out, preset=preset)
    assert not out.exists()


@pytest.mark.parametrize("preset", ["cehr", pytest.param("events", marks=_SLOW)])
def test_other_presets_verify(omop: Path, tmp_path: Path, preset: str) -> None:
    made = tokenize(omop, tmp_path / "tokens", preset=preset)
    assert verify(made.path).n_subjects >= N_OMOP


def test_a_given_tokenizer_is_used_as_it_is(
    meds: Path, meds_store: TokenStore, tmp_path: Path
) -> None:
    again = tokenize(meds, tmp_path / "tokens", tokenizer=meds_store.tokenizer_path)
    assert again.tokenizer_hash == meds_store.tokenizer_hash
    shards = "train", "tuning", "held_out"
    assert all(content(again.path / name) == content(meds_store.path / name) for name in shards)
    with pytest.raises(ConfigError, match="leave out preset"):
        tokenize(meds, tmp_path / "x", tokenizer=meds_store.tokenizer_path, preset="cehr")
    assert not (tmp_path / "x").exists()


def test_a_temporal_split_holds_out_those_who_came_last(meds: Path, tmp_path: Path) -> None:
    made = tokenize(meds, tmp_path / "tokens", split="temporal")

    def first_times(name: str) -> np.ndarray:
        split = made.split(name)
        starts = [split.timeline(i).time_min[0] for i in range(len(split))]
        return split.origin_us + np.array(starts, np.int64) * 60_000_000

    train, tuning, held_out = (first_times(n) for n in ("train", "tuning", "held_out"))
    minute = 60_000_000  # the clock rounds up
    assert train.max() <= tuning.min() + minute
    assert tuning.max() <= held_out.min() + minute
    assert len(train) == round(0.8 * N_MEDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "source"}, "no splits of its own"),
        ({"split": "alphabet"}, "split must be one of"),
        ({"preset": "gpt"}, "preset must be one of"),
    ],
)
def test_options_that_cannot_be_are_refused_and_leave_nothing(
    meds: Path, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tokenize(meds, tmp_path / "tokens", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_temporal_split_of_shifted_dates_is_refused(meds: Path, tmp_path: Path) -> None:
    from chronoward.data import IngestConfig

    with pytest.raises(ConfigError, match="shifted per subject"):
        tokenize(meds, tmp_path / "t", split="temporal", ingest=IngestConfig(calendar="shifted"))
    made = tokenize(meds, tmp_path / "t", ingest=IngestConfig(calendar="shifted"))
    assert made.calendar == "shifted"
    assert "year" not in Tokenizer.load(made.tokenizer_path).spec.prompt_fields


def test_the_tokenizer_of_another_calendar_is_refused(
    meds: Path, store: TokenStore, tmp_path: Path
) -> None:
    from chronoward.data import IngestConfig

    with pytest.raises(ConfigError, match="for a real calendar"):
        tokenize(
            meds,
            tmp_path / "t",
            tokenizer=store.tokenizer_path,
            ingest=IngestConfig(calendar="shifted"),
        )
    assert not (tmp_path / "t").exists()


def test_a_folder_that_is_no_source_is_a_data_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="OMOP"):
        tokenize(tmp_path / "src", tmp_path / "tokens")
    with pytest.raises(FileNotFoundError):
        tokenize(tmp_path / "absent", tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_a_file_that_is_no_tokenizer_is_a_format_error(meds: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FormatError, match="not a chronoward tokenizer"):
        tokenize(meds, tmp_path / "tokens", tokenizer=tmp_path / "tokenizer.json")


def test_a_foreign_folder_is_refused(meds: Path, store: TokenStore, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(StateError, match="not empty"):
        tokenize(meds, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(StateError, match="not empty"):
        tokenize(meds, store.path)


def test_excluded_subjects_are_nowhere(meds: Path, tmp_path: Path) -> None:
    (tmp_path / "opted_out.txt").write_text("3\n17\n")
    made = tokenize(meds, tmp_path / "tokens", exclude_subjects=tmp_path / "opted_out.txt")
    for name in ("train", "tuning", "held_out"):
        assert not set(made.split(name).subject_id.tolist()) & {3, 17}
    assert verify(made.path).n_subjects == 58


def test_the_source_s_own_splits_are_used(meds: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = write_meds(tmp_path / "meds")
    names = ["train"] * 40 + ["tuning"] * 9 + ["held_out"] * 11
    table = pa.table({"subject_id": np.arange(1, 61), "split": names})
    (source / "metadata").mkdir()
    pq.write_table(table, source / "metadata" / "subject_splits.parquet")
    made = tokenize(source, tmp_path / "tokens")
    assert made.manifest["split_rule"] == "source"
    assert made.split("held_out").subject_id.tolist() == list(range(50, 61))


def test_tokenizing_needs_no_torch(meds: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from chronoward.tokenize import tokenize;"
        "tokenize(sys.argv[1], sys.argv[2]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(meds), str(tmp_path / "t")], check=True)


def test_a_spec_gets_the_calendar_of_the_source(meds: Path, tmp_path: Path) -> None:
    spec = TokenizerSpec(preset="events", values="split", calendar="shifted")
    made = tokenize(meds, tmp_path / "tokens", spec=spec)
    assert Tokenizer.load(made.tokenizer_path).spec.calendar == "real"
    verify(made.path)


def test_the_verbs_are_public_names_that_load_when_used(meds_store: TokenStore) -> None:
    code = (
        "import sys, chronoward as cw; assert 'duckdb' not in sys.modules;"
        "assert cw.verify(sys.argv[1]).n_subjects > len(cw.TokenStore.open(sys.argv[1])"
        ".split('train')) > 0; assert not {'duckdb', 'torch'} & set(sys.modules);"
        "import chronoward.tokenize; assert callable(cw.tokenize)"
    )
    subprocess.run([sys.executable, "-c", code, str(meds_store.path)], check=True)
