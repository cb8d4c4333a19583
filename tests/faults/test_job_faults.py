"""Cases 58 to 75: kills, full disks, two jobs, other machines."""

from __future__ import annotations

import ast
import errno
import os
import signal
import time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.faults.sources import TIME_US, conditions, write_csv
from tests.store.timelines import make_batch, open_writer
from tests.synthesize.conftest import random_run  # noqa: F401  (a fixture)
from tests.tokenize.conftest import content, write_meds
from tests.tokenize.test_interruption import start

from chronoward.data import meds_mend, prepare
from chronoward.data.meds_rows import decoded
from chronoward.errors import FormatError, LimitError, StateError
from chronoward.store import StoreWriter, TokenStore
from chronoward.synthesize import SynthesisOptions, synthesize
from chronoward.synthesize import job as synthesis
from chronoward.tokenize import fit, merge, tokenize
from chronoward.tokenize.job import job
from chronoward.tokenizer import TokenizerSpec

if TYPE_CHECKING:
    from pathlib import Path

KILL = """
import os, signal
from pathlib import Path
left, replace = [{k}], Path.replace
def dying(self, target):
    left[0] -= 1
    if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = dying
"""
SLOW = """
import time
import chronoward.store.writer
chronoward.store.writer.StoreWriter.finish = lambda *a, **k: time.sleep(60)
"""


@pytest.fixture(scope="module")
def meds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_meds(tmp_path_factory.mktemp("source") / "meds")


