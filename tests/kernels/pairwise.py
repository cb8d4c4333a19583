"""Rows of a test matrix in which every pair of values of two factors occurs."""

from __future__ import annotations

import itertools
import random
from typing import Any


def pairwise(factors: dict[str, tuple[Any, ...]], *, seed: int = 0) -> list[dict[str, Any]]:
    """A small set of rows, found greedily: the best of some rows that hold an open pair each time.

    Args:
        factors: values of each factor.
        seed: of the rows that are tried.
    """
    names = list(factors)
    draw = random.Random(seed)
    open_pairs = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(names, 2)
        for x in factors[a]
        for y in factors[b]
    }

    def pairs(row: dict[str, Any]) -> set[Any]:
        return set(itertools.combinations(((name, row[name]) for name in names), 2))

    rows = []
    while open_pairs:
        first = min(open_pairs, key=repr)
        tried = [
            {name: draw.choice(factors[name]) for name in names} | dict(first) for _ in range(50)
        ]
        best = max(tried, key=lambda row: len(pairs(row) & open_pairs))
        rows.append(best)
        open_pairs -= pairs(best)
    return rows
