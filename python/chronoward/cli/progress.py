"""Progress of long verbs: a bar on a terminal, a plain line now and then elsewhere.

Where an engine draws timelines, its counts stand behind: timelines, tokens a second, slot use.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chronoward.engine import EngineStatistics

_PLAIN_EVERY_S = 10.0


class Advance(Protocol):
    """Tells how far a verb is; it may be called as often as one likes."""

    def __call__(
        self, done: int, total: int, statistics: EngineStatistics | None = None, /
    ) -> None:
        """Tells that `done` of `total` are done, and what the engines have counted, if any run."""


@contextmanager
def bar(label: str, *, unit: str = "") -> Iterator[Advance]:
    """Yields `advance(done, total, statistics)`.

    Args:
        label: what is being done.
        unit: what is counted, for the plain lines.
    """
    if sys.stderr.isatty():
        with _terminal_bar(label) as advance:
            yield advance
    else:
        yield _plain_lines(label, unit)


def engine_text(statistics: EngineStatistics, seconds: float) -> str:
    """Timelines, tokens a second and slot use, as both forms show them.

    Args:
        statistics: counts of all engines so far.
        seconds: for which they have run.
    """
    use = statistics.drawn / max(statistics.steps * statistics.n_slots, 1)
    rate = statistics.drawn / max(seconds, 1e-9)
    return f"{statistics.rollouts:,} timelines, {rate:,.0f} tokens/s, slots {use:.0%} in use"


@contextmanager
def _terminal_bar(label: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[engine]}"),
    )
    start = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=None, engine="")

        def advance(done: int, total: int, statistics: EngineStatistics | None = None, /) -> None:
            text = "" if statistics is None else engine_text(statistics, time.monotonic() - start)
            progress.update(task, completed=done, total=total, engine=text)

        yield advance


def _plain_lines(label: str, unit: str) -> Advance:
    start = time.monotonic()
    last, first, is_done = start, -1, False

    def advance(done: int, total: int, statistics: EngineStatistics | None = None, /) -> None:
        nonlocal last, first, is_done
        now = time.monotonic()
        if first < 0:  # what an earlier job has done took no time of this one
            first = done
        if is_done or (now - last < _PLAIN_EVERY_S and done < total):
            return
        last, is_done = now, done >= total
        line = f"{label}: {done:,} of {total:,}{unit and ' ' + unit}, {now - start:.0f} s"
        if first < done < total:
            line += f", {(total - done) * (now - start) / (done - first):.0f} s left"
        if statistics is not None:
            line += f"; {engine_text(statistics, now - start)}"
        typer.echo(line, err=True)

    return advance
