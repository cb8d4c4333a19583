from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chronoward.data.assumed_unit import QUANTILES, NumberCounts, assumed_unit
from chronoward.data.meds_rows import NONE

MG, G = 0, 1
UNITS = ["mg", "g"]

some_numbers = hnp.arrays(
    np.float64, st.integers(1, 700), elements=st.integers(-40, 40).map(lambda i: i / 8)
)


def counted(*parts: np.ndarray) -> NumberCounts:
    counts = NumberCounts()
    for part in parts:
        counts.add(part)
    return counts


@given(st.lists(some_numbers, min_size=1, max_size=5))
def test_quantiles_of_counts_are_those_of_the_sorted_numbers(parts: list[np.ndarray]) -> None:
    counts, ordered = counted(*parts), np.sort(np.concatenate(parts))
    assert len(counts) == len(ordered)
    for share, found in zip(QUANTILES, counts.quantiles(), strict=True):
        enough = np.flatnonzero(np.arange(1, len(ordered) + 1) >= share * len(ordered))
        assert found == ordered[enough[0]]


def test_room_is_that_of_the_distinct_numbers() -> None:
    counts = NumberCounts()
    for i in range(100):
        counts.add(np.arange(1000.0) + i % 3)
    counts.quantiles()
    assert len(counts) == 100_000
    assert len(counts._number) == 1002
    assert not counts._waiting


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (np.linspace(48, 152, 40), MG),  # as those in the more frequent unit
        (np.linspace(0.05, 0.15, 40), NONE),  # as those in grams, which are fewer
        (np.linspace(90, 1000, 40), NONE),  # starts alike, runs away
    ],
)
def test_numbers_take_the_most_frequent_unit_where_they_look_alike(
    own: np.ndarray, expected: int
) -> None:
    by_unit = {
        NONE: counted(own),
        G: counted(np.linspace(0.05, 0.15, 50)),
        MG: counted(np.linspace(50, 150, 100)),
    }
    assert assumed_unit(by_unit, UNITS) == expected


def test_units_that_are_equally_frequent_are_told_apart_by_name() -> None:
    same = np.linspace(1, 2, 30)
    by_unit = {MG: counted(same), NONE: counted(same), G: counted(same)}
    assert assumed_unit(by_unit, UNITS) == MG  # "mg" > "g"
    assert assumed_unit(dict(reversed(by_unit.items())), UNITS) == MG
