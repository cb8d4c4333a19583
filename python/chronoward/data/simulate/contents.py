"""What the records of a visit are: the drawn panel, and noise that only its event decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from chronoward.data.simulate.draws import (
    Draws,
    Purpose,
    below,
    choose,
    cumulative,
    happens,
    integer_probability,
)
from chronoward.data.simulate.events import DIAGNOSIS_DELAY, EVENTS, ROUTINE
from chronoward.data.simulate.panel import ABSENT, LABS, Panel
from chronoward.data.simulate.population import day_number
from chronoward.data.simulate.schedule import MINUTES_PER_DAY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.data.simulate.concepts import Catalog
    from chronoward.data.simulate.config import SimulationConfig
    from chronoward.data.simulate.course import Course
    from chronoward.data.simulate.population import Population
    from chronoward.data.simulate.schedule import Visits

ROUND_MINUTES: Final = 8 * 60
"""Records of a stay are charted at most this far apart."""

# Codes of each event with their probabilities. The first code of an outcome's event is the outcome
# and always recorded; labs named here come once (visits) or once a day (stays), with values that
# do not depend on anything hidden.
_CONTENTS: Final = """
flare: flare=1 wheezing=0.5 prednisone=0.6 albuterol=0.7 sodium=0.8 potassium=0.8 hemoglobin=0.6
heart_symptom: dyspnea=0.85 edema=0.5 electrocardiogram=0.8 potassium=0.6
heart_drug_start: lisinopril_10=1
heart_drug_refill: lisinopril_10=1
heart_diagnosis: heart_failure=1 dyspnea=0.7 edema=0.6 echocardiography=0.9 furosemide_40=0.8
    sodium=0.8 potassium=0.8 hemoglobin=0.5
heart_clinic_reduced: heart_failure=0.8 reduced=0.9 metoprolol=0.6 potassium=0.7
heart_clinic_preserved: heart_failure=0.8 preserved=0.9 furosemide_40=0.6 potassium=0.7
heart_acute_reduced: heart_failure=0.95 dyspnea=0.8 furosemide_40=0.9 pacemaker=0.15 sodium=0.9
    potassium=0.9 hemoglobin=0.5
heart_acute_preserved: heart_failure=0.95 dyspnea=0.8 atrial_fibrillation=0.5 furosemide_40=0.9
    sodium=0.9 potassium=0.9 hemoglobin=0.5
dementia_diagnosis: dementia=1 donepezil=0.4
dementia_clinic: dementia=0.8 donepezil=0.5
knee_diagnosis: knee_osteoarthritis=1 knee_x_ray=0.9 acetaminophen=0.6
knee_clinic: knee_osteoarthritis=0.8 acetaminophen=0.4
knee_replacement: knee_osteoarthritis=0.9 knee_replacement=1 acetaminophen_hydrocodone=0.9
    hemoglobin=0.9
cancer_diagnosis_local: lung_cancer=1 local=0.95 hemoglobin=0.8
cancer_diagnosis_regional: lung_cancer=1 regional=0.95 hemoglobin=0.8
cancer_diagnosis_metastatic: lung_cancer=1 metastatic=0.95 hemoglobin=0.8
cancer_line_1_local: lung_cancer=0.9 lobectomy=0.35 hemoglobin=0.7
cancer_line_1_regional: lung_cancer=0.9 chemotherapy=0.9 carboplatin_10=0.95 hemoglobin=0.8
cancer_line_1_metastatic: lung_cancer=0.9 chemotherapy=0.9 carboplatin_10=0.9 pemetrexed=0.9
    hemoglobin=0.8
