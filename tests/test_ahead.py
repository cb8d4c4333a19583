"""Items made ahead, results made side by side, work done behind: in order, and nothing goes on once
nobody asks."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from chronoward.ahead import Behind, ahead, side_by_side

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
    taken.close()
    assert is_closed.is_set()
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_results_come_in_the_order_of_their_items(threads: int) -> None:
    def slow_if_even(i: int) -> int:
        time.sleep(0.005 * (i % 2 == 0))
        return i * i

    assert list(side_by_side(slow_if_even, range(20), threads)) == [i * i for i in range(20)]


def test_two_items_are_worked_on_at_a_time() -> None:
    both = threading.Barrier(2, timeout=30)
    assert list(side_by_side(lambda _: both.wait() >= 0, range(4), 2)) == [True] * 4


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_more_items_are_taken_than_there_are_threads_and_one(threads: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for i in range(50):
            taken += 1
            yield i

    for n_used, _ in enumerate(side_by_side(lambda i: i, items(), threads)):
        assert taken <= n_used + threads + 1


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_comes_out_where_its_result_would(threads: int) -> None:
    def but_two(i: int) -> int:
        return 1 // (2 - i)

    results = side_by_side(but_two, range(9), threads)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not [t for t in threading.enumerate() if t.name.startswith("side")]


def test_who_stops_early_leaves_no_thread_behind() -> None:
    results = side_by_side(lambda i: i, range(100), 3)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("side")]


def test_work_is_done_behind_its_caller_in_the_given_order() -> None:
    may_begin, done = threading.Event(), list[int]()
    with Behind() as behind:
        behind.do(may_begin.wait, 30)
        for i in range(20):
            behind.do(done.append, i)
        assert not done
        may_begin.set()
        behind.wait()
        assert done == list(range(20))
        behind.do(done.append, 20)
    assert done == list(range(21))
    assert not [t for t in threading.enumerate() if t.name.startswith("behind")]


def test_an_error_of_work_behind_comes_out_once_where_it_is_waited_for() -> None:
    done: list[int] = []
    with Behind() as behind:
        behind.do(int, "seven")
        behind.do(done.append, 1)
        with pytest.raises(ValueError, match="seven"):
            behind.wait()
        behind.wait()
    with pytest.raises(ValueError, match="eight"), Behind() as behind:
        behind.do(int, "eight")
    assert done == [1]


def test_an_error_of_the_caller_is_not_replaced_by_one_behind() -> None:
    def called() -> None:
        with Behind() as behind:
            behind.do(int, "behind")
            raise KeyError("caller")

    with pytest.raises(KeyError, match="caller"):
        called()
    assert not [t for t in threading.enumerate() if t.name.startswith("behind")]
