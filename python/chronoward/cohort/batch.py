"""One batch of the event table as plain arrays, with the joins that cohorts need made searchable.

Per-subject lookups by time ("first outcome after t") become one `searchsorted` over the key
subject·2³⁴ + second, so nothing here loops over events in Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chronoward.dictionary import pair_numbers

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from chronoward.schema import Role

US_PER_SECOND = 1_000_000
US_PER_DAY = 86_400 * US_PER_SECOND
DAYS_PER_YEAR = 365.2425
NEVER = np.iinfo(np.int64).max
_SUBJECT_SHIFT = 34  # 2³⁴ seconds are 544 years
_EPOCH_SHIFT_SECONDS = 1 << 33  # keeps years 1700..2240 positive


def seconds(time_us: NDArray[np.int64], *, up: bool) -> NDArray[np.int64]:
    """Whole seconds; events round up, prediction times down, so that neither sees the future."""
    return -((-time_us) // US_PER_SECOND) if up else time_us // US_PER_SECOND


@dataclass(frozen=True, eq=False)
class EventArrays:
    """Columns of a batch; `subject` counts subjects 0.. within the batch.

    Attributes:
        subject_ids: int64 (n_subjects,).
        subject: int64 (n_events,), ascending.
        first: int64 (n_subjects + 1,), bounds of each subject's events.
        time_us, available_us, end_us: int64 (n_events,); `NEVER` where null.
        role: uint8 (n_events,).
        code: int64 (n_events,), index into the (table, code) list of the source; −1 unknown.
    """

    subject_ids: NDArray[np.int64]
    subject: NDArray[np.int64]
    first: NDArray[np.int64]
    time_us: NDArray[np.int64]
    available_us: NDArray[np.int64]
    end_us: NDArray[np.int64]
    role: NDArray[np.uint8]
    code: NDArray[np.int64]

    @property
    def n_subjects(self) -> int:
        return len(self.subject_ids)

    def keys(
        self, subject: NDArray[np.int64], time_us: NDArray[np.int64], *, up: bool
    ) -> NDArray[np.int64]:
        """Sort keys (subject, second) as single integers."""
        return (subject << _SUBJECT_SHIFT) + seconds(time_us, up=up) + _EPOCH_SHIFT_SECONDS

    def first_after(
        self, event: NDArray[np.bool_], subject: NDArray[np.int64], time_us: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Time (us) of the first marked event strictly after each (subject, time); else NEVER."""
        times, owners = self.time_us[event], self.subject[event]
        order = np.argsort(self.keys(owners, times, up=True), kind="stable")
        times, owners = times[order], owners[order]
        position = np.searchsorted(
            self.keys(owners, times, up=True), self.keys(subject, time_us, up=False), side="right"
        )
        inside = position < len(times)
        found = np.full(len(subject), NEVER)
        hit = np.flatnonzero(inside)
        same = owners[position[hit]] == subject[hit]
        found[hit[same]] = times[position[hit[same]]]
        return found

    def any_until(
        self, event: NDArray[np.bool_], subject: NDArray[np.int64], time_us: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether a marked event of the subject happened at or before each time."""
        earliest = np.full(self.n_subjects, NEVER)
        np.minimum.at(earliest, self.subject[event], self.time_us[event])
        return earliest[subject] <= time_us


def _microseconds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    import pyarrow as pa

    filled = column.cast(pa.int64()).fill_null(NEVER)
    return np.asarray(filled.to_numpy())


def event_arrays(batch: pa.Table, code_index: dict[tuple[str, str], int]) -> EventArrays:
    """Arrays of one batch (whole subjects, `chronoward.schema` order)."""
    ids = np.asarray(batch["subject_id"].to_numpy())
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]]) if len(ids) else np.zeros(0, np.int64)
    first = np.r_[starts, len(ids)].astype(np.int64)
    return EventArrays(
        subject_ids=ids[starts],
        subject=np.repeat(np.arange(len(starts)), np.diff(first)),
        first=first,
        time_us=_microseconds(batch["time"]),
        available_us=_microseconds(batch["available_time"]),
        end_us=_microseconds(batch["end_time"]),
        role=np.asarray(batch["role"].to_numpy()),
        code=pair_numbers(batch, ("table", "code"), lambda *key: code_index.get(key, -1)),
    )


def earliest(arrays: EventArrays, role: Role) -> NDArray[np.int64]:
    """Time (us) of each subject's first event of a role; NEVER where there is none."""
    found = np.full(arrays.n_subjects, NEVER)
    event = arrays.role == role
    np.minimum.at(found, arrays.subject[event], arrays.time_us[event])
    return found


def static_code(arrays: EventArrays, role: Role) -> NDArray[np.int64]:
    """Index of each subject's first code of a role (sex, race); −1 where there is none."""
    found = np.full(arrays.n_subjects, -1)
    event = np.flatnonzero(arrays.role == role)[::-1]
    found[arrays.subject[event]] = arrays.code[event]
    return found
