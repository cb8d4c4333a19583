"""Planted faults of visits, details, deaths, periods and persons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from chronoward.data.rules import Rule
from chronoward.data.simulate.events import EVENTS
from chronoward.data.simulate.faults import LOCAL_CONCEPT, Plan, facts_of
from chronoward.data.simulate.omop import ID, TYPE_EHR, Rows
from chronoward.data.simulate.population import day_number
from chronoward.data.simulate.schedule import MINUTES_PER_DAY
from chronoward.data.simulate.tables import NO_TIME, NONE, Columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOUR: Final = 60
RATE: Final = 0.01
PERSONS_PER_TRAP: Final = 2000


def _times(start: NDArray[np.int64], end: NDArray[np.int64], prefix: str = "visit") -> Columns:
    none = end == NO_TIME
    return {
        f"{prefix}_start_date": start // MINUTES_PER_DAY,
        f"{prefix}_start_datetime": start,
        f"{prefix}_end_date": np.where(none, NO_TIME, end // MINUTES_PER_DAY),
        f"{prefix}_end_datetime": end,
    }


def plant_visits(plan: Plan) -> None:
    """Overlaps, emergencies before stays, long outpatient visits, missing ends."""
    clinic = plan.clinic
    shown, course = clinic.shown, clinic.course
    base = plan.tables["visit_occurrence"]
    place = np.array([event.place for event in EVENTS])[course.event[shown]]
    start, end = clinic.visits.start[shown], clinic.visits.end[shown]
    week_key = course.subject[shown] * (1 << 20) + course.week[shown]
    stay, emergency = place == "stay", place == "emergency"
    stay_weeks, n_in_week = np.unique(week_key[stay], return_counts=True)
    alone = np.isin(week_key, stay_weeks[n_in_week == 1])
    calm = ~np.isin(week_key, stay_weeks) & ~np.isin(week_key, week_key[emergency])
    subject_death = clinic.observation.death[course.subject[shown]]
    last_stay = stay & alone & (course.week[shown] == course.death_week[course.subject[shown]])
    last_stay &= subject_death >= 0
    usual = stay & ~last_stay
    safe = (subject_death < 0) | (subject_death > end + 2 * MINUTES_PER_DAY)
    filled = np.isin(np.arange(base.n), _visits_with_records(plan) - 1)
    wishes = [
        ("expired", last_stay, 0.4),
        ("overrun", last_stay, 0.4),
        ("merged", (place == "routine") & (end - start >= 12), RATE),
        ("clamped", (place == "routine") & calm & safe, RATE / 2),
        ("inside", usual & (end - start > 6 * HOUR), 0.05),
        ("linked", usual & alone & ~np.isin(week_key, week_key[emergency]), 0.05),
        ("endless", (place == "clinic") & filled, RATE),
        ("disguised", usual & (end - start >= 24 * HOUR), 0.05),
    ]
    at = plan.pick(40, base.n, wishes)
    _plant_last_stays(plan, at, subject_death)
    _append_visits(plan, at["merged"], start[at["merged"]] + 2, end[at["merged"]] - 2, "OP")
    plan.add(Rule.VISIT_MERGED, len(at["merged"]))
    _append_visits(plan, at["clamped"], start[at["clamped"]] + 3, end[at["clamped"]] + 30, "ER")
    plan.add(Rule.VISIT_OVERLAP_CLAMPED, len(at["clamped"]))
    hour = start[at["inside"]] + 2 * HOUR
    _append_visits(plan, at["inside"], hour, hour + HOUR, "OP")
    plan.add(Rule.OUTPATIENT_IN_STAY, len(at["inside"]))
    before = start[at["linked"]]
    _append_visits(plan, at["linked"], before - 5 * HOUR, before - 2 * HOUR, "ER")
    natural = int((np.isin(week_key, stay_weeks) & emergency).sum())
    plan.add(Rule.ED_LINKED, len(at["linked"]) + natural)
    for column in ("visit_end_date", "visit_end_datetime"):
        plan.set("visit_occurrence", column, at["endless"], NO_TIME)
    plan.add(Rule.MISSING_VISIT_END, len(at["endless"]))
    plan.set("visit_occurrence", "visit_concept_id", at["disguised"], ID["OP"])
    plan.add(Rule.VISIT_INPATIENT_BY_LENGTH, len(at["disguised"]))


def _plant_last_stays(
    plan: Plan, at: dict[str, NDArray[np.int64]], death: NDArray[np.int64]
) -> None:
    """Stays that end with a death that only the discharge tells, or days after the death."""
    for name, minute in (
        ("expired", death[at["expired"]]),
        ("overrun", death[at["overrun"]] + 2 * MINUTES_PER_DAY),
    ):
        plan.set("visit_occurrence", "visit_end_datetime", at[name], minute)
        plan.set("visit_occurrence", "visit_end_date", at[name], minute // MINUTES_PER_DAY)
    plan.add(Rule.VISIT_END_AFTER_DEATH, len(at["overrun"]))
    plan.set("visit_occurrence", "discharged_to_concept_id", at["expired"], ID["expired"])
    plan.add(Rule.DEATH_FROM_DISCHARGE, len(at["expired"]))
    deaths = plan.tables["death"]
    told = plan.tables["visit_occurrence"].columns["person_id"][at["expired"]]
    kept = ~np.isin(deaths.columns["person_id"], told)
    deaths.columns = {
        name: value[kept] if isinstance(value, np.ndarray) else value
        for name, value in deaths.columns.items()
    }
    deaths.n = int(kept.sum())


def plant_late_records(plan: Plan) -> None:
    """Records a little after the end of their emergency visit: the visit is extended to them."""
    clinic, table = plan.clinic, "condition_occurrence"
    facts = facts_of(plan, table)
    visit = plan.tables[table].visit
    key = facts.subject * (1 << 20) + clinic.course.week[visit]
    weeks = clinic.course.subject * (1 << 20) + clinic.course.week
    stays = np.array([event.place == "stay" for event in EVENTS])[clinic.course.event]
    calm = (facts.place == "emergency") & ~np.isin(key, weeks[stays])
    same_day = (facts.end + 10) // MINUTES_PER_DAY == facts.end // MINUTES_PER_DAY
    named = facts.concept == clinic.catalog.index["dyspnea"]
    at = plan.pick(90, plan.tables[table].n, [("late", calm & same_day & named, 0.05)])
    minute = facts.end[at["late"]] + 10
    plan.set(table, "condition_start_datetime", at["late"], minute)
    plan.add(Rule.VISIT_EXTENDED, len(at["late"]))


def _visits_with_records(plan: Plan) -> NDArray[np.int64]:
    """Ids of visits that surely keep a record: named, not touched by other faults."""
    rows = plan.tables["condition_occurrence"]
    named = rows.concept < plan.clinic.catalog.n_named
    ids: NDArray[np.int64] = rows.columns["visit_occurrence_id"][named]
    return ids


def _append_visits(
    plan: Plan,
    rows: NDArray[np.int64],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    concept: str,
) -> None:
    changed: Columns = {"visit_concept_id": np.full(len(rows), ID[concept])}
    changed["discharged_to_concept_id"] = np.zeros(len(rows), np.int64)
    plan.copy("visit_occurrence", rows, changed | _times(start, end))


def plant_details(plan: Plan) -> None:
    """Details without an end, and details that no visit covers."""
    base = plan.tables["visit_detail"]
    everyone = np.ones(base.n, dtype=np.bool_)
    at = plan.pick(50, base.n, [("endless", everyone, 0.03), ("lost", everyone, 0.03)])
    for column in ("visit_detail_end_date", "visit_detail_end_datetime"):
        plan.set("visit_detail", column, at["endless"], NO_TIME)
    plan.add(Rule.MISSING_DETAIL_END, len(at["endless"]))
    subject = base.columns["person_id"][at["lost"]] - 1
    # Before the clinic knew the subject, so no visit is there.
    start = (plan.clinic.population.entry_day[subject] - 40) * MINUTES_PER_DAY + 600
    times = _times(start, start + HOUR, "visit_detail")
    lost = {"visit_occurrence_id": np.full(len(subject), NONE)}
    plan.copy("visit_detail", at["lost"], times | lost)
    plan.add(Rule.DETAIL_WITHOUT_VISIT, len(at["lost"]))


def plant_deaths_and_periods(plan: Plan) -> None:
    """Deaths without a time or told twice; periods that overlap or make no sense."""
    clinic = plan.clinic
    base = plan.tables["death"]
    everyone = np.ones(base.n, dtype=np.bool_)
    at = plan.pick(60, base.n, [("day", everyone, 0.3), ("twice", everyone, 0.1)])
    plan.set("death", "death_datetime", at["day"], NO_TIME)
    plan.add(Rule.DEATH_DATE_ONLY, len(at["day"]))
    columns = base.columns
    later = {
        "death_date": columns["death_date"][at["twice"]] + 1,
        "death_datetime": columns["death_datetime"][at["twice"]] + MINUTES_PER_DAY,
    }
    plan.copy("death", at["twice"], later)
    plan.add(Rule.DEATH_DUPLICATE, len(at["twice"]))

    periods = plan.tables["observation_period"]
    subject = periods.columns["person_id"] - 1
    first, last = (periods.columns[f"observation_period_{x}_date"] for x in ("start", "end"))
    death = clinic.observation.death[subject]
    ends_with_death = (death >= 0) & (last == death // MINUTES_PER_DAY)
    long = (last - first > 60) & ~ends_with_death
    wishes = [("cut", ends_with_death, 0.1), ("over", long, 0.02), ("wrong", long, 0.02)]
    at = plan.pick(61, periods.n, wishes)
    column = "observation_period_end_date"
    plan.set("observation_period", column, at["cut"], last[at["cut"]] + 30)
    plan.add(Rule.PERIOD_CLAMPED, len(at["cut"]))
    over = {"observation_period_start_date": first[at["over"]] + 20}
    plan.copy("observation_period", at["over"], over)
    plan.add(Rule.PERIOD_MERGED, len(at["over"]))
    plan.copy("observation_period", at["wrong"], {column: first[at["wrong"]] - 5})
    plan.add(Rule.PERIOD_INVALID, len(at["wrong"]))


def plant_artificial(plan: Plan) -> None:
    """Records on days on which nobody came; half of them without a time of day."""
    clinic = plan.clinic
    table = "condition_occurrence"
    base = plan.tables[table]
    course = clinic.course
    event = course.event[base.visit]
    key = course.subject[base.visit] * (1 << 20) + course.week[base.visit]
    is_stay = np.array([e.place == "stay" for e in EVENTS])
    stays = course.subject[clinic.shown] * (1 << 20) + course.week[clinic.shown]
    stays = stays[is_stay[course.event[clinic.shown]]]
    subject = course.subject[base.visit]
    routine = np.array([e.place == "routine" for e in EVENTS])[event]
    living = clinic.observation.end_week[subject] > course.week[base.visit] + 1
    calm = routine & ~np.isin(key, stays) & living & (base.concept >= clinic.catalog.n_named)
    at = plan.pick(70, base.n, [("timed", calm, 0.01), ("day", calm, 0.01)])
    for name in ("timed", "day"):
        rows = at[name]
        day = clinic.population.entry_day[subject[rows]] + 7 * course.week[base.visit[rows]] + 5
        minute = day * MINUTES_PER_DAY + 10 * HOUR + rows % 60
        plan.copy(
            table,
            rows,
            {
                "condition_start_date": day,
                "condition_start_datetime": minute
                if name == "timed"
                else np.full(len(rows), NO_TIME),
                "visit_occurrence_id": np.full(len(rows), NONE),
            },
        )
        plan.add(Rule.ARTIFICIAL_VISIT, len(rows))
    plan.add(Rule.DATE_ONLY_DAY, len(at["day"]))


def plant_persons(plan: Plan) -> None:
    """Births without a day; a few more persons: of unknown birth, never observed, newborn."""
    clinic = plan.clinic
    person = plan.tables["person"]
    first = person.columns["day_of_birth"] == 1
    at = plan.pick(80, person.n, [("month", first, 0.5)])
    plan.set("person", "day_of_birth", at["month"], NONE)
    plan.set("person", "birth_datetime", at["month"], NO_TIME)
    plan.add(Rule.BIRTH_IMPUTED, len(at["month"]))
    if not clinic.config.records.trap_ratio:
        return
    n = 1 + person.n // PERSONS_PER_TRAP
    day = day_number("2014-03-03")
    for offset, kind in enumerate(("unborn", "unseen", "newborn")):
        ids = person.n + 1 + 3 * np.arange(n) + offset
        changed: Columns = {"person_id": ids}
        changed["person_source_value"] = pa.array([f"CWT{i:07d}" for i in ids])
        if kind == "unborn":
            none = np.full(n, NONE)
            changed |= dict.fromkeys(("year_of_birth", "month_of_birth", "day_of_birth"), none)
            changed["birth_datetime"] = np.full(n, NO_TIME)
            plan.add(Rule.BIRTH_UNKNOWN, n)
        if kind == "newborn":
            changed |= {
                "year_of_birth": np.full(n, 2014),
                "month_of_birth": np.full(n, 3),
                "day_of_birth": np.full(n, 3),
                "birth_datetime": np.full(n, day * MINUTES_PER_DAY),
            }
        plan.copy("person", np.zeros(n, np.int64), changed)
        _append_life(plan, ids, day, kind)


def _append_life(plan: Plan, ids: NDArray[np.int64], day: int, kind: str) -> None:
    """One visit with one record, a period for those who are observed, and what is unborn."""
    n = len(ids)
    start = np.full(n, (day + 10) * MINUTES_PER_DAY + 600)
    visits = plan.tables["visit_occurrence"]
    visit_id = visits.n + sum(k for k, _ in visits.extra) + 1 + np.arange(n)
    row = np.zeros(n, np.int64)
    who: Columns = {"person_id": ids}
    visit = {"visit_concept_id": np.full(n, ID["OP"])}
    plan.copy("visit_occurrence", row, who | visit | _times(start, start + 30))
    record = {
        "condition_concept_id": np.full(n, LOCAL_CONCEPT),
        "condition_start_date": start // MINUTES_PER_DAY,
        "condition_start_datetime": start + 5,
        "condition_type_concept_id": np.full(n, TYPE_EHR),
        "visit_occurrence_id": visit_id,
    }
    plan.copy("condition_occurrence", row, who | record)
    plan.add(Rule.LOCAL_CONCEPT, n)
    if kind == "unseen":
        plan.add(Rule.OBSERVATION_IMPUTED, n)
        return
    period = {
        "observation_period_start_date": np.full(n, day),
        "observation_period_end_date": np.full(n, day + 700),
    }
    plan.copy("observation_period", row, who | period)
    if kind == "newborn":
        early = np.full(n, (day - 60) * MINUTES_PER_DAY + 600)
        prenatal = {
            "condition_start_date": early // MINUTES_PER_DAY,
            "condition_start_datetime": early,
            "visit_occurrence_id": np.full(n, NONE),
        }
        plan.copy("condition_occurrence", row, who | record | prenatal)
        plan.add(Rule.PRENATAL, n)
        plan.add(Rule.LOCAL_CONCEPT, n)
        plan.add(Rule.ARTIFICIAL_VISIT, n)


def plant_unread_table(plan: Plan) -> None:
    """Eras are derived, so ingestion leaves them out: a few rows of a table that is not used.

    Counts the places too, which are not about persons.
    """
    plan.add(Rule.NOT_ABOUT_A_PERSON, sum(plan.tables[t].n for t in ("care_site", "location")))
    n = min(100, len(plan.clinic.population.subject))
    if not plan.clinic.config.records.trap_ratio:
        return
    entry = plan.clinic.population.entry_day[:n]
    plan.tables["condition_era"] = Rows(
        {
            "condition_era_id": np.arange(n) + 1,
            "person_id": np.arange(n) + 1,
            "condition_concept_id": np.full(n, 316139),
            "condition_era_start_date": entry,
            "condition_era_end_date": entry + 30,
            "condition_occurrence_count": np.ones(n, np.int64),
        },
        n,
    )
    plan.add(Rule.TABLE_NOT_USED, n)
