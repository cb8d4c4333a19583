from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.store.test_store import write
from tests.store.timelines import make_batch

from chronoward.errors import FormatError
from chronoward.store import StoreWriter, TokenStore
from chronoward.store.append import (
    live_runs,
    next_folder,
    remove_strays,
    rows_of,
    write_manifest,
    write_superseded,
)
from chronoward.store.fingerprints import Fingerprints, read_fingerprints

if TYPE_CHECKING:
    from pathlib import Path

N = 40


def make_store(folder: Path) -> TokenStore:
    batch = make_batch(np.arange(N, dtype=np.int64), np.arange(N, dtype=np.int64) + 3)
    tokens = {"max_tokens": 300, "batch_tokens": 100}
    return TokenStore.open(write(folder, [(batch, np.zeros(N, np.uint8))], **tokens))


def replace_some(store: TokenStore, subjects: list[int]) -> TokenStore:
    """The store after these subjects got timelines of another seed, and subject 100 came."""
    ids = np.array([*subjects, 100], np.int64)
    writer = StoreWriter(
        store.path,
        tokenizer_hash="by hand",
        shards={name: entry["shards"] for name, entry in store.manifest["splits"].items()},
    )
    writer.add(make_batch(ids, np.full(len(ids), 7), seed=9), np.zeros(len(ids), np.uint8))
    folder = next_folder(store)
    gone = rows_of(store.split("train"), np.array(subjects, np.int64))
    write_superseded(folder, gone)
    write_manifest(store, writer.flush(), {"train": gone}, {"subjects": {}, "counts": {}})
    return TokenStore.open(store.path, verify="full")


@settings(max_examples=25, deadline=None)
@given(chosen=st.sets(st.integers(0, N - 1), min_size=1))
def test_whatever_is_superseded_each_subject_is_there_once_with_its_latest_timeline(
    tmp_path_factory: pytest.TempPathFactory, chosen: set[int]
) -> None:
    subjects = sorted(chosen)
    store = replace_some(make_store(tmp_path_factory.mktemp("s") / "store"), subjects)
    split = store.split("train")
    assert sorted(split.subject_id.tolist()) == [*range(N), 100]
    assert [split.index_of(int(s)) for s in split.subject_id] == list(range(N + 1))
    assert split.find(np.array([-5, 41, 10**9])).tolist() == [-1, -1, -1]
    for subject in [*range(N), 100]:
        is_new = subject in chosen or subject == 100
        length = 7 if is_new else subject + 3
        expected = make_batch(np.array([subject]), np.array([length]), seed=9 * is_new)
        timeline = split.timeline(split.index_of(subject))
        assert timeline.subject_id == subject
        assert timeline.token_id.tolist() == expected.token_id.tolist()
        assert timeline.obs_end_min.tolist() == expected.obs_end_min.tolist()
        assert not timeline.token_id.flags.owndata
    assert split.n_tokens == store.manifest["splits"]["train"]["n_tokens"]
    assert len(split) == store.manifest["splits"]["train"]["n_subjects"]
    assert store.n_superseded == len(subjects)
    for shard in split.shards:
        assert shard.offsets[0] == shard.obs_offsets[0] == 0
        assert shard.offsets[-1] == len(shard.token_id)


def test_a_run_knows_its_rows_in_the_file(tmp_path: Path) -> None:
    first, second, third = make_store(tmp_path / "s").split("train").shards[:3]
    n = third.file_row
    assert [shard.path.name for shard in (first, second, third)] == ["0.arrow"] * 3
    assert (second.file_row, n) == (len(first.subject_id), int(third.subject_id[0]))
    gone = np.array([0, 3, 4, second.file_row - 1, second.file_row, n - 2])
    runs = [run for shard in (first, second) for run in live_runs(shard, gone)]
    assert [(run.file_row, run.subject_id.tolist()) for run in runs] == [
        (1, [1, 2]),
        (5, list(range(5, second.file_row - 1))),
        (second.file_row + 1, list(range(second.file_row + 1, n - 2))),
        (n - 1, [n - 1]),
    ]
    assert list(live_runs(second, np.arange(n))) == []
    assert list(live_runs(third, gone)) == [third]


def test_rows_that_are_not_there_are_a_format_error(tmp_path: Path) -> None:
    for number, row in enumerate([("train/0.arrow", 10**6, 1), ("train/99.arrow", 0, 1)]):
        store = make_store(tmp_path / str(number))
        write_superseded(next_folder(store), [row])
        shards = {name: entry["shards"] for name, entry in store.manifest["splits"].items()}
        write_manifest(store, shards, {}, {"subjects": {}, "counts": {}})
        with pytest.raises(FormatError, match="not rows of that file"):
            TokenStore.open(store.path)


def test_what_was_never_finished_is_removed(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    before = sorted(store.path.rglob("*"))
    (next_folder(store) / "superseded.arrow").write_text("half")
    (store.path / "train" / "77.arrow").write_text("half")
    remove_strays(store)
    assert sorted(store.path.rglob("*")) == before


def test_the_latest_fingerprint_counts(tmp_path: Path) -> None:
    for name, ids, value in (("a", [1, 2, 5], 10), ("b", [2, 9], 20), ("c", [9], 30)):
        made = Fingerprints()
        made.add(np.array(ids, np.int64), np.full(len(ids), value, np.uint64))
        made.write(tmp_path / name)
    ids, found = read_fingerprints([tmp_path / name for name in "abc"])
    assert ids.tolist() == [1, 2, 5, 9]
    assert found.tolist() == [10, 20, 10, 30]
    (tmp_path / "d").write_text("no")
    with pytest.raises(FormatError, match="not a file of fingerprints"):
        read_fingerprints([tmp_path / "d"])
    with pa.ipc.new_file(tmp_path / "e", pa.schema([("x", pa.int64())])) as sink:
        sink.write_table(pa.table({"x": [1]}))
    with pytest.raises(FormatError, match="not a file of fingerprints"):
        read_fingerprints([tmp_path / "e"])
