"""An end at 00:00 is the end of the day before; where minutes hide that, it is put right.

The clock rounds times up to the minute, so what a source held as the last second of a day (a visit
or a death known by its date only) comes out of a tokenizer at 00:00 of the next day. Written like
that it would be read as a whole day more. Ends of visits, what happens at them, and deaths at 00:00
are therefore moved to 23:59:59; the clock rounds that up again, so the same tokens come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from chronoward.schema import Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

US_PER_SECOND = 1_000_000
US_PER_DAY = 86_400 * US_PER_SECOND
_NULL = np.iinfo(np.int64).min


def _microseconds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A timestamp column as int64, nulls as the smallest number."""
    filled = column.cast(pa.int64()).fill_null(_NULL)
    return np.asarray(filled.to_numpy(), np.int64).copy()


def _timestamps(values: NDArray[np.int64]) -> pa.Array:
    return pa.array(values, pa.int64(), mask=values == _NULL).cast(pa.timestamp("us"))


def _numbered(subject: NDArray[np.int64], visit_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each pair, equal for equal pairs, from 0 on."""
    _, of_subject = np.unique(subject, return_inverse=True)
    visits, of_visit = np.unique(visit_id, return_inverse=True)
    _, number = np.unique(of_subject * len(visits) + of_visit, return_inverse=True)
    return np.asarray(number, np.int64)


def before_midnight(events: pa.Table, observation: pa.Table) -> pa.Table:
    """Moves ends at 00:00 to the last second of the day before.

    Args:
        events: event_schema, whole subjects.
        observation: observation_schema, one row a subject.

    Returns:
        The same rows in the same order; a visit or a death never comes to lie before anything
        that preceded it, observation's start included.
    """
    role = events["role"].to_numpy()
    subject = events["subject_id"].to_numpy()
    visit_id = np.asarray(events["visit_id"].fill_null(-1).to_numpy(), np.int64)
    time = _microseconds(events["time"])
    available = _microseconds(events["available_time"])
    end = _microseconds(events["end_time"])

    is_visit = role == Role.VISIT
    late = np.flatnonzero(is_visit & (end != _NULL) & (end % US_PER_DAY == 0) & (end > time))
    if len(late):
        visit = _numbered(subject, visit_id)
        finish = np.full(int(visit.max()) + 1, _NULL)
        finish[visit[late]] = end[late]
        own = finish[visit]
        at_end = (own != _NULL) & (time == own)
        ends_there = (own != _NULL) & (end == own)
        time[at_end] -= US_PER_SECOND
        available[at_end] -= US_PER_SECOND
        end[ends_there] -= US_PER_SECOND

    starts = _microseconds(observation["start_time"])
    begun = dict(zip(observation["subject_id"].to_pylist(), starts.tolist(), strict=True))
    for row in np.flatnonzero((role == Role.DEATH) & (time % US_PER_DAY == 0)):
        others = (subject == subject[row]) & (role != Role.DEATH)
        last = max(
            time[others].max(initial=_NULL),
            end[others].max(initial=_NULL),
            begun.get(int(subject[row]), _NULL),
        )
        if last < time[row]:
            time[row] -= US_PER_SECOND
            available[row] -= US_PER_SECOND
    columns = {"time": time, "available_time": available, "end_time": end}
    for name, values in columns.items():
        index = events.schema.get_field_index(name)
        events = events.set_column(index, events.schema.field(name), _timestamps(values))
    return events
