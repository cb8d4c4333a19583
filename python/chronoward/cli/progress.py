"""Progress of long verbs: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PLAIN_EVERY_S = 10.0


@contextmanager
def bar(label: str, *, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """Yields `advance(done, total)`; it may be called as often as one likes.

    Args:
        label: what is being done.
        unit: what is counted, for the plain lines.
    """
    if sys.stderr.isatty():
        with _terminal_bar(label) as advance:
            yield advance
    else:
        yield _plain_lines(label, unit)


@contextmanager
def _terminal_bar(label: str) -> Iterator[Callable[[int, int], None]]:
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
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield advance


def _plain_lines(label: str, unit: str) -> Callable[[int, int], None]:
    start = time.monotonic()
    last = start

    def advance(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _PLAIN_EVERY_S and done < total:
            return
        last = now
        typer.echo(
            f"{label}: {done:,} of {total:,}{unit and ' ' + unit}, {now - start:.0f} s", err=True
        )

    return advance
