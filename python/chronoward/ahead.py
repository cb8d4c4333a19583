"""Work that is done in a thread of its own while what it made before is used."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")
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
