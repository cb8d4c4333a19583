"""One input in a process of its own: what came of it, and how much time and memory it took."""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chronoward.errors import (
    ConfigError,
    DataError,
    FormatError,
    LimitError,
    NumericError,
    StateError,
)

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

MAX_CPU_SECONDS = 20
MAX_SECONDS = 120.0
"""By the clock, for what waits: on a shared machine the other limit cannot be one of the clock."""
MAX_GROWTH_BYTES = 1 << 30
"""Memory beyond what the process had before it saw the input."""
OURS = (ConfigError, DataError, FormatError, LimitError, NumericError, StateError)


@dataclass(frozen=True)
class Outcome:
    """What an input led to; `fault` is empty when it is as it should be."""

    kind: str
    fault: str
    seconds: float
    growth_bytes: int


def run_input(target: Target, template: Path, content: bytes, scratch: Path) -> Outcome:
    """Reads a spoiled file in a forked child.

    Args:
        target: the reader.
        template: folder of the good source, whose one file is replaced.
        content: of that file.
        scratch: folder of the child's copy; removed.
    """
    shutil.copytree(template, scratch)
    name = (scratch / ".file").read_text()
    (scratch / name).write_bytes(content)
    receive, send = os.pipe()
    began, before = time.monotonic(), _resident()
    child = os.fork()
    if child == 0:
        os.close(receive)
        _in_child(target, scratch, send)
    os.close(send)
    try:
        said, is_late = _listen(receive)
        if is_late:
            os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
    finally:
        os.close(receive)
        shutil.rmtree(scratch, ignore_errors=True)
    seconds, growth = time.monotonic() - began, max(0, usage.ru_maxrss * 1024 - before)
    kind, _, fault = said.partition("\n")
    if is_late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        kind, fault = "hang", f"longer than {MAX_CPU_SECONDS} s of work or {MAX_SECONDS} s"
    elif status != 0:
        kind, fault = "crash", f"wait status {status}: {said[-4000:]}"
    elif growth > MAX_GROWTH_BYTES:
        kind, fault = "memory", f"{growth:,} bytes"
    return Outcome(kind, fault, seconds, growth)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _listen(descriptor: int) -> tuple[str, bool]:
    """What the child says until it ends, and whether it took too long."""
    deadline, parts = time.monotonic() + MAX_SECONDS, list[bytes]()
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([descriptor], [], [], left)
        if not ready:
            break
        part = os.read(descriptor, 1 << 16)
        if not part:
            return b"".join(parts).decode(errors="replace"), False
        parts.append(part)
    return b"".join(parts).decode(errors="replace"), True


def _in_child(target: Target, folder: Path, descriptor: int) -> None:
    """Reads and says what came of it: a kind, and after a line end what is at fault."""
    os.dup2(descriptor, 2)  # sanitizers speak there
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS + 5))
    try:
        target.read(folder)
        said = "read"
    except OURS as error:
        said = type(error).__name__
    except OSError as error:
        is_named = error.filename is not None or str(folder) in str(error)
        said = "OSError" if is_named else f"OSError\n{traceback.format_exc()}"
    except BaseException as error:
        said = f"{type(error).__name__}\n{traceback.format_exc()}"
    os.write(descriptor, said.encode()[-60_000:])
    sys.stderr.flush()
    os._exit(0)