cancer_line_2: lung_cancer=0.9 pembrolizumab=0.95 hemoglobin=0.8
cancer_palliative: lung_cancer=0.9 morphine=0.7
cancer_follow_up: lung_cancer=0.7 hemoglobin=0.5
diabetes_diagnosis: diabetes=1 metformin_500=0.3
diabetes_clinic: diabetes=0.8
diabetes_refill: metformin_500=1
independent: appendicitis=1 appendectomy=0.9 hemoglobin=0.8
dialysis: kidney_failure=0.7 hemodialysis=1 potassium=0.9 hemoglobin=0.6 catheter=0.03
"""


def _parse(text: str) -> dict[str, tuple[tuple[str, float], ...]]:
    """Reads `event: code=probability ...`; an indented line continues the one above."""
    lines = text.strip().replace("\n   ", "").splitlines()
    split = (line.split(": ") for line in lines)
    pairs = ((name, (item.split("=") for item in items.split())) for name, items in split)
    return {name: tuple((key, float(p)) for key, p in items) for name, items in pairs}


CONTENTS: Final = _parse(_CONTENTS)
BACKGROUND_SHARES: Final = {
    "routine": 1.0,
    "clinic": 0.5,
    "pharmacy": 0.0,
    "emergency": 1.0,
    "stay": 1.6,
}
MAX_BACKGROUND: Final = 6
NO_CODE: Final = -1


@dataclass(frozen=True, eq=False)
class Records:
    """Everything that was written down at visits, [n_records] each, by visit, then time.

    Attributes:
        visit: index of the visit (event) it belongs to.
        concept: index into the catalog.
        minute: when, minutes since 1970; inside the visit.
        value: float64, NaN where there is none.
        unit: index of the lab in `LABS`, -1 where there is none.
        answer: 0 none, 1 smoker, 2 never smoker.
    """

    visit: NDArray[np.int64]
    concept: NDArray[np.int64]
    minute: NDArray[np.int64]
    value: NDArray[np.float64]
    unit: NDArray[np.int64]
    answer: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Records:
        """The given rows."""
        return Records(
            self.visit[rows], self.concept[rows], self.minute[rows], self.value[rows],
            self.unit[rows], self.answer[rows],
        )  # fmt: skip


_NONE: Final = np.zeros(0, np.int64)
NO_RECORDS: Final = Records(_NONE, _NONE, _NONE, np.zeros(0), _NONE, _NONE)


class _Collector:
    """Gathers columns of records."""

    def __init__(self) -> None:
        self.parts: list[tuple[NDArray[np.int64], ...]] = []
        self.values: list[NDArray[np.float64]] = []

    def add(
        self,
        visit: NDArray[np.int64],
        concept: NDArray[np.int64] | int,
        minute: NDArray[np.int64],
        *,
        value: NDArray[np.float64] | None = None,
        unit: int = -1,
        answer: NDArray[np.int64] | int = 0,
    ) -> None:
        n = len(visit)
        full = [np.broadcast_to(np.asarray(c, np.int64), (n,)) for c in (concept, unit, answer)]
        self.parts.append((visit, full[0], minute, full[1], full[2]))
        self.values.append(np.full(n, np.nan) if value is None else value)

    def records(self, visits: Visits) -> Records:
        visit, concept, minute, unit, answer = (
            np.concatenate([part[i] for part in self.parts] or [np.zeros(0, np.int64)])
            for i in range(5)
        )
        value = np.concatenate(self.values or [np.zeros(0)])
        # Exactly midnight would read as a date without a time.
        midnight = minute % MINUTES_PER_DAY == 0
        minute = minute + np.where(midnight, np.where(minute < visits.end[visit], 1, -1), 0)
        order = np.lexsort((concept, minute, visit))
        return Records(visit, concept, minute, value, unit, answer).take(order)


def _inside(visits: Visits, rows: NDArray[np.int64], word: NDArray[np.uint32]) -> NDArray[np.int64]:
    """A minute inside each visit: short visits are charted at their end, stays in rounds.

    Most records of a real hospital share their timestamp with others (97.5 % in MIMIC), and a
    minute of its own for each would only be noise to learn.
    """
    start, end = visits.start[rows], visits.end[rows]
    drawn = start + below(word, end - start + 1)
    round_end = -(-drawn // ROUND_MINUTES) * ROUND_MINUTES
    return np.where(end - start < MINUTES_PER_DAY, end, np.minimum(round_end, end))


def routine_levels(course: Course) -> NDArray[np.int64]:
    """Rows of the course that are routine visits."""
    return np.flatnonzero(course.event == ROUTINE)


def write_contents(
    config: SimulationConfig,
    catalog: Catalog,
    draws: Draws,
    population: Population,
    course: Course,
    visits: Visits,
    panel: Panel,
    held: NDArray[np.int8],
) -> Records:
    """Writes down what happened at every visit.

    Args:
        config: the clinic.
        catalog: its concepts.
        draws: the simulation's draws.
        population: who.
        course: what happened.
        visits: when.
        panel: the routine visit's items.
        held: int8 [n_routine, n_items], what each routine visit holds.

    Returns:
        All records, also of weeks that nobody will observe.
    """
    out = _Collector()
    routine = routine_levels(course)
    _write_panel(out, catalog, draws, course, visits, panel, held, routine)
    _write_smoking(out, catalog, population, course, visits, routine)
    for number, event in enumerate(EVENTS):
        if event.name in CONTENTS:
            rows = np.flatnonzero(course.event == number)
            _write_event(out, catalog, draws, course, visits, number, rows)
    _write_background(out, config, catalog, draws, population, course, visits)
    return out.records(visits)


def _write_panel(
    out: _Collector,
    catalog: Catalog,
    draws: Draws,
    course: Course,
    visits: Visits,
    panel: Panel,
    held: NDArray[np.int8],
    routine: NDArray[np.int64],
) -> None:
    words = draws.words(
        Purpose.CONTENT, course.subject[routine], len(panel.items), week=course.week[routine]
    )
    labs = list(LABS)
    for k, item in enumerate(panel.items):
        hits = np.flatnonzero(held[:, k] != ABSENT)
        rows = routine[hits]
        minute = _inside(visits, rows, words[k][hits])
        concept = catalog.index[item.key]
        if item.key in LABS:
            value = LABS[item.key].values()[held[hits, k]]
            out.add(rows, concept, minute, value=value, unit=labs.index(item.key))
        else:
            out.add(rows, concept, minute)


def _write_smoking(
    out: _Collector,
    catalog: Catalog,
    population: Population,
    course: Course,
    visits: Visits,
    routine: NDArray[np.int64],
) -> None:
    """Smoking is asked at a subject's first routine visit."""
    _, first = np.unique(course.subject[routine], return_index=True)
    rows = routine[first]
    answer = np.where(population.smoker[course.subject[rows]] == 1, 1, 2)
    out.add(rows, catalog.index["smoking"], visits.start[rows], answer=answer)


