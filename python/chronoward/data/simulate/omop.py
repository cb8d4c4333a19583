"""From visits and records to the rows of the CDM tables."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from chronoward.data.simulate.concepts import DOMAINS, INGREDIENTS, STRUCTURAL, Catalog
from chronoward.data.simulate.draws import Draws, Purpose, happens, integer_probability
from chronoward.data.simulate.events import EVENTS
from chronoward.data.simulate.panel import LABS
from chronoward.data.simulate.population import day_number
from chronoward.data.simulate.schedule import MINUTES_PER_DAY
from chronoward.data.simulate.tables import NONE, Columns, strings

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from chronoward.data.simulate.config import SimulationConfig
    from chronoward.data.simulate.contents import Records
    from chronoward.data.simulate.course import Course
    from chronoward.data.simulate.population import Population
    from chronoward.data.simulate.schedule import Observation, Visits

ID = {concept.key: concept.concept_id for concept in STRUCTURAL}
UNITS = tuple(dict.fromkeys(lab.unit for lab in LABS.values()))
TYPE_EHR, TYPE_BILLING, TYPE_DISPENSED, TYPE_GIVEN, TYPE_LAB = 32817, 32821, 32825, 32818, 32856
_PLACES = ("routine", "clinic", "pharmacy", "emergency", "stay")
_PLACE = np.array([_PLACES.index(event.place) for event in EVENTS])
_OUTCOME = np.array([bool(event.outcome) for event in EVENTS])


@dataclass
class Rows:
    """Rows of one table: its columns, all of one length, and how many.

    Attributes:
        columns: name -> array, or one value for all rows.
        n: rows, without the extra ones.
        visit, concept: of clinical records, int64 [n]: row of the course, index into the catalog.
        extra: planted rows: how many, and their columns.
        text: columns written as text, because a planted value is not of their type.
        patches: (column, rows, texts) of such values.
    """

    columns: Columns
    n: int
    visit: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    concept: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    extra: list[tuple[int, Columns]] = field(default_factory=list)
    text: tuple[str, ...] = ()
    patches: list[tuple[str, NDArray[np.int64], list[str | None]]] = field(default_factory=list)

    @property
    def n_written(self) -> int:
        """Rows with the extra ones."""
        return self.n + sum(n for n, _ in self.extra)


def person_rows(population: Population) -> Rows:
    """The person table."""
    n = len(population.subject)
    birth = population.birth_day.astype("datetime64[D]")
    month = birth.astype("datetime64[M]")
    year = birth.astype("datetime64[Y]")
    sex = np.array([ID["F"], ID["M"]])[population.sex]
    race = np.array([ID["white"], ID["black"], ID["asian"]])[population.race]
    return Rows(
        {
            "person_id": population.subject + 1,
            "gender_concept_id": sex,
            "year_of_birth": year.astype(np.int64) + 1970,
            "month_of_birth": (month - year.astype("datetime64[M]")).astype(np.int64) + 1,
            "day_of_birth": (birth - month.astype("datetime64[D]")).astype(np.int64) + 1,
            "birth_datetime": population.birth_day * MINUTES_PER_DAY,
            "race_concept_id": race,
            "ethnicity_concept_id": ID["not_hispanic"],
            "location_id": population.site + 1,
            "care_site_id": population.site + 1,
            "person_source_value": strings(population.subject, [f"CW{s:07d}" for s in range(n)]),
            "gender_source_value": strings(population.sex, ["F", "M"]),
            "gender_source_concept_id": 0,
            "race_source_value": strings(population.race, ["white", "black", "asian"]),
            "race_source_concept_id": 0,
            "ethnicity_source_value": "not hispanic",
            "ethnicity_source_concept_id": 0,
        },
        n,
    )


def period_rows(observation: Observation) -> Rows:
    """The observation_period table."""
    order = np.lexsort((observation.period_start, observation.period_subject))
    return Rows(
        {
            "observation_period_id": np.arange(len(order)) + 1,
            "person_id": observation.period_subject[order] + 1,
            "observation_period_start_date": observation.period_start[order],
            "observation_period_end_date": observation.period_end[order],
            "period_type_concept_id": 32882,
        },
        len(order),
    )


def death_rows(observation: Observation) -> Rows:
    """The death table."""
    dead = np.flatnonzero(observation.death >= 0)
    return Rows(
        {
            "person_id": dead + 1,
            "death_date": observation.death[dead] // MINUTES_PER_DAY,
            "death_datetime": observation.death[dead],
            "death_type_concept_id": TYPE_EHR,
        },
        len(dead),
    )


def visit_rows(
    config: SimulationConfig,
    draws: Draws,
    population: Population,
    course: Course,
    visits: Visits,
    shown: NDArray[np.int64],
) -> Rows:
    """The visit_occurrence table, one row for each shown event; its id is the row + 1."""
    subject, event = course.subject[shown], course.event[shown]
    place = _PLACE[event]
    concept = np.array([ID["OP"], ID["OP"], ID["pharmacy"], ID["ER"], ID["IP"]])[place]
    drift = day_number(config.calendar.drift) * MINUTES_PER_DAY
    w = draws.words(Purpose.SCHEDULE, subject, 2, week=course.week[shown], item=1000 + event)
    share = int(integer_probability(config.records.drift_remote_share))
    remote = (place == 0) & (visits.start[shown] >= drift) & happens(w[0], share)
    concept = np.where(remote, ID["remote"], concept)
    stay = place == _PLACES.index("stay")
    nursing = happens(w[1], int(integer_probability(0.15)))
    discharged = np.where(stay, np.where(nursing, ID["nursing"], ID["home"]), 0)
    return Rows(
        {
            "visit_occurrence_id": np.arange(len(shown)) + 1,
            "person_id": subject + 1,
            "visit_concept_id": concept,
            "visit_start_date": visits.start[shown] // MINUTES_PER_DAY,
            "visit_start_datetime": visits.start[shown],
            "visit_end_date": visits.end[shown] // MINUTES_PER_DAY,
            "visit_end_datetime": visits.end[shown],
            "visit_type_concept_id": TYPE_EHR,
            "care_site_id": population.site[subject] + 1,
            "visit_source_value": strings(place, list(_PLACES)),
            "visit_source_concept_id": 0,
            "discharged_to_concept_id": discharged,
        },
        len(shown),
    )


def detail_rows(course: Course, visits: Visits, shown: NDArray[np.int64], draws: Draws) -> Rows:
    """The visit_detail table: some stays begin in intensive care."""
    subject, event = course.subject[shown], course.event[shown]
    w = draws.words(Purpose.SCHEDULE, subject, 2, week=course.week[shown], item=2000 + event)
    stay = _PLACE[event] == _PLACES.index("stay")
    rows = np.flatnonzero(stay & happens(w[0], int(integer_probability(0.2))))
    start = visits.start[shown[rows]]
    length = (visits.end[shown[rows]] - start) // 2
    return Rows(
        {
            "visit_detail_id": np.arange(len(rows)) + 1,
            "person_id": subject[rows] + 1,
            "visit_detail_concept_id": ID["ICU"],
            "visit_detail_start_date": start // MINUTES_PER_DAY,
            "visit_detail_start_datetime": start,
            "visit_detail_end_date": (start + length) // MINUTES_PER_DAY,
            "visit_detail_end_datetime": start + length,
            "visit_detail_type_concept_id": TYPE_EHR,
            "visit_detail_source_concept_id": 0,
            "visit_occurrence_id": rows + 1,
        },
        len(rows),
    )


@dataclass(frozen=True, eq=False)
class Shown:
    """Records of observed visits, ready to be laid out by table.

    Attributes:
        records: the rows.
        subject: int64 [n].
        visit_id: int64 [n], of the visit_occurrence row.
        is_stay: bool [n].
        is_billed: bool [n]: a condition of a stay that billing wrote.
        event: int64 [n].
        visit_start: int64 [n], minutes.
    """

    records: Records
    subject: NDArray[np.int64]
    visit_id: NDArray[np.int64]
    is_stay: NDArray[np.bool_]
    is_billed: NDArray[np.bool_]
    event: NDArray[np.int64]
    visit_start: NDArray[np.int64]


def show_records(
    records: Records,
    catalog: Catalog,
    course: Course,
    visits: Visits,
    shown: NDArray[np.int64],
) -> Shown:
    """Keeps the records of shown events and decides which conditions billing stamps.

    Billing writes the background diagnoses of stays and stamps them with the stay's start; named
    ones come from the wards, at the time at which they were known.
    """
    visit_id = np.full(len(course.event), NONE, dtype=np.int64)
    visit_id[shown] = np.arange(len(shown)) + 1
    kept = records.take(np.flatnonzero(visit_id[records.visit] > 0))
    event = course.event[kept.visit]
    stay = _PLACE[event] == _PLACES.index("stay")
    condition = catalog.domain[kept.concept] == DOMAINS.index("Condition")
    subject = course.subject[kept.visit]
    named = kept.concept < catalog.n_named
    billed = stay & condition & ~named
    start = visits.start[kept.visit]
    minute = np.where(billed, start, kept.minute)
    return Shown(
        records=dataclasses.replace(kept, minute=minute),
        subject=subject,
        visit_id=visit_id[kept.visit],
        is_stay=stay,
        is_billed=billed,
        event=event,
        visit_start=start,
    )


_SHAPES = {
    # domain: table, prefix of the concept, type and source columns, prefix of date and datetime
    "Condition": ("condition_occurrence", "condition", "condition_start"),
    "Drug": ("drug_exposure", "drug", "drug_exposure_start"),
    "Procedure": ("procedure_occurrence", "procedure", "procedure"),
    "Measurement": ("measurement", "measurement", "measurement"),
    "Observation": ("observation", "observation", "observation"),
    "Device": ("device_exposure", "device", "device_exposure_start"),
}
TABLES = {domain: shape[0] for domain, shape in _SHAPES.items()}


def domain_rows(
    config: SimulationConfig, catalog: Catalog, population: Population, shown: Shown, domain: str
) -> Rows:
    """One clinical table."""
    table, prefix, dated = _SHAPES[domain]
    r = shown.records
    rows = np.flatnonzero(catalog.domain[r.concept] == DOMAINS.index(domain))
    concept, minute, subject = r.concept[rows], r.minute[rows], shown.subject[rows]
    switch = day_number(config.calendar.coding_switch) * MINUTES_PER_DAY
    key = "condition_occurrence_id" if domain == "Condition" else f"{table}_id"
    columns: Columns = {
        key: np.arange(len(rows)) + 1,
        "person_id": subject + 1,
        f"{prefix}_concept_id": catalog.concept_id[concept],
        f"{dated}_date": minute // MINUTES_PER_DAY,
        f"{dated}_datetime": minute,
        f"{prefix}_type_concept_id": _types(shown, rows, domain),
        "visit_occurrence_id": shown.visit_id[rows],
        f"{prefix}_source_value": _source_values(
            catalog, concept, population.site[subject], minute >= switch
        ),
        f"{prefix}_source_concept_id": 0,
    }
    columns |= _extra(domain, catalog, r, rows, minute)
    return Rows(columns, len(rows), visit=r.visit[rows], concept=concept)


def _types(shown: Shown, rows: NDArray[np.int64], domain: str) -> NDArray[np.int64]:
    if domain == "Condition":
        return np.where(shown.is_billed[rows], TYPE_BILLING, TYPE_EHR)
    if domain == "Drug":
        return np.where(shown.is_stay[rows], TYPE_GIVEN, TYPE_DISPENSED)
    return np.full(len(rows), TYPE_LAB if domain == "Measurement" else TYPE_EHR, np.int64)


def _source_values(
    catalog: Catalog,
    concept: NDArray[np.int64],
    site: NDArray[np.int64],
    after: NDArray[np.bool_],
) -> pa.Array:
    """Local codes: of one scheme before the coding switch, of another after it, by site."""
    names = [
        f"{site_name}-{scheme}-{c.code}"
        for site_name in ("A", "B")
        for scheme in ("OLD", "NEW")
        for c in catalog.concepts
    ]
    n = len(catalog.concepts)
    index = (site * 2 + after.astype(np.int64)) * n + concept
    return strings(index, names)


def _extra(
    domain: str,
    catalog: Catalog,
    records: Records,
    rows: NDArray[np.int64],
    minute: NDArray[np.int64],
) -> Columns:
    day = minute // MINUTES_PER_DAY
    if domain == "Drug":
        supply = np.where(np.isin(records.concept[rows], _refilled(catalog)), 90, 14)
        return {
            "drug_exposure_end_date": day + supply - 1,
            "days_supply": supply,
            "quantity": supply.astype(np.float64),
        }
    if domain == "Condition":
        return {"condition_status_source_value": None}
    if domain == "Measurement":
        unit = records.unit[rows]
        lab_unit = np.array([UNITS.index(lab.unit) for lab in LABS.values()])
        known = np.where(unit >= 0, lab_unit[unit], NONE)
        unit_id = np.array([ID[u] for u in UNITS])
        return {
            "value_as_number": records.value[rows],
            "unit_concept_id": np.where(known >= 0, unit_id[known], NONE),
            "unit_source_value": strings(known, list(UNITS)),
        }
    if domain == "Observation":
        answer = records.answer[rows]
        return {
            "value_as_concept_id": np.array([NONE, ID["yes_smoker"], ID["no_smoker"]])[answer],
        }
    return {}


def _refilled(catalog: Catalog) -> list[int]:
    return [catalog.index[key] for key in INGREDIENTS if key in ("lisinopril_10", "metformin_500")]


def observed_events(
    observation: Observation, population: Population, course: Course
) -> NDArray[np.int64]:
    """Rows of the course that the record shows."""
    return np.flatnonzero(observation.covers(population, course.subject, course.week))
