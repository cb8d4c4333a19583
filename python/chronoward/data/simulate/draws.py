"""Draws that are addressed, never consumed: (seed, subject, week, purpose, block) names a word.

So other censoring, another order of work, or one draw more elsewhere changes nothing here.
Probabilities are integers in units of 2^-24, in the simulation and in the exact filter alike: a
last-digit difference of `exp` between machines is rounded away before anything branches.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from chronoward.philox import hash64, philox4x32

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBABILITY_BITS: Final = 24
ONE: Final = 1 << PROBABILITY_BITS
_SHIFT: Final = np.uint32(32 - PROBABILITY_BITS)


class Purpose(IntEnum):
    """One number a decision: part of a draw's address."""

    PERSON = 1
    COURSE = 2
    SCHEDULE = 3
    PANEL = 4
    CONTENT = 5
    CENSORING = 6
    TRAP = 7
    INDEX = 8
    VOCABULARY = 9


class Draws:
    """The random words of one simulation."""

    def __init__(self, seed: int) -> None:
        self._key = hash64("chronoward simulate", seed)

    def words(
        self,
        purpose: Purpose,
        subject: NDArray[np.int64],
        n_words: int,
        *,
        week: NDArray[np.int64] | int = 0,
        item: NDArray[np.int64] | int = 0,
    ) -> NDArray[np.uint32]:
        """Independent uniform 32-bit words for each address.

        Args:
            purpose: the decision, below 2^8.
            subject: int64 [n], in [0, 2^32).
            n_words: words for each address, at most 2^10.
            week: second coordinate, in [0, 2^32).
            item: third coordinate, in [0, 2^32).

        Returns:
            uint32 [n_words, n].
        """
        n = len(subject)
        n_blocks = -(-n_words // 4)
        counters = np.empty((n_blocks, n, 4), np.uint32)
        counters[:, :, 0] = subject
        counters[:, :, 1] = week
        counters[:, :, 2] = item
        counters[:, :, 3] = (np.arange(n_blocks) * 256 + int(purpose))[:, None]
        out = philox4x32(self._key, counters.reshape(-1, 4)).reshape(n_blocks, n, 4)
        flat: NDArray[np.uint32] = np.ascontiguousarray(out.transpose(0, 2, 1))
        return flat.reshape(4 * n_blocks, n)[:n_words]


def below(word: NDArray[np.uint32], n: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """A uniform integer in [0, n) from each word (multiplication; bias below n / 2^32)."""
    product = word.astype(np.uint64) * np.asarray(n).astype(np.uint64)
    return (product >> np.uint64(32)).astype(np.int64)


def integer_probability(p: NDArray[np.float64] | float) -> NDArray[np.int64]:
    """Probabilities in units of 2^-24, half to even."""
    rounded: NDArray[np.float64] = np.rint(np.clip(np.asarray(p, np.float64), 0.0, 1.0) * ONE)
    return rounded.astype(np.int64)


def fraction(word: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The word's top 24 bits: compared with an integer probability, `fraction < p` happens."""
    return (word >> _SHIFT).astype(np.int64)


def happens(word: NDArray[np.uint32], p: NDArray[np.int64] | int) -> NDArray[np.bool_]:
    """Whether an event of integer probability `p` (units of 2^-24) happens."""
    return fraction(word) < p


def cumulative(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integer cumulative table along the last axis; every row ends at 2^24."""
    total = np.cumsum(np.asarray(weights, dtype=np.float64), axis=-1)
    table = np.rint(total / total[..., -1:] * ONE).astype(np.int64)
    table[..., -1] = ONE
    return table


def choose(word: NDArray[np.uint32], table: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draws an index for each word [n] from one cumulative table [k] or a row each [n, k]."""
    draw = fraction(word)
    if table.ndim == 1:
        return np.searchsorted(table, draw, side="right").astype(np.int64)
    passed: NDArray[np.int64] = np.count_nonzero(draw[:, None] >= table, axis=1)
    return passed
