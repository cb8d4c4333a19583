from __future__ import annotations

import gc
import hashlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.store.timelines import Batch, make_batch, open_writer

from chronoward import files
from chronoward.errors import DataError, FormatError, LimitError, StateError
from chronoward.store import StoreWriter, TokenStore
from chronoward.store.layout import checksum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

RULES = {
    "calendar": "real",
    "observation": "observation_period",
    "split_rule": "hash",
    "counts": {"unknown_codes": 0},
}


def write(out: Path, batches: list[tuple[Batch, np.ndarray]], **tokens: int) -> Path:
    fill(open_writer(out, **tokens), batches)
    return out


def fill(writer: StoreWriter, batches: list[tuple[Batch, np.ndarray]]) -> None:
    for batch, split in batches:
        writer.add(batch, split)
    writer.finish(**RULES)


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def batch() -> Batch:
    subjects = np.arange(-20, 20, dtype=np.int64) * 7
    return make_batch(subjects, np.arange(40, dtype=np.int64) + 3)


@pytest.fixture
def split() -> np.ndarray:
    return (np.arange(40) % 10 // 8 + np.arange(40) % 10 // 9).astype(np.uint8)


@pytest.fixture
def store(tmp_path: Path, batch: Batch, split: np.ndarray) -> Path:
    return write(tmp_path / "store", [(batch, split)], max_tokens=200, batch_tokens=80)


def test_timelines_come_back_as_they_went_in(store: Path, batch: Batch, split: np.ndarray) -> None:
    opened = TokenStore.open(store, verify="full")
    for index, name in enumerate(("train", "tuning", "held_out")):
        part = opened.split(name)
        rows = np.flatnonzero(split == index)
        assert np.array_equal(part.subject_id, batch.subject_id[rows])
        assert np.array_equal(part.lengths, np.diff(batch.offsets)[rows])
        for number, row in enumerate(rows):
            timeline = part.timeline(number)
            begin, end = batch.offsets[row], batch.offsets[row + 1]
            assert timeline.subject_id == batch.subject_id[row]
            assert timeline.origin_us == batch.origin_us[row]
            for column in ("token_id", "time_min", "event_min", "n_prior"):
                expected = getattr(batch, column)[begin:end]
                assert np.array_equal(getattr(timeline, column), expected)
                assert getattr(timeline, column).dtype == expected.dtype
            assert timeline.obs_end_min.tolist() == [4000, 2**30]


def test_shards_hold_at_most_the_stated_tokens(store: Path) -> None:
    shards = TokenStore.open(store).manifest["splits"]["train"]["shards"]
    assert len(shards) > 2
    assert all(0 < shard["n_tokens"] <= 200 for shard in shards)


def test_timelines_are_views_of_the_mapped_file(store: Path) -> None:
    part = TokenStore.open(store).split("train")
    timeline = part.timeline(3)
    assert not timeline.token_id.flags.writeable
    assert np.shares_memory(timeline.token_id, part.shards[0].token_id)
    assert not timeline.token_id.flags.owndata


def test_subjects_are_found_by_id(store: Path) -> None:
    part = TokenStore.open(store).split("train")
    assert [part.index_of(int(s)) for s in part.subject_id] == list(range(len(part)))
    assert part.find(np.array([1, 10**12, -(10**12)])).tolist() == [-1, -1, -1]
    with pytest.raises(KeyError, match="not in split"):
        part.index_of(1)


def longest_runs(sizes: list[int], limit: int) -> list[list[int]]:
    """Numbers 0..n-1 in runs as long as the sum of their sizes allows; what is larger is alone."""
    runs: list[list[int]] = []
    left = -1
    for number, size in enumerate(sizes):
        if size > left:
            runs.append([])
            left = limit
        runs[-1].append(number)
        left -= size
    return runs


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    max_tokens=st.integers(60, 300),
    batch_tokens=st.integers(1, 400),
)
def test_bytes_depend_on_order_and_lengths_and_each_run_is_the_longest_that_fits(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    cuts: list[int],
    max_tokens: int,
    batch_tokens: int,
) -> None:
    folder, n = tmp_path_factory.mktemp("stores"), len(lengths)
    subjects, sizes = np.arange(n, dtype=np.int64), np.array(lengths)
    split = (subjects % 3).astype(np.uint8)
    tokens = {"max_tokens": max_tokens, "batch_tokens": batch_tokens}
    whole = write(folder / "a", [(make_batch(subjects, sizes), split)], **tokens)
    edges = sorted({0, n, *(cut for cut in cuts if cut < n)})
    parts = [
        (make_batch(subjects[a:b], sizes[a:b]), split[a:b]) for a, b in itertools.pairwise(edges)
    ]
    assert content(whole) == content(write(folder / "b", parts, **tokens))

    store = TokenStore.open(whole, verify="full")
    for index, name in enumerate(("train", "tuning", "held_out")):
        of_split = sizes[split == index]
        rows = longest_runs(of_split.tolist(), min(batch_tokens, max_tokens))
        batches = longest_runs([int(of_split[run].sum()) for run in rows], max_tokens)
        expected = [
            (number, subjects[split == index][rows[i]].tolist())
            for number, of_file in enumerate(batches)
            for i in of_file
        ]
        shards = store.split(name).shards
        assert [(int(s.path.stem), s.subject_id.tolist()) for s in shards] == expected


