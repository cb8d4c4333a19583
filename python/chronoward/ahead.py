"""Work in threads, its results in the order in which it was asked for."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

T = TypeVar("T")
U = TypeVar("U")
_END: Final[Any] = object()


def ahead(items: Iterable[T], threads: int) -> Iterator[T]:
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
