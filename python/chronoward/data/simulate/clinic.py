"""One simulated clinic in memory, and its tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chronoward.data.simulate.chains import N_CLASSES, Table
from chronoward.data.simulate.concepts import Catalog, build_catalog
from chronoward.data.simulate.contents import (
    NO_RECORDS,
    Records,
    is_late,
    routine_levels,
    write_contents,
)
from chronoward.data.simulate.course import Course, simulate_course
from chronoward.data.simulate.diseases import compile_chains
from chronoward.data.simulate.draws import Draws
from chronoward.data.simulate.events import DIAGNOSIS_DELAY
from chronoward.data.simulate.omop import (
    TABLES,
    Rows,
    death_rows,
    detail_rows,
    domain_rows,
    observed_events,
    period_rows,
    person_rows,
    show_records,
    visit_rows,
)
from chronoward.data.simulate.panel import Panel, compile_panel, draw_panel, item_levels
from chronoward.data.simulate.population import Population, day_number, draw_population
from chronoward.data.simulate.schedule import IS_STAY, Observation, Visits, observe, schedule
from chronoward.data.simulate.vocabulary import vocabulary_tables
from chronoward.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.data.simulate.config import SimulationConfig

MAX_SUBJECTS = 1 << 24


@dataclass(frozen=True, eq=False)
class Clinic:
    """Everything about a simulation: the hidden course and what was written down of it.

    Attributes:
        held: int8 [n_routine, n_items], the panel of each routine visit, in the course's order.
        shown: int64, rows of the course that the record shows.
    """

    config: SimulationConfig
    seed: int
    catalog: Catalog
    chains: tuple[Table, ...]
    panel: Panel
    draws: Draws
    population: Population
    course: Course
    visits: Visits
    observation: Observation
    held: NDArray[np.int8]
    records: Records
    shown: NDArray[np.int64]

    def outcome_minute(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """When the outcomes of these rows of the course are recorded, minutes since 1970."""
        delay = np.where(IS_STAY[self.course.event[rows]], DIAGNOSIS_DELAY, 0)
        return self.visits.start[rows] + delay


def run_clinic(
    config: SimulationConfig, n_subjects: int, seed: int, *, write: bool = True
) -> Clinic:
    """Simulates a clinic in memory.

    Args:
        config: its rates.
        n_subjects: at least 1, at most 2^24.
        seed: any integer.
        write: also what visits hold besides the panel (the truth does not need it).

    Raises:
        ConfigError: an impossible number of subjects, or rates that exceed a week.
    """
    if not 1 <= n_subjects <= MAX_SUBJECTS:
        message = f"n_subjects must be between 1 and {MAX_SUBJECTS}, got {n_subjects}"
        raise ConfigError(message)
    draws, chains, panel = Draws(seed), compile_chains(config), compile_panel(config)
    catalog = build_catalog(config)
    population = draw_population(config, draws, n_subjects)
    course = simulate_course(chains, draws, population)
    visits = schedule(course, population, draws)
    observation = observe(config, course, population, draws)
    routine = routine_levels(course)
    levels = item_levels(
        panel, population.latent_class[course.subject[routine]] % N_CLASSES, course.routine_state
    )
    late = is_late(config, visits, routine)
    held = draw_panel(panel, draws, course.subject[routine], course.week[routine], levels, late)
    records = NO_RECORDS
    if write:
        records = write_contents(config, catalog, draws, population, course, visits, panel, held)
    return Clinic(
        config, seed, catalog, chains, panel, draws, population, course, visits, observation,
        held, records, observed_events(observation, population, course),
    )  # fmt: skip


def _source_rows(config: SimulationConfig, seed: int) -> Rows:
    extract = day_number(config.calendar.end)
    return Rows(
        {
            "cdm_source_name": "chronoward simulated clinic (synthetic)",
            "cdm_source_abbreviation": "CWSIM",
            "cdm_holder": "nobody: synthetic subjects",
            "source_description": f"synthetic; seed {seed}",
            "source_release_date": np.array([extract]),
            "cdm_release_date": np.array([extract]),
            "cdm_version": "5.4",
            "cdm_version_concept_id": 756265,
            "vocabulary_version": "chronoward clinic",
        },
        1,
    )


def _site_tables() -> dict[str, Rows]:
    ids = np.array([1, 2])
    names = np.array(["Site A", "Site B"], dtype=object)
    return {
        "location": Rows({"location_id": ids, "location_source_value": names}, 2),
        "care_site": Rows(
            {
                "care_site_id": ids,
                "care_site_name": names,
                "location_id": ids,
                "care_site_source_value": names,
            },
            2,
        ),
    }


def clinic_tables(clinic: Clinic) -> dict[str, Rows]:
    """All CDM tables of a clinic, before faults are planted."""
    c = clinic
    shown = show_records(c.records, c.catalog, c.course, c.visits, c.shown)
    tables = {
        "person": person_rows(c.population),
        "observation_period": period_rows(c.observation),
        "visit_occurrence": visit_rows(
            c.config, c.draws, c.population, c.course, c.visits, c.shown
        ),
        "visit_detail": detail_rows(c.course, c.visits, c.shown, c.draws),
        "death": death_rows(c.observation),
        "cdm_source": _source_rows(c.config, c.seed),
    }
    for domain, name in TABLES.items():
        tables[name] = domain_rows(c.config, c.catalog, c.population, shown, domain)
    return tables | _site_tables() | vocabulary_tables(c.catalog)
