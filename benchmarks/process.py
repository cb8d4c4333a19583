"""Whole commands in processes of their own: what they took, their children included."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Usage:
    """What a process and its children took."""

    wall: float
    cpu: float
    anonymous_gib: float
    """The most that the process itself had of memory that no file stands behind, every 20 ms."""


def run(command: Sequence[str], **environ: str) -> Usage:
    """Runs a command to its end and says what it took.

    Args:
        command: program and arguments.
        environ: variables to set.

    Raises:
        RuntimeError: it failed; the message has its last lines.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environ},
    ) as process:
        peak_kib, is_over, said = 0, False, ""
        while not is_over:
            peak_kib = max(peak_kib, _anonymous_kib(process.pid))
            try:
                said, _ = process.communicate(timeout=_LOOK_SECONDS)
                is_over = True
            except subprocess.TimeoutExpired:
                continue
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        last = "\n".join(said.strip().splitlines()[-15:])
        message = f"{Path(command[0]).name} failed ({process.returncode}): {last}"
        raise RuntimeError(message)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Usage(wall, cpu, peak_kib / 2**20)


def chronoward(*arguments: str | Path) -> Usage:
    """Our command line."""
    return run([sys.executable, "-m", "chronoward", *map(str, arguments)])


def _anonymous_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it is over
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)
