"""The GPU itself: its name, its copy bandwidth and matmul rate, and times of captured graphs."""

from __future__ import annotations

import statistics
import sys
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from benchmarks.record import Measurement, Stopwatch, line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PEAK_TFLOPS = 989.0  # dense bf16 of a Hopper GPU as its maker states it; MFU is counted of this
_COPY_BYTES = 2**32
_MATMUL = 8192
_GROUPS, _REPLAYS = 7, 10


def _milliseconds(run: Callable[[], object], n: int) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(n):
        run()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) / n


def graph_ms(step: Callable[[], object]) -> float:
    """Milliseconds of a step replayed as a CUDA graph: median of groups of replays.

    Args:
        step: reads and writes tensors that stay where they are, and does not wait for the GPU.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    _milliseconds(graph.replay, 3)
    return statistics.median(_milliseconds(graph.replay, _REPLAYS) for _ in range(_GROUPS))


@cache
def rates() -> dict[str, float]:
    """Copy bandwidth in TB/s (read and written bytes) and bf16 matmul rate in TFLOP/s."""
    source = torch.zeros(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    copy = partial(torch.empty_like(source).copy_, source)
    copy_ms = min(_milliseconds(copy, 5) for _ in range(4))
    a, b = (torch.randn(_MATMUL, _MATMUL, device="cuda").bfloat16() for _ in range(2))
    multiply = partial(torch.mm, a, b, out=torch.empty_like(a))
    matmul_ms = min(_milliseconds(multiply, 10) for _ in range(4))
    del source, copy, a, b, multiply
    torch.cuda.empty_cache()
    return {
        "copy_tb_per_s": round(2 * _COPY_BYTES / copy_ms / 1e9, 3),
        "matmul_tflops": round(2 * _MATMUL**3 / matmul_ms / 1e9, 1),
    }


def about() -> dict[str, Any]:
    """What every line says of the GPU beside its name: rates measured in this process, versions."""
    found = {}
    for package in ("triton", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**rates(), "cuda": torch.version.cuda, "gpu_versions": found}


def measure() -> Iterator[Measurement]:
    """Copy bandwidth and matmul rate."""
    with Stopwatch() as watch:
        found = about()
    for metric, unit in (("copy_tb_per_s", "TB/s"), ("matmul_tflops", "TFLOP/s")):
        yield Measurement(
            id="gpu",
            metric=metric,
            value=found[metric],
            unit=unit,
            seconds=watch.wall,
            device=torch.cuda.get_device_name(),
            extra=found,
        )


def write(measurements: Iterator[Measurement]) -> None:
    """Prints each measurement as its JSON line at once, for the process that collects them."""
    for measurement in measurements:
        sys.stdout.write(line(measurement) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    write(measure())
