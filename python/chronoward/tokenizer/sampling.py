"""Bottom-k samples by hash priority: the sample of a union is made from the samples of its parts.

A row's priority hangs on the row alone, so neither sharding nor order nor threads change a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from chronoward._core import BottomSample

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_SIZE: Final = 4096


@dataclass(frozen=True, eq=False)
class Sample:
    """A bottom-k sample per group, sorted by (group, priority, subject, value)."""

    group: NDArray[np.int64]
    priority: NDArray[np.uint64]
    subject: NDArray[np.uint64]
    value: NDArray[np.float64]

    def of_group(
        self, group: int, n_groups: int = 1
    ) -> tuple[NDArray[np.float64], NDArray[np.uint64]]:
        """(values, subjects) of one group, or of n_groups from it on."""
        lo, hi = np.searchsorted(self.group, [group, group + n_groups])
        return self.value[lo:hi], self.subject[lo:hi]


class Sampler:
    """A sample that grows; memory is bounded by SAMPLE_SIZE rows a group.

    Args:
        core: rows that were offered to the core already.
    """

    def __init__(self, core: BottomSample | None = None) -> None:
        self._core = core or BottomSample(SAMPLE_SIZE)
        self._sample: Sample | None = None

    def add(
        self,
        group: NDArray[np.int64],
        subject: NDArray[np.int64],
        salt: NDArray[np.int64],
        value: NDArray[np.float64],
    ) -> None:
        """Offers rows, (n,) each; `salt` tells rows of one subject and value apart."""
        self._give_back()
        self._core.add(group=group, subject=subject, salt=salt, value=value)

    def merge(self, sample: Sample, new_group: NDArray[np.int64] | None = None) -> None:
        """Offers what others sampled, their group g as new_group[g] where that is given."""
        self._give_back()
        group = sample.group if new_group is None else new_group[sample.group]
        self._core.add_sampled(
            group=group, priority=sample.priority, subject=sample.subject, value=sample.value
        )

    def sample(self) -> Sample:
        """The sample of everything offered so far."""
        if self._sample is None:
            self._sample = Sample(**self._core.take())
        return self._sample

    def groups(self, first: int, end: int) -> Sample:
        """The sample of the groups first .. end - 1 alone."""
        self._give_back()
        return Sample(**self._core.rows(first, end))

    def _give_back(self) -> None:
        """Lets the core have the rows again, which are kept once."""
        if self._sample is not None:
            rows, self._sample = self._sample, None
            self._core.add_sampled(**vars(rows))
