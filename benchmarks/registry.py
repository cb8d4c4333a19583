"""Which module measures which id. A module defines `MEASURES`: id -> function.

A measure is called with `quick` (smaller inputs, seconds instead of minutes), checks that what it
is about to time is correct, raises if it is not, and then yields `Measurement`s, the one that the
design's table names last.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.record import Measurement

    Measure = Callable[[bool], Iterator[Measurement]]

# id -> module; no id here needs a GPU
MODULES: dict[str, str] = {
    "D1": "benchmarks.data",
    "D2": "benchmarks.data",
    "D6": "benchmarks.packing",
    "G1": "benchmarks.generation",
    "R4": "benchmarks.risk",
    "S4": "benchmarks.synthesis",
    "T1": "benchmarks.training",
}


def measure(benchmark_id: str) -> Measure:
    """The function that measures an id.

    Raises:
        KeyError: no such id.
    """
    found: Measure = import_module(MODULES[benchmark_id]).MEASURES[benchmark_id]
    return found