def _write_event(
    out: _Collector,
    catalog: Catalog,
    draws: Draws,
    course: Course,
    visits: Visits,
    number: int,
    rows: NDArray[np.int64],
) -> None:
    event = EVENTS[number]
    for k, (key, probability) in enumerate(CONTENTS[event.name]):
        words = draws.words(
            Purpose.CONTENT, course.subject[rows], 8, week=course.week[rows], item=64 * number + k
        )
        p = int(integer_probability(probability))
        if event.place == "stay" and key in LABS:
            _write_daily(out, catalog, visits, rows, key, (words, p))
            continue
        hits = np.flatnonzero(happens(words[0], p))
        minute = _inside(visits, rows[hits], words[1][hits])
        if k == 0 and event.outcome and event.place == "stay":
            minute = visits.start[rows[hits]] + DIAGNOSIS_DELAY
        _add(out, catalog, key, rows[hits], minute, words[2][hits])


def _write_daily(
    out: _Collector,
    catalog: Catalog,
    visits: Visits,
    rows: NDArray[np.int64],
    key: str,
    chance: tuple[NDArray[np.uint32], int],
) -> None:
    """A lab each started day of a stay (stays are shorter than four days)."""
    words, p = chance
    for day in range(3):
        minute = visits.start[rows] + day * MINUTES_PER_DAY + 30 + below(words[2 * day], 300)
        hits = np.flatnonzero((minute <= visits.end[rows]) & happens(words[2 * day + 1], p))
        _add(out, catalog, key, rows[hits], minute[hits], words[7][hits] ^ words[2 * day][hits])


def _add(
    out: _Collector,
    catalog: Catalog,
    key: str,
    rows: NDArray[np.int64],
    minute: NDArray[np.int64],
    word: NDArray[np.uint32],
) -> None:
    concept = catalog.index[key]
    if key in LABS:
        bins = choose(word, cumulative(LABS[key].distribution(32.0)))
        out.add(rows, concept, minute, value=LABS[key].values()[bins], unit=list(LABS).index(key))
    else:
        out.add(rows, concept, minute)


def _poisson_table(mean: float) -> NDArray[np.int64]:
    weights = [1.0]
    for k in range(1, MAX_BACKGROUND + 1):
        weights.append(weights[-1] * mean / k)
    return cumulative(np.array(weights))


def _write_background(
    out: _Collector,
    config: SimulationConfig,
    catalog: Catalog,
    draws: Draws,
    population: Population,
    course: Course,
    visits: Visits,
) -> None:
    places = np.array([event.place for event in EVENTS])[course.event]
    site = population.site[course.subject]
    zipf = [cumulative(weights) for weights in catalog.site_weights]
    for place, share in BACKGROUND_SHARES.items():
        rows = np.flatnonzero(places == place)
        if share == 0.0 or not len(rows):
            continue
        # item 1, 2, ...: the panel uses item 0, the events 64 and up
        words = draws.words(
            Purpose.CONTENT, course.subject[rows], 1 + 2 * MAX_BACKGROUND,
            week=course.week[rows], item=1 + course.event[rows],
        )  # fmt: skip
        n_codes = choose(words[0], _poisson_table(config.visits.background_codes * share))
        codes = np.full((MAX_BACKGROUND, len(rows)), NO_CODE, np.int64)
        for k in range(MAX_BACKGROUND):
            for s in (0, 1):
                hits = np.flatnonzero((n_codes > k) & (site[rows] == s))
                codes[k, hits] = choose(words[1 + 2 * k][hits], zipf[s])
            # A code once a visit: a second one would be a duplicate that nobody planted.
            hits = np.flatnonzero((codes[k] != NO_CODE) & ~(codes[:k] == codes[k]).any(axis=0))
            minute = _inside(visits, rows[hits], words[2 + 2 * k][hits])
            out.add(rows[hits], catalog.n_named + codes[k, hits], minute)


def is_late(config: SimulationConfig, visits: Visits, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether visits start at or after the drift."""
    return visits.start[rows] >= day_number(config.calendar.drift) * MINUTES_PER_DAY
