"""kill -9, Ctrl-C, a full disk, two processes: nothing half-written, and the same bytes after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.tokenize.conftest import content

from chronoward.errors import StateError
from chronoward.philox import uniforms
from chronoward.tokenize import tokenize
from chronoward.tokenize.job import job

if TYPE_CHECKING:
    from pathlib import Path


# Ctrl-C reaches it as in a terminal, even where the tests run in the background, deaf to it.
MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from chronoward.cli import main
main(sys.argv[1:])
"""


def start(*arguments: str | Path, prelude: str = "", **options: Any) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-c", f"{prelude}\n{MAIN}", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.fixture(scope="module")
def whole(meds: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """The bytes of an uninterrupted run and the seconds it takes."""
    out = tmp_path_factory.mktemp("whole") / "tokens"
    began = time.monotonic()
    process = start("tokenize", meds, "--out", out)
    process.communicate()
    assert process.returncode == 0
    return content(out), time.monotonic() - began


@pytest.mark.parametrize("n_kills", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_run_again_the_bytes_are_the_same(
    meds: Path, whole: tuple[dict[str, str], float], tmp_path: Path, n_kills: int
) -> None:
    expected, seconds = whole
    out = tmp_path / "tokens"
    for u in uniforms(time.time_ns(), n_kills):  # a new moment in every run of the test
        process = start("tokenize", meds, "--out", out)
        time.sleep(seconds * (0.3 + 0.7 * u))  # the first third is the interpreter's start
        process.kill()
        process.communicate()
        if (out / "store.json").exists() and not (out / ".job").exists():
            break  # it had finished
    else:
        process = start("tokenize", meds, "--out", out)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert content(out) == expected
    assert not list(out.rglob(".*"))


STAGES = {
    "tokenizer.json": "chronoward.store.writer.StoreWriter.__init__",
    "open shard": "chronoward.store.writer.ShardWriter.finish",
    "first shard": "chronoward.store.writer.StoreWriter.finish",
    "report": "chronoward.store.writer.checksum",
    "manifest": "chronoward.tokenize.job._finish",
}


@pytest.mark.parametrize("stage", STAGES)
def test_killed_after_each_stage_it_goes_on_from_there(
    meds: Path, whole: tuple[dict[str, str], float], tmp_path: Path, stage: str
) -> None:
    module, _, name = STAGES[stage].rpartition(".")
    out = tmp_path / "tokens"
    prelude = f"""
import os, signal
import chronoward.store.writer, chronoward.tokenize.job
{module}.{name} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
"""
    process = start("tokenize", meds, "--out", out, prelude=prelude)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (stage == "open shard") == any((out / "train").glob(".0.arrow.*"))
    if stage == "tokenizer.json":
        (out / ".tokenizer.json.1.tmp").write_text("left by a writer that was killed")
    again = tokenize(meds, out)
    assert content(again.path) == whole[0]
    assert not list(out.rglob(".*"))


def test_control_c_exits_130_and_can_be_resumed(
    meds: Path, whole: tuple[dict[str, str], float], tmp_path: Path
) -> None:
    out = tmp_path / "tokens"
    prelude = """
import time
import chronoward.store.writer
chronoward.store.writer.StoreWriter.finish = lambda *a, **k: time.sleep(60)
"""  # on a busy machine the signal may come late: there is something left to interrupt
    process = start("tokenize", meds, "--out", out, prelude=prelude)
    while not (out / ".job" / "job.json").exists():
        time.sleep(0.02)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert not (out / "store.json").exists()
    assert content(tokenize(meds, out).path) == whole[0]


@pytest.mark.parametrize("limit", [1 << 12, 1 << 16])
def test_a_full_disk_is_an_os_error_with_exit_code_1_and_nothing_half_written(
    meds: Path, whole: tuple[dict[str, str], float], tmp_path: Path, limit: int
) -> None:
    prelude = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
"""
    out = tmp_path / "tokens"
    process = start("tokenize", meds, "--out", out, prelude=prelude)
    _, errors = process.communicate()
    assert process.returncode == 1, errors
    assert "error:" in errors
    assert "Traceback" not in errors
    assert not (out / "store.json").exists()
    for path in out.rglob("*.arrow"):  # whatever is there is whole
        assert content(path.parent)[path.name] == whole[0][str(path.relative_to(out))]
    assert content(tokenize(meds, out).path) == whole[0]


def test_an_unfinished_folder_of_another_job_is_refused(meds: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    with pytest.raises(KeyboardInterrupt), job(out, {"verb": "tokenize"}):
        raise KeyboardInterrupt
    with pytest.raises(StateError, match="unfinished job with another source or other options"):
        tokenize(meds, out)


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    with (
        job(tmp_path / "out", {"a": 1}),
        pytest.raises(StateError, match="being written by another process"),
        job(tmp_path / "out", {"a": 1}),
    ):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_a_job_that_was_killed_while_it_claimed_its_folder_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "out" / ".job").mkdir(parents=True)
    (tmp_path / "out" / ".job" / ".job.json.7.tmp").write_text("{")
    with job(tmp_path / "out", {"a": 1}) as work:
        assert work.is_dir()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_link_as_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "target")
    with pytest.raises(StateError, match="symbolic link"), job(tmp_path / "out", {}):
        pass
