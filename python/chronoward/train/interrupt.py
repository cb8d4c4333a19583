"""Signals wait until the step is done, so that what is saved is a whole step."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

EXIT_SIGTERM = 143


class Interrupt:
    """Remembers the first SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def leave(self) -> NoReturn:
        """Ends as the signal asked: KeyboardInterrupt for SIGINT, exit code 143 for SIGTERM."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(EXIT_SIGTERM)


@contextmanager
def deferred_signals() -> Iterator[Interrupt]:
    """Yields an `Interrupt` that a loop asks between its steps; a second signal acts at once.

    Outside the main thread signals cannot be caught, and nothing is changed.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    previous = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, _frame: FrameType | None) -> None:
        interrupt.number = number
        restore()

    for number in previous:
        signal.signal(number, note)
    try:
        yield interrupt
    finally:
        restore()
