"""What contexts hold, by loops: the oracle of the C++ lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def slow_context(
    tokens: Sequence[int], visit_kind: Sequence[int], companion: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """State of every token (n, V) and kind of visit (n,) after each token of one timeline."""
    states = np.zeros((len(tokens), len(visit_kind)), np.int64)
    kinds = np.zeros(len(tokens), np.int64)
    held: set[int] = set()
    kind = 0
    for p, token in enumerate(tokens):
        held.add(int(token))
        kind = kind if visit_kind[token] < 0 else visit_kind[token]
        kinds[p] = kind
        for v in range(len(visit_kind)):
            states[p, v] = 2 if v in held else 1 if companion[v] in held else 0
    return states, kinds
