"""A store and its source some nights later: what changed is encoded, the rest is not touched."""

from __future__ import annotations

import csv
import json
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.tokenize.conftest import N_MEDS, content, write_meds
from tests.tokenize.test_interruption import start

from chronoward.errors import ConfigError, FormatError, StateError
from chronoward.loader import Loader
from chronoward.store import TokenStore
from chronoward.tokenize import tokenize, verify
from chronoward.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

CHANGED = [5, 17, 33]
GONE = 8
NEW = range(51, N_MEDS + 1)
COLUMNS = ("token_id", "time_min", "event_min", "n_prior", "obs_start_min", "obs_end_min")
STAGES = {
    "first shard": "chronoward.tokenize.append.write_superseded",
    "superseded": "chronoward.tokenize.append.copy_ledger",
    "manifest": "chronoward.tokenize.job._finish",
    "before the manifest": "chronoward.store.append.checksum",
}


def source(folder: Path, keep: Callable[[pa.Table], pa.Table]) -> Path:
    """The clinic of `write_meds`, some of its rows."""
    write_meds(folder)
    for path in (folder / "data").iterdir():
        table = pq.read_table(path)
        kept = keep(table)
        pq.write_table(kept.cast(table.schema), path)
    return folder


def without(table: pa.Table, subjects: Iterable[int]) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["subject_id"], pa.array(list(subjects)))))


def first_night(table: pa.Table) -> pa.Table:
    """Without those who come later, and without the latest events of those who change."""
    old = without(table, [*NEW, *CHANGED])
    ids = table["subject_id"].to_numpy()
    parts = [table.filter(pa.array(ids == subject)) for subject in CHANGED]
    return pa.concat_tables([old, *(part.slice(0, max(len(part) - 4, 0)) for part in parts)])


def second_night(table: pa.Table) -> pa.Table:
    return without(table, [GONE])


def only_what_changed(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_in(table["subject_id"], pa.array([*CHANGED, *NEW])))


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nights")
    made = {"first": first_night, "second": second_night, "delta": only_what_changed}
    return {name: source(folder / name, keep) for name, keep in made.items()}


