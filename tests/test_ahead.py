"""Items made ahead are the items, in order, and nothing goes on once nobody asks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from chronoward.ahead import ahead

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_items_come_in_order_for_any_number_of_threads(threads: int) -> None:
    assert list(ahead(range(100), threads)) == list(range(100))


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_comes_out_after_the_items_before_it(threads: int) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        message = "the third"
        raise OSError(message)

    taken = ahead(items(), threads)
    assert [next(taken), next(taken)] == [1, 2]
    with pytest.raises(OSError, match="the third"):
        next(taken)


def test_the_next_item_is_made_while_one_is_used() -> None:
    is_made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        is_made.set()
        yield 2

    for item in ahead(items(), 2):
        if item == 1:
            assert is_made.wait(30)


@pytest.mark.parametrize("threads", [1, 2])
def test_who_stops_early_closes_what_makes_the_items(threads: int) -> None:
    is_closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            is_closed.set()

    taken = ahead(items(), threads)
    assert next(taken) == 0
    taken.close()  # type: ignore[attr-defined]
    assert is_closed.is_set()
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]
