"""Work in threads: its results in the order in which it was asked for, or behind the caller."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future
    from types import TracebackType

T = TypeVar("T")
U = TypeVar("U")
_END: Final[Any] = object()


def ahead(items: Iterable[T], threads: int) -> Generator[T, None, None]:
    """The same items; with two threads or more, each is made while the one before it is used.

    Of worth where making and using leave the interpreter to others: the core, Arrow, NumPy.

    Args:
        items: made one after the other, in one thread; an error of theirs comes out here.
        threads: that the caller may use; with one, items are made when they are asked for.
    """
    iterator = iter(items)
    if threads < 2:
        yield from iterator
        return
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as worker:
        waiting = deque([worker.submit(next, iterator, _END)])
        try:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(worker.submit(next, iterator, _END))
                yield item
        finally:  # whoever stops early leaves nothing running
            worker.shutdown(cancel_futures=True)
            if hasattr(iterator, "close"):
                iterator.close()


def side_by_side(function: Callable[[T], U], items: Iterable[T], threads: int) -> Iterator[U]:
    """What a function makes of each item, in their order; `threads` of them at a time.

    As `ahead`, of worth where the function leaves the interpreter to others. At most one item more
    than there are threads is held, with what was made of it.

    Args:
        function: called in other threads, by several at once.
        items: made one after the other, in the caller's thread.
        threads: with one, all is done in the caller's thread.
    """
    if threads < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="side") as workers:
        waiting: deque[Future[U]] = deque()
        try:
            for item in items:
                waiting.append(workers.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # whoever stops early leaves nothing running
            workers.shutdown(cancel_futures=True)


class Behind:
    """A thread that does what its caller need not wait for, such as writing, in the given order.

    Leaving a `with` block waits for the rest, whose error comes out unless there is one already.
    """

    def __init__(self) -> None:
        self._worker: ThreadPoolExecutor | None = None
        self._waiting: list[Future[Any]] = []

    def do(self, function: Callable[..., Any], *given: Any) -> None:
        """Calls a function with what is given once everything before it is done."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._waiting.append(self._worker.submit(function, *given))

    def wait(self) -> None:
        """Waits until everything is done; the first error comes out here."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            future.result()

    def close(self) -> None:
        """Waits until everything is done and ends the thread; errors are those of `wait` only."""
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if error is None:
            self.wait()
