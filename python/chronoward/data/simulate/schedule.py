"""When each event's visit takes place, and what of a life is observed at all.

Times are minutes since 1970-01-01. Start and length of a visit are noise: they depend on the events
of the week and on draws of their own, not on hidden states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from chronoward.data.simulate.chains import WEEKS_PER_YEAR
from chronoward.data.simulate.draws import Draws, Purpose, below, fraction
from chronoward.data.simulate.events import (
    DEATH_JITTER,
    DEATH_START,
    EVENTS,
    STAY_START,
    STAY_WINDOW,
)
from chronoward.data.simulate.population import DAYS_PER_WEEK, Population

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.data.simulate.config import SimulationConfig
    from chronoward.data.simulate.course import Course

MINUTES_PER_DAY: Final = 1440
MINUTES_PER_WEEK: Final = DAYS_PER_WEEK * MINUTES_PER_DAY
IS_STAY: Final = np.array([event.place == "stay" for event in EVENTS])
_START: Final = np.array([event.start for event in EVENTS], dtype=np.int64)
_JITTER: Final = np.array([event.jitter for event in EVENTS], dtype=np.int64)
_SHORTEST: Final = np.array([event.duration[0] for event in EVENTS], dtype=np.int64)
_LONGEST: Final = np.array([event.duration[1] for event in EVENTS], dtype=np.int64)
HALF_YEAR_WEEKS: Final = 26


@dataclass(frozen=True, eq=False)
class Visits:
    """One visit an event, in the order of the course's events.

    Attributes:
        start, end: int64 [n], minutes.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]


def week_start(
    population: Population, subject: NDArray[np.int64], week: NDArray[np.int64]
) -> NDArray[np.int64]:
    """First minute of a subject's week."""
    return (population.entry_day[subject] + DAYS_PER_WEEK * week) * MINUTES_PER_DAY


def schedule(course: Course, population: Population, draws: Draws) -> Visits:
    """Gives every event its start and end.

    Routine visits fall on the first two days; several stays of one week share its last days
    evenly, one after the other.
    """
    w = draws.words(Purpose.SCHEDULE, course.subject, 3, week=course.week, item=course.event)
    start = week_start(population, course.subject, course.week) + _START[course.event]
    start += below(w[0], _JITTER[course.event])
    routine = np.array([event.place == "routine" for event in EVENTS])[course.event]
    start += np.where(routine, MINUTES_PER_DAY * below(w[2], 2), 0)
    length = _SHORTEST[course.event] + below(
        w[1], _LONGEST[course.event] - _SHORTEST[course.event] + 1
    )
    stay = np.flatnonzero(IS_STAY[course.event])
    key = course.subject[stay] * (1 << 20) + course.week[stay]
    _, first, group, size = np.unique(
        key, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.arange(len(stay)) - first[group]
    n_stays = size[group]
    share = STAY_WINDOW // n_stays
    crowded = n_stays > 1
    base = week_start(population, course.subject[stay], course.week[stay]) + STAY_START
    start[stay] = np.where(crowded, base + rank * share, start[stay])
    length[stay] = np.where(crowded, np.minimum(length[stay], share - 90), length[stay])
    return Visits(start=start, end=start + length)


@dataclass(frozen=True, eq=False)
class Observation:
    """What is observed of each subject, [n].

    Attributes:
        end_week: the record ends before this week (extract, dropout or death).
        death: minute of death if it is observed, else -1.
        period_start, period_end: int64 [n_periods], days, both included.
        period_subject: int64 [n_periods].
    """

    end_week: NDArray[np.int64]
    death: NDArray[np.int64]
    period_subject: NDArray[np.int64]
    period_start: NDArray[np.int64]
    period_end: NDArray[np.int64]

    def covers(
        self, population: Population, subject: NDArray[np.int64], week: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether a subject's week is observed."""
        away = (population.gap_start[subject] <= week) & (week < population.gap_end[subject])
        return (week < self.end_week[subject]) & ~away


def _dropout_week(
    config: SimulationConfig, course: Course, population: Population, draws: Draws
) -> NDArray[np.int64]:
    """First unobserved week by dropout: weekly hazards that depend on recorded stays and age."""
    c = config.censoring
    n = len(population.subject)
    if c.level == "none":
        return population.n_weeks.copy()
    ratio = c.heavy_ratio if c.level == "heavy" else 1.0
    n_weeks = int(population.n_weeks.max(initial=0))
    recent = np.zeros((n, n_weeks + HALF_YEAR_WEEKS + 1), dtype=np.int8)
    stays = np.flatnonzero(IS_STAY[course.event])
    for lag in range(1, HALF_YEAR_WEEKS + 1):
        recent[course.subject[stays], course.week[stays] + lag] = 1
    weekly = c.dropout_rate * ratio / WEEKS_PER_YEAR
    age = (population.entry_day - population.birth_day) / 365.25
    base = weekly * np.where(age >= 75, c.old_ratio, 1.0)
    # One exponential draw a subject: the week in which its cumulative hazard passes it.
    w = draws.words(Purpose.CENSORING, population.subject, 4)
    patience = -np.log((fraction(w[0]) + 0.5) / (1 << 24))
    hazard = np.cumsum(
        1.0 + (c.after_stay_ratio - 1.0) * recent[:, :n_weeks].astype(np.float32), axis=1
    )
    passed = hazard * base[:, None] < patience[:, None]
    week: NDArray[np.int64] = np.count_nonzero(passed, axis=1)
    week = np.minimum(week, population.n_weeks)
    if c.level == "heavy":
        low, high = (round(WEEKS_PER_YEAR * years) for years in c.heavy_years)
        week = np.minimum(week, low + below(w[1], max(high - low, 1)))
    return np.maximum(week, 1)


def observe(
    config: SimulationConfig, course: Course, population: Population, draws: Draws
) -> Observation:
    """Decides what is observed; deaths after the record's end stay unknown."""
    dropout = _dropout_week(config, course, population, draws)
    dies = course.death_week < dropout
    away = (population.gap_start <= course.death_week) & (course.death_week < population.gap_end)
    known = dies & ~away
    end_week = np.where(dies, course.death_week + 1, dropout)
    end_week = np.where(dies & away, population.gap_start, end_week)
    w = draws.words(Purpose.SCHEDULE, population.subject, 2, week=0, item=1)
    moment = week_start(population, population.subject, np.where(known, course.death_week, 0))
    death = np.where(known, moment + DEATH_START + below(w[0], DEATH_JITTER), -1)
    last_day = population.entry_day + DAYS_PER_WEEK * end_week - 1
    last_day = np.where(known, death // MINUTES_PER_DAY, last_day)
    gap_day = population.entry_day + DAYS_PER_WEEK * population.gap_start
    back_day = population.entry_day + DAYS_PER_WEEK * population.gap_end
    has_gap = (population.gap_start < population.gap_end) & (gap_day <= last_day)
    returns = has_gap & (back_day <= last_day)
    s = population.subject
    return Observation(
        end_week=end_week,
        death=death,
        period_subject=np.concatenate([s, s[returns]]),
        period_start=np.concatenate([population.entry_day, back_day[returns]]),
        period_end=np.concatenate([np.where(has_gap, gap_day - 1, last_day), last_day[returns]]),
    )