def test_a_timeline_longer_than_a_record_batch_has_one_of_its_own(tmp_path: Path) -> None:
    lengths = np.array([3, 0, 90, 0, 4, 5])
    batch = make_batch(np.arange(6), lengths)
    tokens = {"max_tokens": 100, "batch_tokens": 8}
    store = TokenStore.open(write(tmp_path / "s", [(batch, np.zeros(6, np.uint8))], **tokens))
    part = store.split("train")
    assert [(s.path.stem, s.file_row, s.subject_id.tolist()) for s in part.shards] == [
        ("0", 0, [0, 1]),
        ("0", 2, [2]),
        ("0", 3, [3, 4]),
        ("1", 0, [5]),
    ]
    assert part.lengths.tolist() == lengths.tolist()
    assert np.array_equal(part.timeline(2).token_id, batch.token_id[3:93])


def test_an_empty_split_has_no_shards_and_an_empty_store_opens(tmp_path: Path) -> None:
    store = TokenStore.open(write(tmp_path / "s", []), verify="full")
    assert len(store.split("train")) == 0
    assert store.split("train").n_tokens == 0
    assert store.split("train").find(np.array([3])).tolist() == [-1]


def test_subjects_out_of_order_are_refused(tmp_path: Path) -> None:
    batch = make_batch(np.array([5, 4]), np.array([3, 3]))
    with pytest.raises(DataError, match="ascending"):
        write(tmp_path / "s", [(batch, np.zeros(2, np.uint8))])
    batch = make_batch(np.array([4]), np.array([3]))
    with pytest.raises(DataError, match="ascending"):
        write(tmp_path / "t", [(batch, np.zeros(1, np.uint8))] * 2)
    assert not (tmp_path / "s" / "store.json").exists()


def test_a_timeline_larger_than_a_shard_is_refused(tmp_path: Path) -> None:
    batch = make_batch(np.array([1]), np.array([30]))
    with pytest.raises(LimitError, match="30 tokens"):
        write(tmp_path / "s", [(batch, np.zeros(1, np.uint8))], max_tokens=20)


def test_a_split_index_out_of_range_is_refused(tmp_path: Path) -> None:
    batch = make_batch(np.array([1]), np.array([3]))
    with pytest.raises(ValueError, match=r"0\.\.2"):
        write(tmp_path / "s", [(batch, np.full(1, 3, np.uint8))])


def test_a_flipped_bit_anywhere_in_a_shard_is_a_format_error(store: Path) -> None:
    path = store / "tuning" / "0.arrow"
    original = path.read_bytes()
    for position in range(0, len(original), 97):
        broken = bytearray(original)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        with pytest.raises(FormatError, match=r"0\.arrow does not match its SHA-256"):
            TokenStore.open(store, verify="full")


