"""Several engines side by side: processes with one thread each, results in the order of the work.

Processes are spawned, not forked (torch's threads do not survive a fork), so a script that asks for
more than one must keep its entry point behind `if __name__ == "__main__"`.
"""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from chronoward.engine.engine import Engine, EngineConfig
from chronoward.errors import StateError
from chronoward.model import load as load_model
from chronoward.model import read_config
from chronoward.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Unit = TypeVar("Unit")
Result = TypeVar("Result")

_DEFAULT_MAX_CONTEXT = 1024
_engine: Engine | None = None  # of a worker process, made once when it starts


def open_engine(run_dir: Path | str, config: EngineConfig) -> Engine:
    """The engine of a RUN folder.

    Raises:
        FormatError: not a finished run, or its files do not belong together.
    """
    folder = Path(run_dir)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    return Engine(load_model(folder, tokenizer_hash=tokenizer.hash), tokenizer.grammar(), config)


def run_context(run_dir: Path | str) -> int:
    """Longest context to give a run's model: what it was trained on, at most 1,024 tokens."""
    trained = read_config(Path(run_dir))["training"].get("row_tokens", _DEFAULT_MAX_CONTEXT)
    return min(int(trained), _DEFAULT_MAX_CONTEXT)


def _start(make_engine: Callable[[], Engine]) -> None:
    global _engine
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    torch.set_num_threads(1)
    _engine = make_engine()


def _call(function: Callable[[Engine, Any], Any], unit: Any) -> Any:
    assert _engine is not None
    return function(_engine, unit)


def map_units(
    make_engine: Callable[[], Engine],
    function: Callable[[Engine, Unit], Result],
    units: Iterable[Unit],
    *,
    n_workers: int = 1,
) -> Iterator[Result]:
    """function(engine, unit) for each unit, in order.

    Args:
        make_engine: makes an engine; with several workers it must be picklable.
        function: a module's function.
        units: what to do; with several workers picklable.
        n_workers: 1 works in this process.

    Raises:
        StateError: a worker process died (memory, a signal); what it was doing is lost, and no
            result after it is given.
    """
    if n_workers <= 1:
        engine = make_engine()
        for unit in units:
            yield function(engine, unit)
        return
    pool = ProcessPoolExecutor(
        n_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(make_engine,),
    )
    try:
        yield from pool.map(partial(_call, function), units)
    except BrokenProcessPool as error:
        message = "a worker process died (out of memory, or killed): the job is not complete"
        raise StateError(message) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
