"""An output folder in the making: whose it is, what it is for, and that only one process writes it.

`OUT/.job/job.json` says what is being done and exists until the result is complete. A killed job
leaves it behind; the same command finds it and goes on, another one is refused. The lock is the
kernel's (flock), so a dead process holds none.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronoward import files
from chronoward.data.origin import as_source
from chronoward.errors import ConfigError, DataError, FormatError, LimitError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from chronoward.data.origin import SourceLike

JOB = ".job"
_DESCRIPTION = "job.json"
_LOCK = "lock"
_HEAD = 1 << 16


def fingerprint(given: SourceLike) -> str:
    """What a job remembers of its source: names, sizes, first and last 64 KiB of its files.

    Times do not count, so a copy is the same source. A database is its address without password,
    tables in memory are their content.

    Raises:
        FileNotFoundError: there is no such source.
    """
    source = as_source(given)
    if not isinstance(source, Path):
        return source.key
    root = source.resolve()
    if not root.exists():
        raise FileNotFoundError(2, "no such source", str(source))
    paths = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
        with path.open("rb") as handle:
            digest.update(handle.read(_HEAD))
            handle.seek(max(0, size - _HEAD))
            digest.update(handle.read(_HEAD))
    return digest.hexdigest()


def _is_blank(out: Path) -> bool:
    """Nothing there, or only what a job leaves that was killed while it claimed the folder."""
    return all(
        path.name.endswith(files.TEMPORARY_SUFFIX)
        or (path.name == JOB and not (path / _DESCRIPTION).is_file())
        for path in out.iterdir()
    )


def _claim(out: Path, description: Mapping[str, Any]) -> bool:
    """Makes `out` this job's; True when it already was."""
    work = out / JOB
    if out.is_symlink():
        message = f"{out} is a symbolic link; refusing to write through it"
        raise StateError(message)
    if out.is_dir() and (work / _DESCRIPTION).is_file():
        if files.read_json(work / _DESCRIPTION) != description:
            message = (
                f"{out} holds an unfinished job with another source or other options; finish that "
                "one with its own command, or remove the folder"
            )
            raise StateError(message)
        return True
    if not (out.is_dir() and _is_blank(out)):
        files.make_output_folder(out)  # raises where the folder is somebody else's
    work.mkdir(mode=0o700, exist_ok=True)
    return False


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    """Holds the lock of a job's folder.

    Raises:
        StateError: another process has it.
    """
    with (out / JOB / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{out} is being written by another process"
            raise StateError(message) from None
        yield


@contextmanager
def job(out: Path, description: Mapping[str, Any]) -> Iterator[Path]:
    """Yields the job's private folder inside `out`; it is gone once the block ends well.

    Args:
        out: folder of the result; new, empty, or left unfinished by the same job.
        description: what is being done, as JSON values; equal ones may resume each other.

    Raises:
        StateError: the folder holds something else, or another process writes it now.
        ConfigError, DataError, FormatError, LimitError: from the block; a folder in which nothing
            was finished is then removed again.
    """
    is_resumed = _claim(out, description)
    work = out / JOB
    with _only_writer(out):
        if is_resumed:
            files.remove_temporary_files(out)
        else:
            files.write_json(work / _DESCRIPTION, dict(description))
        try:
            yield work
        except (ConfigError, DataError, FormatError, LimitError):
            # the same command would fail again: do not stand in the way of a better one
            if all(path == work for path in out.iterdir()):
                shutil.rmtree(out)
            raise
        _finish(work)


@contextmanager
def job_on(store: Path, description: Mapping[str, Any]) -> Iterator[Path]:
    """As `job`, for work on a folder that is complete and stays so until the work's last step.

    What another such job left unfinished is thrown away: it has changed nothing.

    Args:
        store: the complete folder.
        description: what is being done, its verb among it.

    Raises:
        StateError: another verb's job in that folder is not finished, or another process writes it.
    """
    work = store / JOB
    left = work / _DESCRIPTION
    if left.is_file() and files.read_json(left)["verb"] != description["verb"]:
        message = f"{store} holds an unfinished job; finish it with its own command first"
        raise StateError(message)
    work.mkdir(mode=0o700, exist_ok=True)
    with _only_writer(store):
        if not left.is_file() or files.read_json(left) != description:
            _clear(work)
            files.write_json(left, dict(description))
        files.remove_temporary_files(store)
        try:
            yield work
        except (ConfigError, DataError, FormatError, LimitError):
            _finish(work)  # the same command would fail again
            raise
        _finish(work)


def _clear(work: Path) -> None:
    """Empties a job's folder but for its description and lock."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (_DESCRIPTION, _LOCK):
            path.unlink()


def _finish(work: Path) -> None:
    """Removes the job's folder, its description last but one, so that a kill can be resumed."""
    _clear(work)
    (work / _LOCK).unlink()
    (work / _DESCRIPTION).unlink()
    work.rmdir()


def scratch_folder(out: Path, temp_dir: Path | None) -> Path:
    """Where a job keeps large intermediate files: found again by the same command.

    Args:
        out: the job's output folder.
        temp_dir: the user's choice; inside the job's own folder when not given.
    """
    if temp_dir is None:
        return out / JOB / "scratch"
    name = hashlib.sha256(os.fsencode(out.resolve())).hexdigest()[:16]
    return temp_dir / f"chronoward-{name}"
