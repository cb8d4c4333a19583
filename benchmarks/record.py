"""One measurement, one JSON line: the number, the machine it is from, and how fast that machine is.

The machine's GEMM peaks are measured in the same process and stand in every line, so that a slower
hour can be told from slower code.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from operator import matmul
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("chronoward", "numpy", "pyarrow", "duckdb", "torch")
_GEMM_SECONDS = 0.3
_SLOW_GFLOPS = 5.0


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a benchmark found; `line` adds what is known about the machine."""

    id: str
    """Id of the measure in the design's table, such as D1."""
    metric: str
    """Which of the id's numbers this is."""
    value: float
    unit: str
    against: str | None = None
    """What it is compared with."""
    baseline: float | None = None
    """The other's number, in the same unit."""
    ratio: float | None = None
    """As the table defines it for this id (above 1 is better unless it says otherwise)."""
    seconds: float
    """Wall time of the measurement."""
    device: str | None = None
    """Where it ran; the CPU's name when not given."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further keys of the line: shapes, seeds, hashes."""


class Stopwatch:
    """Wall and CPU seconds of its `with` blocks, summed (CPU: all threads of this process)."""

    wall = 0.0
    cpu = 0.0

    def __enter__(self) -> Self:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._wall
        self.cpu += time.process_time() - self._cpu


def _best_rate(multiply: Callable[[], object], size: int) -> float:
    """GFLOP/s of a square multiplication, best of repeated runs."""
    best, spent = 0.0, 0.0
    multiply()
    while spent < _GEMM_SECONDS:
        with Stopwatch() as watch:
            multiply()
        spent += watch.wall
        best = max(best, 2 * size**3 / watch.wall / 1e9)
    return best


def _peak(make: Callable[[int], Any]) -> float:
    """GEMM peak; a machine that is slow at a small size (no such units) is not asked for more."""
    rate = 0.0
    for size in (128, 1024):
        matrix = make(size)
        rate = max(rate, _best_rate(partial(matmul, matrix, matrix), size))
        if rate < _SLOW_GFLOPS:
            break
    return round(rate, 1)


@cache
def gemm_peaks() -> dict[str, float | None]:
    """Measured GEMM peak of one core in GFLOP/s, fp32 and bf16 (None without torch)."""
    try:
        import torch
    except ImportError:
        return {"fp32": _peak(lambda n: np.ones((n, n), np.float32)), "bf16": None}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    peaks: dict[str, float | None] = {
        "fp32": _peak(lambda n: torch.ones(n, n, dtype=torch.float32)),
        "bf16": _peak(lambda n: torch.ones(n, n, dtype=torch.bfloat16)),
    }
    torch.set_num_threads(threads)
    return peaks


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


def _git(*arguments: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    return result.stdout.strip()


@cache
def commit() -> str:
    """Hash of the commit that is measured, with `-dirty` where tracked files differ from it; what
    CHRONOWARD_COMMIT says where a copy without its repository is measured."""
    head = _git("rev-parse", "HEAD")
    if not head:
        return os.environ.get("CHRONOWARD_COMMIT", "unknown")
    return head + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def line(measurement: Measurement) -> str:
    """The JSON line of a measurement.

    Raises:
        ValueError: the value is not finite.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    record = {
        "id": measurement.id,
        "metric": measurement.metric,
        "value": float(f"{measurement.value:.6g}"),
        "unit": measurement.unit,
        "against": measurement.against,
        "baseline": measurement.baseline,
        "ratio": measurement.ratio,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cores": cores,
        "device": measurement.device or _cpu_name(),
        "versions": _versions(),
        "seconds": round(measurement.seconds, 3),
        "gemm_peak_gflops": gemm_peaks(),
        **measurement.extra,
    }
    return json.dumps(record, allow_nan=False)
