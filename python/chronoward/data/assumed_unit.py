"""Which unit a code's numbers without one have: that of its other numbers, where they look alike.

What is compared are quantiles over the whole source, so numbers are kept as counts: a laboratory
reports to one or two places, and the same few thousand numbers come over and over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chronoward.data.meds_rows import NONE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
_WAITING = 256  # numbers of a code and unit that are not counted yet, at least


class NumberCounts:
    """How often each number came; takes the room of the distinct ones."""

    def __init__(self) -> None:
        self._number: Floats = np.zeros(0)  # ascending
        self._n: Ints = np.zeros(0, np.int64)
        self._waiting: list[Floats] = []
        self._n_waiting = 0

    def add(self, numbers: Floats) -> None:
        """Counts numbers (n,), none of them NaN."""
        self._waiting.append(numbers)
        self._n_waiting += len(numbers)
        if self._n_waiting > max(_WAITING, len(self._number)):
            self._settle()

    def _settle(self) -> None:
        waiting = np.concatenate([*self._waiting, self._number])
        n = np.concatenate([np.ones(self._n_waiting, np.int64), self._n])
        self._number, place = np.unique(waiting, return_inverse=True)
        self._n = np.zeros(len(self._number), np.int64)
        np.add.at(self._n, place, n)
        self._waiting, self._n_waiting = [], 0

    def __len__(self) -> int:
        return int(self._n.sum()) + self._n_waiting

    def quantiles(self) -> list[float]:
        """Discrete `QUANTILES`: the smallest number with at least that share at or below it."""
        self._settle()
        places = np.ceil(np.array(QUANTILES) * len(self)).astype(np.int64)
        found = np.searchsorted(np.cumsum(self._n), np.maximum(places, 1))
        return [float(x) for x in self._number[found]]


def assumed_unit(by_unit: Mapping[int, NumberCounts], units: Sequence[str]) -> int:
    """The unit of numbers without one (key `NONE`), as `chronoward.data.rules` states it.

    Args:
        by_unit: the numbers of one code, with at least one unit and some without.
        units: names by number.

    Returns:
        The most frequent unit, `NONE` where the quantiles do not agree with it.
    """
    names = [unit for unit in by_unit if unit != NONE]
    best = max(names, key=lambda unit: (len(by_unit[unit]), units[unit].encode()))
    own, other = by_unit[NONE].quantiles(), by_unit[best].quantiles()
    agree = other[1] <= own[3] <= other[5] and own[2] >= other[0] and own[4] <= other[6]
    return best if agree else NONE
