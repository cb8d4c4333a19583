"""At which visits the truth is asked for.

The visit must not be chosen by looking at the future. "One of the subject's visits at random" does:
who falls ill has many visits afterwards, so each visit before is chosen less often. Here a date is
drawn first, and the prediction is made at the first routine visit on or after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from chronoward.data.simulate.draws import Purpose, below
from chronoward.data.simulate.events import EVENTS, ROUTINE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.data.simulate.clinic import Clinic

WASHOUT_WEEKS: Final = 53
LONGEST_HORIZON_WEEKS: Final = 105


@dataclass(frozen=True, eq=False)
class IndexRows:
    """Prediction times.

    Attributes:
        rows: int64 [n], ascending rows of the course (routine visits).
        at_risk: for each outcome bool [n]: not recorded before.
    """

    rows: NDArray[np.int64]
    at_risk: dict[str, NDArray[np.bool_]]


def choose_index_rows(clinic: Clinic, per_subject: int, outcomes: tuple[str, ...]) -> IndexRows:
    """Draws prediction times: up to `per_subject` different ones a subject.

    A subject needs 53 weeks of the current observation period before, and the last two years before
    the extract are left to the horizon.
    """
    course, population = clinic.course, clinic.population
    routine = clinic.shown[course.event[clinic.shown] == ROUTINE]
    subject, week = course.subject[routine], course.week[routine]
    back = population.gap_end[subject]
    left = population.gap_start[subject]
    long_enough = (week >= WASHOUT_WEEKS) & ((week < left) | (week >= back + WASHOUT_WEEKS))
    routine = routine[long_enough]
    key = course.subject[routine] * (1 << 16) + course.week[routine]
    words = clinic.draws.words(Purpose.INDEX, population.subject, per_subject)
    room = np.maximum(population.n_weeks - LONGEST_HORIZON_WEEKS - WASHOUT_WEEKS, 1)
    chosen = []
    for word in words:
        from_week = WASHOUT_WEEKS + below(word, room)
        place = np.searchsorted(key, population.subject * (1 << 16) + from_week)
        inside = place < len(key)
        row = routine[np.minimum(place, len(key) - 1)] if len(key) else place[:0]
        inside = inside[: len(row)] & (course.subject[row] == population.subject[: len(row)])
        chosen.append(row[inside])
    rows = np.unique(np.concatenate(chosen))
    return IndexRows(rows, {o: _at_risk(clinic, rows, o) for o in outcomes})


def first_weeks(clinic: Clinic, outcome: str) -> NDArray[np.int64]:
    """Week of each subject's first record of an outcome, whether observed or not (else large)."""
    course = clinic.course
    events = [number for number, event in enumerate(EVENTS) if event.outcome == outcome]
    first = np.full(len(clinic.population.subject), np.iinfo(np.int64).max)
    hits = np.isin(course.event, events)
    np.minimum.at(first, course.subject[hits], course.week[hits])
    return first


def _at_risk(clinic: Clinic, rows: NDArray[np.int64], outcome: str) -> NDArray[np.bool_]:
    course = clinic.course
    # In the prediction's own week an outcome would come later than the routine visit.
    return first_weeks(clinic, outcome)[course.subject[rows]] >= course.week[rows]


def happened(
    clinic: Clinic, rows: NDArray[np.int64], outcome: str, horizon_days: int
) -> NDArray[np.bool_]:
    """Whether the outcome came within the horizon in the whole life, censored or not."""
    course = clinic.course
    codes = [number for number, event in enumerate(EVENTS) if event.outcome == outcome]
    hits = np.flatnonzero(np.isin(course.event, codes))
    minute = clinic.outcome_minute(hits)
    first = np.full(len(clinic.population.subject), np.iinfo(np.int64).max)
    np.minimum.at(first, course.subject[hits], minute)
    when = clinic.visits.end[rows]
    due = first[course.subject[rows]]
    return (due > when) & (due <= when + horizon_days * 1440)