@pytest.fixture(scope="module")
def whole(meds: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The bytes of an uninterrupted run."""
    return content(tokenize(meds, tmp_path_factory.mktemp("whole") / "tokens").path)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_case_58_killed_at_a_rename_the_job_resumes_to_the_same_bytes(
    meds: Path, whole: dict[str, str], tmp_path: Path, k: int
) -> None:
    process = start("tokenize", meds, "--out", tmp_path / "tokens", prelude=KILL.format(k=k))
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "tokens" / "store.json").exists()
    assert content(tokenize(meds, tmp_path / "tokens").path) == whole


def test_case_58_a_merge_that_is_killed_leaves_nothing_and_gives_the_same_bytes_again(
    meds: Path, tmp_path: Path
) -> None:
    spec = TokenizerSpec(preset="events")
    shards = [
        fit(meds, tmp_path / f"{i}.counts", spec=spec, shard_index=i, num_shards=2)
        for i in range(2)
    ]
    merge(shards, tmp_path / "expected.json")
    process = start(
        "merge", *shards, "--out", tmp_path / "tokenizer.json", prelude=KILL.format(k=0)
    )
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "tokenizer.json").exists()
    merge(shards, tmp_path / "tokenizer.json")
    names = ("expected.json", "tokenizer.json")
    assert len({(tmp_path / name).read_bytes() for name in names}) == 1


@pytest.mark.parametrize(
    ("signals", "code"), [([signal.SIGTERM], 143), ([signal.SIGINT, signal.SIGINT], 130)]
)
def test_case_59_signals_stop_a_job_cleanly_and_it_can_be_resumed(
    meds: Path, whole: dict[str, str], tmp_path: Path, signals: list[int], code: int
) -> None:
    out = tmp_path / "tokens"
    process = start("tokenize", meds, "--out", out, prelude=SLOW)
    while not (out / ".job" / "job.json").exists():
        time.sleep(0.02)
        assert process.poll() is None
    for number in signals:
        process.send_signal(number)
    process.communicate()
    assert process.returncode in (code, -signals[-1])  # the second one may come while it leaves
    assert not (out / "store.json").exists()
    assert content(tokenize(meds, out).path) == whole


def test_case_60_a_full_disk_at_each_write_is_an_os_error_and_the_job_resumes(
    meds: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls, fatal = os.fsync, [0], [0]

    def full(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == fatal[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    n_failed = 0
    for k in range(1, 200, 5):
        out, calls[0], fatal[0] = tmp_path / str(k), 0, k
        try:
            tokenize(meds, out)
        except OSError as error:
            n_failed += 1
            found = (error.errno, str(error.filename).startswith(str(tmp_path)))
            assert found == (errno.ENOSPC, True)
        else:
            break
        assert not list(out.rglob(".*.tmp"))
        fatal[0] = 0
        if k % 3 == 1:
            assert content(tokenize(meds, out).path) == whole
    assert n_failed >= 3


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EACCES, errno.ENFILE])
def test_case_61_what_the_system_refuses_is_an_os_error_with_its_path(
    meds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=str(tmp_path)) as raised:
        tokenize(meds, tmp_path / "tokens")
    assert raised.value.errno == number


def test_case_62_mapped_files_have_their_blocks_before_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped = meds_mend._mapped(tmp_path / "map", np.uint32, 300_000)
    stat = (tmp_path / "map").stat()
    assert stat.st_blocks * 512 >= stat.st_size == 1_200_000
    assert not mapped.any()

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="other") as raised:
        meds_mend._mapped(tmp_path / "other", np.uint8, 10)
    assert raised.value.errno == errno.ENOSPC


def test_case_63_a_file_that_is_truncated_while_it_is_read_is_an_error_and_no_signal(
    tmp_path: Path,
) -> None:
    n = 400_000
    ids = np.random.default_rng(0).integers(0, 2**60, n)
    table = pa.table({"subject_id": ids, "time": pa.array(ids % 2**50).cast(TIME_US)})
    table = table.append_column("code", pa.array(["A"] * n))
    path = tmp_path / "0.parquet"
    pq.write_table(table, path, row_group_size=n // 8, use_dictionary=False)
    names = {name: name for name in table.column_names}
    pieces = decoded(path, names, 1000)
    first = len(next(pieces))
    os.truncate(path, 20)
    try:
        found = first + sum(len(piece) for piece in pieces)
    except FormatError:
        found = None
    assert found in (None, n)  # Arrow may have read all of it before
    writer = open_writer(tmp_path / "store")
    writer.add(make_batch(np.arange(50), np.full(50, 90)), np.zeros(50, np.uint8))
    writer.finish(calendar="real", observation="x", split_rule="hash", counts={})
    store = TokenStore.open(tmp_path / "store")
    os.truncate(tmp_path / "store" / "train" / "0.arrow", 5000)
    with pytest.raises(FormatError, match=r"train/0\.arrow"):
        store.split("train")


def test_case_64_a_memory_limit_that_is_too_small_is_a_limit_error(tmp_path: Path) -> None:
    rows = [f"0,2020-01-{i % 28 + 1:02},{'x' * 50}{i}" for i in range(20_000)]
    source = write_csv(tmp_path / "omop", condition_occurrence=conditions(*rows))
    with pytest.raises(LimitError, match="memory limit"):
        prepare(source, tmp_path / "work", memory_limit="2MB")
    assert not list((tmp_path / "work").rglob("*.parquet"))


def test_case_67_a_second_job_on_a_folder_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with job(tmp_path / "out", {"a": 1}) as work:
        (work / "mine").write_text("x")
        for description in ({"a": 1}, {"a": 2}):
            with (
                pytest.raises(StateError, match=r"another process|another source"),
                job(tmp_path / "out", description),
            ):
                pass
        assert (work / "mine").read_text() == "x"


def _interrupted(meds: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tokenize(meds, out)


def test_case_68_a_job_does_not_resume_with_other_options_or_another_source(
    meds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "tokens"
    _interrupted(meds, out, monkeypatch)
    with pytest.raises(StateError, match="another source or other options"):
        tokenize(meds, out, split="temporal")
    other = write_meds(tmp_path / "meds", key=5)
    with pytest.raises(StateError, match="another source or other options"):
        tokenize(other, out)


def test_case_69_only_units_that_are_gone_are_drawn_again(
    random_run: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = SynthesisOptions(unit_subjects=2, max_tokens=64)
    expected = tmp_path / "expected"
    synthesize(random_run, 6, expected, options=options)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(synthesis, "write_omop", interrupt)
        with pytest.raises(KeyboardInterrupt):
            synthesize(random_run, 6, out, options=options)
    units = sorted(path for path in out.rglob("*") if path.name.endswith("0000001"))
    assert len(units) == 1
    for path in sorted(units[0].iterdir()):
        path.unlink()
    units[0].rmdir()
    drawn: list[int] = []
    write = synthesis._Worker.write
    monkeypatch.setattr(
        synthesis._Worker, "write", lambda self, unit: (drawn.append(unit), write(self, unit))
    )
    synthesize(random_run, 6, out, options=options)
    assert drawn == [1]
    assert content(out) == content(expected)


@pytest.mark.parametrize("year", [1975, 2037])
def test_case_70_clocks_and_times_of_files_have_no_effect(
    meds: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, year: int
) -> None:
    out = tmp_path / "tokens"
    _interrupted(meds, out, monkeypatch)
    seconds = (year - 1970) * 31_557_600
    for path in [*out.rglob("*"), *meds.rglob("*")]:
        os.utime(path, (seconds, seconds))
    assert content(tokenize(meds, out).path) == whole


def test_case_71_threads_and_memory_do_not_change_bytes(
    meds: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    store = tokenize(meds, tmp_path / "tokens", threads=3, memory_limit="512MB")
    assert content(store.path) == whole


def test_case_73_processes_are_spawned_never_forked(repository: Path) -> None:
    found = 0
    for path in (repository / "python").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            assert name not in ("os.fork", "multiprocessing.Pool", "multiprocessing.Process"), path
            if name.endswith("ProcessPoolExecutor"):
                context = {k.arg: ast.unparse(k.value) for k in node.keywords}["mp_context"]
                assert context == "multiprocessing.get_context('spawn')", path
                found += 1
    assert found >= 2


def test_case_75_locale_zone_hash_seed_and_threads_of_the_process_do_not_change_bytes(
    meds: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    odd = {"TZ": "Pacific/Chatham", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "77"}
    environment = os.environ | odd | {"OMP_NUM_THREADS": "3", "LANG": "C"}
    process = start("tokenize", meds, "--out", tmp_path / "tokens", env=environment)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert content(tmp_path / "tokens") == whole