def test_a_flipped_bit_that_only_sizes_were_checked_for_cannot_crash(store: Path) -> None:
    # In a process of its own: a read outside the map would kill it.
    code = """
import sys
from pathlib import Path
from chronoward.errors import FormatError
from chronoward.store import TokenStore
store = Path(sys.argv[1])
path = store / "tuning" / "0.arrow"
original = path.read_bytes()
for position in range(0, len(original), 13):
    broken = bytearray(original)
    broken[position] ^= 1 << position % 8
    path.write_bytes(broken)
    try:
        part = TokenStore.open(store).split("tuning")
        total = sum(int(part.timeline(i).token_id.sum()) for i in range(len(part)))
    except FormatError:
        pass
"""
    subprocess.run([sys.executable, "-c", code, str(store)], check=True)


def test_a_truncated_shard_is_a_format_error_before_it_is_mapped(store: Path) -> None:
    path = store / "train" / "0.arrow"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FormatError, match=r"bytes, store\.json states"):
        TokenStore.open(store)


def test_a_missing_shard_is_an_os_error_with_its_path(store: Path) -> None:
    (store / "train" / "0.arrow").unlink()
    with pytest.raises(FileNotFoundError, match=r"train/0\.arrow"):
        TokenStore.open(store)


def test_a_shard_of_another_store_is_a_format_error(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    writer = open_writer(other, tokenizer="by hanD", max_tokens=200, batch_tokens=80)
    subjects = np.arange(-20, 20, dtype=np.int64) * 7
    split = (np.arange(40) % 10 // 8 + np.arange(40) % 10 // 9).astype(np.uint8)
    writer.add(make_batch(subjects, np.arange(40, dtype=np.int64) + 3), split)
    writer.finish(**RULES)
    (store / "train" / "0.arrow").write_bytes((other / "train" / "0.arrow").read_bytes())
    with pytest.raises(FormatError, match="another schema, format version or tokenizer"):
        TokenStore.open(store).split("train")


def test_the_tokenizer_of_another_store_is_a_format_error(store: Path) -> None:
    (store / "tokenizer.json").write_bytes(b'{"made": "elsewhere"}\n')
    with pytest.raises(FormatError, match="not the tokenizer that encoded this store"):
        TokenStore.open(store)


def rewrite(store: Path, *, honest: bool = True, **changes: object) -> None:
    """Changes the manifest; where it is honest about it, its checksum too."""
    manifest = json.loads((store / "store.json").read_text()) | changes
    if honest:
        manifest["checksum"] = checksum(manifest)
    files.write_json(store / "store.json", manifest)


def test_another_format_version_is_a_format_error(store: Path) -> None:
    rewrite(store, version=9)
    with pytest.raises(FormatError, match="format version 9"):
        TokenStore.open(store)


def test_an_edited_manifest_is_a_format_error(store: Path) -> None:
    rewrite(store, honest=False, calendar="shifted")
    with pytest.raises(FormatError, match="checksum"):
        TokenStore.open(store)


def test_a_manifest_that_points_outside_is_a_format_error(store: Path) -> None:
    manifest = json.loads((store / "store.json").read_text())
    manifest["splits"]["train"]["shards"][0]["file"] = "../../etc/0.arrow"
    rewrite(store, splits=manifest["splits"])
    with pytest.raises(FormatError, match="outside the store's layout"):
        TokenStore.open(store)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "something else"}'])
def test_a_file_that_is_no_manifest_is_a_format_error(store: Path, text: str) -> None:
    (store / "store.json").write_text(text)
    with pytest.raises(FormatError, match=r"store\.json"):
        TokenStore.open(store)


def test_a_folder_without_manifest_is_a_format_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"has no store\.json"):
        TokenStore.open(tmp_path)
    with pytest.raises(FileNotFoundError):
        TokenStore.open(tmp_path / "absent")


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files end at 4 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("batch_tokens", [1 << 20, 100], ids=["at the end", "inside a shard"])
def test_a_full_disk_is_an_os_error_and_leaves_nothing_half_written(
    tmp_path: Path, batch: Batch, split: np.ndarray, batch_tokens: int
) -> None:
    out = tmp_path / "s"
    writer = open_writer(out, batch_tokens=batch_tokens)
    with pytest.raises(OSError, match=r"train/0\.arrow"):
        fill(writer, [(batch, split)])
    assert sorted(content(out)) == ["tokenizer.json"]


