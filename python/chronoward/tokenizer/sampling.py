"""Bottom-k samples by hash priority: the sample of a union is made from the samples of its parts.

A row's priority hangs on the row alone, so neither sharding nor order nor threads change a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_SIZE: Final = 4096
_COLUMNS: Final = ("group", "priority", "subject", "value")


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of SplitMix64 (Steele et al. 2014) per element; a bijection."""
    with np.errstate(over="ignore"):
        z = x + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


@dataclass(frozen=True, eq=False)
class Sample:
    """A bottom-k sample per group, sorted by (group, priority, subject, value)."""

    group: NDArray[np.int64]
    priority: NDArray[np.uint64]
    subject: NDArray[np.uint64]
    value: NDArray[np.float64]

    @classmethod
    def empty(cls) -> Sample:
        """No rows."""
        none = np.zeros(0, np.uint64)
        return cls(np.zeros(0, np.int64), none, none, np.zeros(0, np.float64))

    @classmethod
    def of(
        cls,
        group: NDArray[np.int64],
        subject: NDArray[np.int64],
        salt: NDArray[np.int64],
        value: NDArray[np.float64],
    ) -> Sample:
        """Rows with a priority that hangs on (subject, salt, value) only."""
        who = splitmix64(subject.astype(np.uint64))
        bits = np.ascontiguousarray(value, np.float64).view(np.uint64)
        priority = splitmix64(splitmix64(who ^ salt.astype(np.uint64)) ^ bits)
        return cls(group, priority, who, value)

    def bottom(self) -> Sample:
        """The SAMPLE_SIZE rows of least priority of each group, sorted."""
        rows = self._candidates()
        group, priority = self.group[rows], self.priority[rows]
        order = np.lexsort((priority, group))  # equal priorities are equal rows
        group = group[order]
        starts = np.flatnonzero(np.diff(group, prepend=np.int64(-1)))
        within = np.arange(len(group)) - np.repeat(starts, np.diff(starts, append=len(group)))
        kept = rows[order[within < SAMPLE_SIZE]]
        return Sample(*(getattr(self, n)[kept] for n in _COLUMNS))

    def _candidates(self) -> NDArray[np.int64]:
        """Rows that can be among the least of their group; spares sorting all the others."""
        n = np.bincount(self.group, minlength=1)
        # priorities are uniform: this share holds the least SAMPLE_SIZE but for bad luck
        share = (SAMPLE_SIZE + 8 * SAMPLE_SIZE**0.5) / np.maximum(n, 1)
        limit = np.where(share < 1, np.minimum(share, 0.999) * 2.0**64, 0).astype(np.uint64)
        limit[share >= 1] = np.uint64(2**64 - 1)
        below = self.priority <= limit[self.group]
        enough = np.bincount(self.group[below], minlength=len(n)) >= np.minimum(n, SAMPLE_SIZE)
        return np.flatnonzero(below | ~enough[self.group])

    def renamed(self, new_group: NDArray[np.int64]) -> Sample:
        """The same rows with group g called new_group[g]."""
        return Sample(new_group[self.group], self.priority, self.subject, self.value).bottom()

    def of_group(
        self, group: int, n_groups: int = 1
    ) -> tuple[NDArray[np.float64], NDArray[np.uint64]]:
        """(values, subjects) of one group, or of n_groups from it on."""
        lo, hi = np.searchsorted(self.group, [group, group + n_groups])
        return self.value[lo:hi], self.subject[lo:hi]

    @classmethod
    def union(cls, parts: list[Sample]) -> Sample:
        """Sample of the union of what the parts were sampled from."""
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in _COLUMNS)).bottom()


class Sampler:
    """A sample that grows: rows that cannot stay are turned away, the rest is merged in bulk."""

    def __init__(self, sample: Sample | None = None) -> None:
        self._sample = sample or Sample.empty()
        self._waiting: list[Sample] = []
        self._limit = self._limits()

    def _limits(self) -> NDArray[np.uint64]:
        """Per group the priority that a row must not pass; groups not yet full take all."""
        n = np.bincount(self._sample.group, minlength=1)
        limit = np.full(len(n), 2**64 - 1, np.uint64)
        is_full = n >= SAMPLE_SIZE
        limit[is_full] = self._sample.priority[np.cumsum(n)[is_full] - 1]
        return limit

    def add(
        self,
        group: NDArray[np.int64],
        subject: NDArray[np.int64],
        salt: NDArray[np.int64],
        value: NDArray[np.float64],
    ) -> None:
        """Offers rows (see `Sample.of`)."""
        if not len(group):
            return
        offered = Sample.of(group, subject, salt, value)
        known = np.minimum(offered.group, len(self._limit) - 1)
        limit = np.where(offered.group < len(self._limit), self._limit[known], 2**64 - 1)
        kept = offered.priority <= limit.astype(np.uint64)
        self._waiting.append(Sample(*(getattr(offered, n)[kept] for n in _COLUMNS)))
        if sum(len(p.group) for p in self._waiting) > max(200_000, len(self._sample.group) // 2):
            self.sample()

    def sample(self) -> Sample:
        """The sample of everything offered so far."""
        if self._waiting:
            self._sample = Sample.union([self._sample, *self._waiting])
            self._waiting = []
            self._limit = self._limits()
        return self._sample
