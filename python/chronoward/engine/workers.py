"""Several engines side by side: processes with one thread each, results in the order of the work.

Processes are spawned, not forked (torch's threads do not survive a fork), so a script that asks for
more than one must keep its entry point behind `if __name__ == "__main__"`.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from chronoward.engine.engine import GPU_SLOTS, Engine, EngineConfig
from chronoward.engine.statistics import NAMES, EngineStatistics, Tally, numbers_of
from chronoward.errors import StateError
from chronoward.model import load as load_model
from chronoward.model import read_config
from chronoward.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.sharedctypes import Synchronized

    from chronoward.model import Model

    Numbers = Synchronized[int]
    Watch = Callable[[EngineStatistics], None]

Unit = TypeVar("Unit")
Result = TypeVar("Result")

_DEFAULT_MAX_CONTEXT = 1024
_GPU_ROLLOUTS = 64 * GPU_SLOTS  # of a unit of work
LOOK_EVERY_S = 0.5  # at what the workers have done
_engine: Engine | None = None  # of a worker process, made once when it starts
_number = 0  # of a worker process among those of its job


def place(model: Model, device: str) -> Model:
    """The model on its device; of several GPUs each worker process has another."""
    return model if device == "cpu" else model.to(f"{device}:{_number % torch.cuda.device_count()}")


def n_processes(wanted: int, device: str) -> int:
    """Worker processes of a job: one a GPU where it runs on GPUs."""
    return wanted if device == "cpu" else min(wanted, torch.cuda.device_count())


def unit_rows(rows: int, rollouts_a_row: int, device: str) -> int:
    """Rows of a unit of work: on a GPU at least as many as give it rollouts for a while, since the
    last ones of a unit run beside empty slots."""
    return rows if device == "cpu" else max(rows, -(-_GPU_ROLLOUTS // rollouts_a_row))


def open_engine(
    run_dir: Path | str,
    config: EngineConfig,
    device: str = "cpu",
    *,
    tokenizer: Tokenizer | None = None,
) -> Engine:
    """The engine of a RUN folder.

    Args:
        run_dir: RUN folder.
        config: slots, context and numbers.
        device: cpu or cuda.
        tokenizer: the run's, where it was loaded before.

    Raises:
        FormatError: not a finished run, or its files do not belong together.
    """
    folder = Path(run_dir)
    if tokenizer is None:
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
    model = load_model(folder, tokenizer_hash=tokenizer.hash)
    return Engine(place(model, device), tokenizer.grammar(), config)


def run_context(run_dir: Path | str) -> int:
    """Longest context to give a run's model: what it was trained on, at most 1,024 tokens."""
    trained = read_config(Path(run_dir))["training"].get("row_tokens", _DEFAULT_MAX_CONTEXT)
    return min(int(trained), _DEFAULT_MAX_CONTEXT)


class Board:
    """Counts of several worker processes' engines in memory that they share with their parent.

    Args:
        n_workers: processes; each has a row.
    """

    def __init__(self, n_workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._n_workers = n_workers
        self._taken = context.Value("q", 0)
        self._cells = context.Array("q", n_workers * len(NAMES))

    def follow(self, engine: Engine) -> None:
        """In a worker: takes a row and keeps an engine's counts in it."""
        with self._taken:
            row = self._taken.value
            self._taken.value += 1
        width = len(NAMES)
        tally = Tally(engine.n_slots)

        def write(statistics: EngineStatistics) -> None:
            total = tally.see(statistics)
            with self._cells:
                self._cells[row * width : (row + 1) * width] = numbers_of(total)

        engine.watch = write

    def total(self) -> EngineStatistics:
        """Counts of all workers together; `n_slots` and `peak_cache_bytes` are those of one."""
        width = len(NAMES)
        with self._cells:
            cells: list[int] = self._cells[:]
        total = EngineStatistics(max(cells[::width], default=0))
        for row in range(self._n_workers):
            total = total.plus(EngineStatistics(*cells[row * width : (row + 1) * width]))
        return total


def begin_worker(numbers: Numbers) -> None:
    """What a worker process does first: it takes a number, leaves Ctrl-C to its parent, which ends
    its workers itself, and computes on one thread."""
    global _number
    with numbers:
        _number = numbers.value
        numbers.value += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _start(make_engine: Callable[[], Engine], board: Board | None, numbers: Numbers) -> None:
    global _engine
    begin_worker(numbers)
    _engine = make_engine()
    if board is not None:
        board.follow(_engine)


def _call(function: Callable[[Engine, Any], Any], unit: Any) -> Any:
    assert _engine is not None
    return function(_engine, unit)


def map_units(
    make_engine: Callable[[], Engine],
    function: Callable[[Engine, Unit], Result],
    units: Iterable[Unit],
    *,
    n_workers: int = 1,
    watch: Watch | None = None,
) -> Iterator[Result]:
    """function(engine, unit) for each unit, in order.

    Args:
        make_engine: makes an engine; with several workers it must be picklable.
        function: a module's function.
        units: what to do; with several workers picklable.
        n_workers: 1 works in this process.
        watch: called now and then with the counts of all engines so far, also inside a unit.

    Raises:
        StateError: a worker process died (memory, a signal); what it was doing is lost, and no
            result after it is given.
    """
    if n_workers <= 1:
        engine = make_engine()
        if watch is not None:
            tally = Tally(engine.n_slots)
            engine.watch = lambda statistics: watch(tally.see(statistics))
        for unit in units:
            yield function(engine, unit)
        return
    board = None if watch is None else Board(n_workers)
    numbers = multiprocessing.get_context("spawn").Value("q", 0)
    pool = ProcessPoolExecutor(
        n_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(make_engine, board, numbers),
    )
    try:
        running = deque(pool.submit(_call, function, unit) for unit in units)
        while running:
            if board is not None and watch is not None:
                while not wait([running[0]], timeout=LOOK_EVERY_S).done:
                    watch(board.total())
            yield running.popleft().result()
        if board is not None and watch is not None:
            watch(board.total())
    except BrokenProcessPool as error:
        message = "a worker process died (out of memory, or killed): the job is not complete"
        raise StateError(message) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
