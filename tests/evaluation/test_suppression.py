from __future__ import annotations

from chronoward.evaluation.suppression import (
    SMALL,
    WITHHELD,
    count,
    hide,
    partition,
    suppress_steps,
)


def test_counts_of_one_to_ten_are_hidden() -> None:
    assert [count(n) for n in (0, 1, 10, 11)] == [0, SMALL, SMALL, 11]


def test_a_small_part_cannot_be_subtracted_from_the_total() -> None:
    assert partition([5, 40, 100]) == [SMALL, WITHHELD, 100]
    assert partition([5, 9, 100]) == [SMALL, SMALL, 100]
    assert partition([0, 40]) == [0, 40]
    assert partition([3]) == [SMALL]


def test_steps_do_not_show_who_was_few() -> None:
    assert suppress_steps([100, 95, 80, 5]) == [100, WITHHELD, 80, SMALL]


def test_nested_counts_are_hidden_and_the_rest_is_kept() -> None:
    assert hide({"a": {"n": 3, "m": 30}, "b": 0.5, "c": True}) == {
        "a": {"n": SMALL, "m": 30},
        "b": 0.5,
        "c": True,
    }
