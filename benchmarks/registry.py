"""Which module measures which id. A module defines `MEASURES`: id -> function.

A measure is called with `quick` (smaller inputs, seconds instead of minutes), checks that what it
is about to time is correct, raises if it is not, and then yields `Measurement`s, the one that the
design's table names last. Those that train for minutes also take `work_dir`, a folder where an
interrupted measurement goes on.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from benchmarks.peers import is_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.record import Measurement

    Measure = Callable[..., Iterator[Measurement]]

# id -> module; no id here needs a GPU
MODULES: dict[str, str] = {
    "D1": "benchmarks.data",
    "D2": "benchmarks.data",
    "D3": "benchmarks.meds_torch_data",
    "D4": "benchmarks.omop_data",
    "D5": "benchmarks.data",
    "D6": "benchmarks.packing",
    "D7": "benchmarks.meds_torch_data",
    "G1": "benchmarks.generation",
    "G2": "benchmarks.generation",
    "G3": "benchmarks.decoding",
    "G4": "benchmarks.batching",
    "G6": "benchmarks.decoding",
    "G7": "benchmarks.batching",
    "R4": "benchmarks.risk",
    "R5": "benchmarks.accuracy",
    "S4": "benchmarks.synthesis",
    "T1": "benchmarks.training",
    "T2": "benchmarks.training",
    "T5": "benchmarks.resume",
}
# parts of an id above, run only when named
PARTS: dict[str, str] = {
    **dict.fromkeys(
        ("R5.main", "R5.shuffled", "R5.censoring", "R5.rollouts"), "benchmarks.accuracy"
    ),
    **dict.fromkeys(("D1.real", "D2.real", "D2.yardstick", "D3.real"), "benchmarks.real_data"),
}
# take `work_dir`; left out of --quick unless named: even their small form takes minutes
LONG = frozenset({"R5", *(part for part in PARTS if part.startswith("R5"))})
# run another project in its own environment (see peers.py); without ids they run where it is ready
PEERS = {
    "D3": "meds_torch_data",
    "D7": "meds_torch_data",
    "G1": "generators",
    "G2": "generators",
    "T2": "transformers",
}


def unnamed(quick: bool) -> tuple[list[str], list[str]]:
    """What runs when nothing is named, and what does not for want of a peer's environment."""
    names = [n for n in MODULES if not (quick and n in LONG)]
    absent = [n for n in names if n in PEERS and not is_ready(PEERS[n])]
    return [n for n in names if n not in absent], absent


def measure(benchmark_id: str) -> Measure:
    """The function that measures an id.

    Raises:
        KeyError: no such id.
    """
    module = import_module((MODULES | PARTS)[benchmark_id])
    found: Measure = module.MEASURES[benchmark_id]
    return found
