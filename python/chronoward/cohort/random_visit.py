"""One index a subject that does not look ahead: a date is drawn first, then the next visit taken.

A visit drawn among all visits of a life knows how many there will be: those who fall ill have many
later visits, so that their early ones are seldom drawn. Instead:

1. The subject's eligible days are those of its observation periods that leave the washout behind:
   day n of a period starts at its start + washout + n × 24 h and is not after its end.
2. One of them is drawn uniformly, by Philox from (seed, subject_id): number ⌊word × n / 2³²⌋ of n,
   over the periods in order.
3. The index is the end of the first visit that starts on that day or later (in a source without
   visits: its first moment). Where the stay outlasts the observation, or no visit follows, the
   subject has no row.

Given the day, the choice depends on nothing after the index: later visits change neither it nor
whether the subject is eligible. The day itself depends on the end of observation, and on nothing
else of the future: somebody observed for long is less often asked on a given day than somebody
who leaves early. Where periods end with the last event (`observation_end = last_event`) that end
moves with every further visit; an extract date does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chronoward.cohort.batch import US_PER_DAY
from chronoward.philox import hash64, philox4x32, splitmix64

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Observation:
    """Observation periods of all subjects, by (subject_id, start_us): int64 arrays of one length.

    Attributes:
        subject_id, start_us, end_us: a period a place.
    """

    subject_id: Ints
    start_us: Ints
    end_us: Ints


@dataclass(frozen=True, eq=False)
class Visits:
    """Visits of a batch: int64 arrays of one length; `subject` counts subjects of the batch."""

    subject: Ints
    start_us: Ints
    end_us: Ints


def random_visit(
    subject_ids: Ints, visits: Visits, observation: Observation, *, washout_days: int, seed: int
) -> tuple[Ints, Ints, dict[str, int]]:
    """The drawn visits by the rule above.

    Args:
        subject_ids: int64 (n,), of the batch, ascending.
        visits: of the batch.
        observation: of all subjects.
        washout_days: observation before the drawn day.
        seed: of the draw.

    Returns:
        Subjects (places in `subject_ids`) and prediction times (us); and how many subjects had no
        day to draw (`too_short`) or no visit from the drawn day on (`no_visit_after`).
    """
    subject, day_us = _draw_days(subject_ids, observation, washout_days, seed)
    order = np.lexsort((visits.end_us, visits.start_us, visits.subject))
    owner, start_us = visits.subject[order], visits.start_us[order]
    # rank of each visit and each drawn day in one order of (subject, time); a visit that starts
    # at the drawn moment itself comes after it
    merged = np.lexsort(
        (
            np.r_[np.ones(len(owner)), np.zeros(len(subject))],
            np.r_[start_us, day_us],
            np.r_[owner, subject],
        )
    )
    is_visit = merged < len(owner)
    before = np.cumsum(is_visit)[~is_visit]  # visits before each drawn day, in order of the days
    drawn = merged[~is_visit] - len(owner)
    found = np.r_[owner, -1][before] == subject[drawn]
    time_us = visits.end_us[order][before[found]]
    left_out = {
        "too_short": len(subject_ids) - len(subject),
        "no_visit_after": len(subject) - int(found.sum()),
    }
    return subject[drawn[found]], time_us, left_out


def _draw_days(
    subject_ids: Ints, observation: Observation, washout_days: int, seed: int
) -> tuple[Ints, Ints]:
    """Subjects (places in `subject_ids`, ascending) with an eligible day; the drawn one (us)."""
    mine = np.isin(observation.subject_id, subject_ids)
    owner = np.searchsorted(subject_ids, observation.subject_id[mine])
    first_us = observation.start_us[mine] + washout_days * US_PER_DAY
    n_days = np.maximum((observation.end_us[mine] - first_us) // US_PER_DAY + 1, 0)
    days = np.zeros(len(subject_ids), np.int64)
    np.add.at(days, owner, n_days)
    known = np.flatnonzero(days)
    hashed = splitmix64(subject_ids[known])
    counters = np.zeros((len(known), 4), np.uint32)
    counters[:, 0] = (hashed & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    counters[:, 1] = (hashed >> np.uint64(32)).astype(np.uint32)
    word = philox4x32(hash64(seed, "random_visit"), counters)[:, 0].astype(np.uint64)
    number = ((word * days[known].astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
    # the period that holds the number: periods stand in order of (subject, start)
    ends = np.cumsum(n_days)
    offset = np.r_[0, np.cumsum(days)][known]
    period = np.searchsorted(ends, offset + number, side="right")
    within = offset + number - (ends - n_days)[period]
    return known, first_us[period] + within * US_PER_DAY