def halfway(out: Path, batch: Batch) -> StoreWriter:
    """A writer that has finished a shard of each split and has others open."""
    writer = open_writer(out, max_tokens=200, batch_tokens=50)
    for index in range(3):
        writer.add(batch, np.full(len(batch.subject_id), index, np.uint8))
    names = [path.name for path in (out / "tuning").iterdir()]
    assert sum(name.endswith(".tmp") for name in names) == 1
    assert "0.arrow" in names
    return writer


def leave_the_block(writer: StoreWriter, batch: Batch) -> None:
    with writer:
        pass


def add_out_of_order(writer: StoreWriter, batch: Batch) -> None:
    with pytest.raises(DataError, match="ascending"):
        writer.add(batch, np.zeros(len(batch.subject_id), np.uint8))


def interrupt(writer: StoreWriter, batch: Batch) -> None:
    later = make_batch(batch.subject_id + 10_000, np.diff(batch.offsets))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files.os, "fsync", raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            writer.add(later, np.zeros(len(later.subject_id), np.uint8))


def raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [leave_the_block, add_out_of_order, interrupt])
def test_what_stops_a_writer_leaves_whole_shards_only_and_never_a_store(
    tmp_path: Path, batch: Batch, stop: Callable[[StoreWriter, Batch], None]
) -> None:
    writer = halfway(tmp_path / "s", batch)
    stop(writer, batch)
    assert all(path.endswith(("tokenizer.json", ".arrow")) for path in content(tmp_path / "s"))
    with pytest.raises(StateError, match="timelines were lost"):
        writer.finish(**RULES)
    assert not (tmp_path / "s" / "store.json").exists()


def test_a_writer_that_is_dropped_removes_its_temporary_files(
    tmp_path: Path, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: time.sleep(0.05))  # shards are being finished
    halfway(tmp_path / "s", batch)
    gc.collect()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_process_that_ends_by_an_exception_leaves_no_temporary_files(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import numpy as np
from tests.store.test_store import halfway, make_batch
writer = halfway(Path(sys.argv[1]), make_batch(np.arange(40), np.arange(40) + 3))
raise KeyError("unforeseen")
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True
    )
    assert "KeyError: 'unforeseen'" in ended.stderr
    assert len(ended.stderr.split("Traceback")) == 2
    assert (tmp_path / "s" / "train" / "0.arrow").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def rebatch(
    store: Path, change: Callable[[list[pa.RecordBatch]], Sequence[pa.RecordBatch]]
) -> None:
    """Changes the record batches of train/0.arrow; the manifest is made to fit its bytes."""
    path = store / "train" / "0.arrow"
    reader = pa.ipc.open_file(path.read_bytes())
    batches = change([reader.get_batch(i) for i in range(reader.num_record_batches)])
    with pa.ipc.new_file(path, reader.schema) as sink:
        for batch in batches:
            sink.write_batch(batch)
    splits = json.loads((store / "store.json").read_text())["splits"]
    changed = {"n_bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
    splits["train"]["shards"][0] |= changed
    rewrite(store, splits=splits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batches: [], "has no record batch"),
        (lambda batches: batches[1:], "does not hold the subjects and tokens"),
        (lambda batches: [batches[0].slice(0, 0), *batches, batches[0].slice(0, 0)], None),
    ],
    ids=["none", "one less", "empty ones beside them"],
)
def test_record_batches_are_counted(
    store: Path,
    change: Callable[[list[pa.RecordBatch]], list[pa.RecordBatch]],
    message: str | None,
) -> None:
    rebatch(store, change)
    with pytest.raises(FormatError, match=message) if message else nullcontext():
        assert len(TokenStore.open(store).split("train")) == 32


def test_reading_a_store_needs_neither_torch_nor_duckdb(store: Path) -> None:
    code = (
        "import sys; from chronoward.store import TokenStore;"
        "TokenStore.open(sys.argv[1]).split('train');"
        "assert not {'torch', 'duckdb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(store)], check=True)
