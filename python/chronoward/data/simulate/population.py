"""Who comes: observed attributes, latent class, entry, and when they are away."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from chronoward.data.simulate.chains import (
    AGE_BAND_YEARS,
    FIRST_AGE_BAND_YEARS,
    N_CLASSES,
    SIZES,
)
from chronoward.data.simulate.diseases import class_weights
from chronoward.data.simulate.draws import (
    Draws,
    Purpose,
    below,
    choose,
    cumulative,
    happens,
    integer_probability,
)
from chronoward.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.data.simulate.config import SimulationConfig

DAYS_PER_WEEK: Final = 7
YOUNGEST_YEARS: Final = 30
OLDEST_YEARS: Final = 92
AGE_REFRESH_WEEKS: Final = 26
"""Age bands are looked up twice a year, in the simulation and in the filter alike."""


def day_number(iso: str) -> int:
    """Days since 1970-01-01.

    Raises:
        ConfigError: not an ISO date.
    """
    try:
        return (dt.date.fromisoformat(iso) - dt.date(1970, 1, 1)).days
    except ValueError:
        message = f"simulation config: calendar dates are YYYY-MM-DD, not {iso!r}"
        raise ConfigError(message) from None


@cache
def _normal_table() -> NDArray[np.int64]:
    """Integer cumulative table of a normal distribution on 0.01 sd cells from -3.2 to 3.2."""
    cells = [math.exp(-0.5 * ((i - 320) / 100) ** 2) for i in range(641)]
    return cumulative(np.asarray(cells))


def normal_hundredths(word: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Standard normal draws in hundredths, within +-320."""
    return choose(word, _normal_table()) - 320


@dataclass(frozen=True, eq=False)
class Population:
    """One entry a subject, [n] each; `subject` is 0, 1, 2, ... and the address of its draws.

    Attributes:
        sex: 0 female, 1 male.       race: 0 white, 1 Black, 2 Asian.
        site: 0 A, 1 B.              smoker: 0 or 1, recorded at the first routine visit.
        birth_day, entry_day: days since 1970. Weeks count from the entry day.
        n_weeks: weeks from entry to the extract.
        latent_class: index of (frailty, metabolic, frequent).
        gap_start, gap_end: weeks [gap_start, gap_end) away; both n_weeks when never away.
    """

    subject: NDArray[np.int64]
    sex: NDArray[np.int64]
    race: NDArray[np.int64]
    site: NDArray[np.int64]
    smoker: NDArray[np.int64]
    birth_day: NDArray[np.int64]
    entry_day: NDArray[np.int64]
    n_weeks: NDArray[np.int64]
    latent_class: NDArray[np.int64]
    gap_start: NDArray[np.int64]
    gap_end: NDArray[np.int64]

    def context(
        self, week: NDArray[np.int64] | int, rows: NDArray[np.int64] | slice = slice(None)
    ) -> NDArray[np.int64]:
        """Index of the observed context in a week, int64; moves with age only."""
        start = week - week % AGE_REFRESH_WEEKS
        days = self.entry_day[rows] + DAYS_PER_WEEK * start - self.birth_day[rows]
        band = (days / 365.25 - FIRST_AGE_BAND_YEARS) // AGE_BAND_YEARS
        age = np.clip(band, 0, SIZES[4] - 1).astype(np.int64)
        black = (self.race[rows] == 1).astype(np.int64)
        index = self.sex[rows]
        for size, part in (
            (SIZES[1], black),
            (SIZES[2], self.site[rows]),
            (SIZES[3], self.smoker[rows]),
            (SIZES[4], age),
        ):
            index = index * size + part
        return index


def class_table(config: SimulationConfig) -> NDArray[np.int64]:
    """Integer cumulative table of the class given the context, int64 [n_contexts, N_CLASSES]."""
    return cumulative(class_weights(config))


def draw_population(config: SimulationConfig, draws: Draws, n_subjects: int) -> Population:
    """Draws everyone who enters.

    Raises:
        ConfigError: the calendar's dates are in the wrong order.
    """
    p, calendar, gaps = config.population, config.calendar, config.censoring
    first, last, end = (
        day_number(d) for d in (calendar.entry_from, calendar.entry_to, calendar.end)
    )
    if not first < last < end:
        message = "simulation config: calendar needs entry_from < entry_to < end"
        raise ConfigError(message)
    subject = np.arange(n_subjects, dtype=np.int64)
    w = draws.words(Purpose.PERSON, subject, 16)
    sex = happens(w[0], int(integer_probability(1 - p.female_share))).astype(np.int64)
    shares = np.array([1 - p.black_share - p.asian_share, p.black_share, p.asian_share])
    race = choose(w[1], cumulative(np.clip(shares, 0.0, None)))
    site = happens(w[2], int(integer_probability(p.site_b_share))).astype(np.int64)
    smoker_share = integer_probability(p.smoker_share * np.array([0.85, 1.2]))[sex]
    smoker = happens(w[3], smoker_share).astype(np.int64)
    z = normal_hundredths(w[4])
    days = np.rint(365.25 * (p.age_mean_years + p.age_sd_years * z / 100)).astype(np.int64)
    youngest, oldest = round(365.25 * YOUNGEST_YEARS), round(365.25 * OLDEST_YEARS)
    days = np.where(days > oldest, 2 * oldest - days, days)  # reflected: no heap at the border
    days = np.where(days < youngest, 2 * youngest - days, days)
    days = np.clip(days, youngest, oldest)
    entry = first + below(w[5], last - first)
    birth = entry - days - below(w[6], 300)
    n_weeks = (end - entry) // DAYS_PER_WEEK
    leaves = happens(w[7], int(integer_probability(gaps.gap_share)))
    gap_start = 60 + below(w[8], np.maximum(n_weeks - 80, 1))
    length = gaps.gap_weeks[0] + below(w[9], max(gaps.gap_weeks[1] - gaps.gap_weeks[0], 1))
    gap_start = np.where(leaves, np.minimum(gap_start, n_weeks), n_weeks)
    population = Population(
        subject=subject,
        sex=sex,
        race=race,
        site=site,
        smoker=smoker,
        birth_day=birth,
        entry_day=entry,
        n_weeks=n_weeks,
        latent_class=np.zeros(n_subjects, np.int64),
        gap_start=gap_start,
        gap_end=np.minimum(gap_start + length, n_weeks),
    )
    table = class_table(config)
    population.latent_class[:] = choose(w[10], table[population.context(0)]) % N_CLASSES
    return population