@pytest.fixture(scope="module")
def first_store(nights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenize(nights["first"], tmp_path_factory.mktemp("first") / "tokens").path


@pytest.fixture
def tokens(first_store: Path, tmp_path: Path) -> Path:
    """A copy of the first night's store, to be appended to."""
    import shutil

    return shutil.copytree(first_store, tmp_path / "tokens")


def timelines(store: TokenStore) -> dict[int, tuple[str, list[list[int]]]]:
    """Split and columns of every subject; each must come once."""
    found: dict[int, tuple[str, list[list[int]]]] = {}
    for name in ("train", "tuning", "held_out"):
        split = store.split(name)
        for i in range(len(split)):
            timeline = split.timeline(i)
            assert timeline.subject_id not in found
            columns = [getattr(timeline, column).tolist() for column in COLUMNS]
            found[timeline.subject_id] = (name, [[timeline.origin_us], *columns])
    return found


@pytest.fixture(scope="module")
def expected(
    nights: dict[str, Path], first_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Any]:
    """The second night written anew by the same tokenizer, and the one who is gone."""
    folder = tmp_path_factory.mktemp("anew") / "tokens"
    anew = tokenize(nights["second"], folder, tokenizer=first_store / "tokenizer.json")
    return timelines(anew) | {GONE: timelines(TokenStore.open(first_store))[GONE]}


def test_where_nothing_changed_no_file_does(
    nights: dict[str, Path], first_store: Path, tokens: Path
) -> None:
    before = content(tokens)
    store = tokenize(nights["first"], tokens, append=True)
    assert content(tokens) == before == content(first_store)
    assert store.n_superseded == 0


def test_an_appended_store_has_the_timelines_of_one_written_anew(
    nights: dict[str, Path], tokens: Path, expected: dict[int, Any]
) -> None:
    store = tokenize(nights["second"], tokens, append=True)
    assert timelines(store) == expected
    said = store.manifest["appends"][0]["subjects"]
    assert {name: n for name, n in said.items() if n} == {
        "changed": len(CHANGED),
        "gone": 1,
        "new": len(NEW),
        "unchanged": 50 - len(CHANGED) - 1,
    }
    assert store.n_superseded == len(CHANGED)
    findings = verify(tokens)
    assert (
        findings.n_subjects
        == N_MEDS
        == sum(entry["n_subjects"] for entry in store.manifest["splits"].values())
    )
    assert findings.n_tokens == sum(e["n_tokens"] for e in store.manifest["splits"].values())


def test_files_of_the_store_stay_byte_for_byte(
    nights: dict[str, Path], first_store: Path, tokens: Path
) -> None:
    tokenize(nights["second"], tokens, append=True)
    after = content(tokens)
    for name, digest in content(first_store).items():
        assert (after[name] == digest) == (name != "store.json"), name
    assert not list(tokens.rglob(".*"))


def test_a_source_of_changed_subjects_only_gives_the_same_store(
    nights: dict[str, Path], tokens: Path, expected: dict[int, Any]
) -> None:
    store = tokenize(nights["delta"], tokens, append=True)
    assert timelines(store) == expected
    assert store.manifest["appends"][0]["subjects"]["gone"] == 50 - len(CHANGED)


def test_nights_add_up(
    nights: dict[str, Path], tokens: Path, expected: dict[int, Any], tmp_path: Path
) -> None:
    tokenize(nights["delta"], tokens, append=True)
    back = tokenize(nights["first"], tokens, append=True)
    first = timelines(TokenStore.open(tokens))
    assert first[CHANGED[0]] != expected[CHANGED[0]]
    assert back.manifest["appends"][1]["subjects"]["changed"] == len(CHANGED)
    assert timelines(tokenize(nights["second"], tokens, append=True)) == expected
    assert TokenStore.open(tokens).n_superseded == 3 * len(CHANGED)
    assert verify(tokens).n_subjects == N_MEDS


def test_the_loader_sees_each_subject_once(
    nights: dict[str, Path], tokens: Path, expected: dict[int, Any]
) -> None:
    store = tokenize(nights["second"], tokens, append=True)
    split = store.split("train")
    grammar = Tokenizer.load(store.tokenizer_path).grammar()
    loader = Loader(split, grammar, row_tokens=4096, seed=1)
    train = sorted(subject for subject, (name, _) in expected.items() if name == "train")
    seen = []
    for row in (row for step in loader.batches(0) for row in step):
        bounds = row.cu_seqlens.tolist()
        for k, number in enumerate(row.segment_subject.tolist()):
            if number >= 0:
                seen.append(int(split.subject_id[number]))
                tokens_here = row.token_id[bounds[k] : bounds[k + 1]].tolist()
                assert tokens_here == expected[seen[-1]][1][1]
    assert sorted(seen) == train
    assert split.subject_id[split.find(np.array(train))].tolist() == train
    assert split.find(np.array([10**6])).tolist() == [-1]


def test_excluded_subjects_count_no_more_and_may_come_back(
    nights: dict[str, Path], tokens: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.txt").write_text("4\n12\n9999\n")
    store = tokenize(nights["first"], tokens, append=True, exclude_subjects=tmp_path / "out.txt")
    assert not {4, 12} & set(timelines(store))
    assert store.manifest["appends"][0]["subjects"]["excluded"] == 2
    assert verify(tokens).n_subjects == 48
    again = tokenize(nights["first"], tokens, append=True)
    assert again.manifest["appends"][1]["subjects"]["new"] == 2
    assert {4, 12} < set(timelines(again))


def test_an_omop_source_is_appended_with_its_visits_and_ancestors(
    omop: Path, tmp_path: Path
) -> None:
    ids = [line.split(",")[0] for line in (omop / "person.csv").read_text().splitlines()[1:]]
    (tmp_path / "later.txt").write_text("\n".join(ids[::4]))
    first = tokenize(omop, tmp_path / "tokens", exclude_subjects=tmp_path / "later.txt")
    anew = tokenize(omop, tmp_path / "anew", tokenizer=first.tokenizer_path)
    store = tokenize(omop, tmp_path / "tokens", append=True)
    assert timelines(store) == timelines(anew)
    said = store.manifest["appends"][0]["subjects"]
    assert said["changed"] == said["gone"] == 0
    assert said["new"] == len(timelines(anew)) - len(timelines(first)) > 0
    verify(store.path)


def test_a_number_among_ids_that_are_text_is_excluded_too(omop: Path, tmp_path: Path) -> None:
    source = tmp_path / "omop"
    source.mkdir()
    renamed = ""
    for path in sorted(omop.glob("*.csv")):
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        if "person_id" in rows[0]:
            column = rows[0].index("person_id")
            renamed = renamed or rows[1][column]
            for row in rows[1:]:
                row[column] = "A" if row[column] == renamed else row[column]
        with (source / path.name).open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    ids = [line.split(",")[0] for line in (source / "person.csv").read_text().splitlines()[1:]]
    store = tokenize(source, tmp_path / "tokens")
    n = sum(len(store.split(name)) for name in store.manifest["splits"])
    (tmp_path / "out.txt").write_text(next(i for i in ids if i != "A"))
    args = {"append": True, "exclude_subjects": tmp_path / "out.txt"}
    store = tokenize(source, tmp_path / "tokens", **args)
    assert store.manifest["appends"][0]["subjects"]["excluded"] == 1
    assert sum(len(store.split(name)) for name in store.manifest["splits"]) == n - 1


def test_nobody_changes_split(nights: dict[str, Path], tmp_path: Path) -> None:
    src = source(tmp_path / "src", second_night)
    ids = np.array([i for i in range(1, N_MEDS + 1) if i != GONE])
    (src / "metadata").mkdir()

    def say(names: list[str]) -> None:
        table = pa.table({"subject_id": ids, "split": names})
        pq.write_table(table, src / "metadata" / "subject_splits.parquet")

    say(["train"] * 40 + ["tuning"] * 9 + ["held_out"] * 10)
    before = timelines(tokenize(src, tmp_path / "tokens"))
    say(["held_out"] * 5 + ["train"] * 54)
    after = tokenize(src, tmp_path / "tokens", append=True)
    assert timelines(after) == before


def test_what_the_codes_mean_is_kept_up(nights: dict[str, Path], tokens: Path) -> None:
    from chronoward.store.codes import code_table, codes_path

    store = tokenize(nights["delta"], tokens, append=True)
    tokenizer = Tokenizer.load(store.tokenizer_path)
    table = code_table(tokens, tokenizer)
    assert codes_path(tokens).is_file()
    assert len(table) == len(set(table["code"].to_pylist()))
    assert set(table["code"].to_pylist()) <= {entry.code for entry in tokenizer.codes}


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_any_stage_the_store_is_whole_and_the_append_goes_on(
    nights: dict[str, Path],
    first_store: Path,
    tokens: Path,
    expected: dict[int, Any],
    tmp_path: Path,
    stage: str,
) -> None:
    module, _, name = STAGES[stage].rpartition(".")
    prelude = f"""
import os, signal
import chronoward.tokenize.append, chronoward.tokenize.job, chronoward.store.append
def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
{module}.{name} = die
"""
    if stage == "before the manifest":  # the shards are written; reading must still work
        prelude += "chronoward.store.append.write_manifest = die\n"
        prelude += "chronoward.tokenize.append.write_manifest = die\n"
    process = start("tokenize", nights["second"], "--out", tokens, "--append", prelude=prelude)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    if stage != "manifest":
        assert timelines(TokenStore.open(tokens)) == timelines(TokenStore.open(first_store))
    assert timelines(tokenize(nights["second"], tokens, append=True)) == expected
    whole = tmp_path / "whole"
    tokens.rename(whole)
    assert verify(whole).n_subjects == N_MEDS
    assert not list(whole.rglob(".*"))


def test_what_a_killed_append_left_does_not_stop_another_one(
    nights: dict[str, Path], first_store: Path, tokens: Path
) -> None:
    prelude = """
import os, signal
import chronoward.tokenize.append
chronoward.tokenize.append.write_manifest = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
"""
    start("tokenize", nights["second"], "--out", tokens, "--append", prelude=prelude).communicate()
    assert (tokens / "appends").is_dir()
    tokenize(nights["first"], tokens, append=True)  # nothing new in this one
    assert content(tokens) == content(first_store)


def test_options_that_the_store_decides_are_refused(nights: dict[str, Path], tokens: Path) -> None:
    before = content(tokens)
    for option in ({"preset": "cehr"}, {"split": "hash"}, {"tokenizer": tokens / "tokenizer.json"}):
        with pytest.raises(ConfigError, match="store's own tokenizer"):
            tokenize(nights["second"], tokens, append=True, **option)
    with pytest.raises(FileNotFoundError):
        tokenize(nights["second"], tokens / "none", append=True)
    assert content(tokens) == before


def test_stores_that_cannot_be_appended_to_say_why(
    nights: dict[str, Path], tokens: Path, tmp_path: Path
) -> None:
    by_time = tokenize(nights["first"], tmp_path / "by_time", split="temporal")
    with pytest.raises(ConfigError, match="split by time"):
        tokenize(nights["second"], by_time.path, append=True)
    from chronoward.store.layout import checksum

    manifest = json.loads((tokens / "store.json").read_text())
    del manifest["fingerprints_sha256"]
    manifest["checksum"] = checksum(manifest)
    (tokens / "store.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="no fingerprints"):
        tokenize(nights["second"], tokens, append=True)


def test_subjects_without_a_fingerprint_are_a_format_error(
    nights: dict[str, Path], tokens: Path
) -> None:
    from chronoward.files import sha256_file
    from chronoward.store.fingerprints import Fingerprints
    from chronoward.store.layout import checksum

    Fingerprints().write(tokens / "fingerprints.arrow")
    manifest = json.loads((tokens / "store.json").read_text())
    manifest["fingerprints_sha256"] = sha256_file(tokens / "fingerprints.arrow")
    manifest["checksum"] = checksum(manifest)
    (tokens / "store.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="subjects without a fingerprint"):
        tokenize(nights["second"], tokens, append=True)
    assert not (tokens / ".job").exists()


def test_a_store_that_is_still_being_written_is_refused(
    nights: dict[str, Path], tokens: Path
) -> None:
    (tokens / ".job").mkdir()
    (tokens / ".job" / "job.json").write_text('{"verb": "tokenize"}')
    with pytest.raises(StateError, match="unfinished job"):
        tokenize(nights["second"], tokens, append=True)


@pytest.mark.parametrize("name", ["superseded.arrow", "fingerprints.arrow"])
def test_a_changed_file_of_an_append_is_found(
    nights: dict[str, Path], tokens: Path, name: str
) -> None:
    tokenize(nights["second"], tokens, append=True)
    path = tokens / "appends" / "1" / name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(FormatError, match=name):
        verify(tokens)
