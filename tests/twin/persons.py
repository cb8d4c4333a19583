"""Persons of an OMOP source: birth, death, observation periods, and who is left out."""

from __future__ import annotations

import calendar
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from tests.twin.source import Cells, Row
from tests.twin.times import day, day_end, earliest, is_midnight, latest

from chronoward.data.rules import Rule

if TYPE_CHECKING:
    from tests.twin.events import Mended

    from chronoward.data import IngestConfig


@dataclass(eq=False)
class Person:
    """A row of person."""

    key: str
    subject: int
    gender: int | None
    race: int | None
    ethnicity: int | None
    birth: datetime | None
    removed: Rule | None
    changes: set[Rule] = field(default_factory=set)
    death: datetime | None = None


@dataclass
class Persons:
    """All persons of a source, and the rules that look at a record's person."""

    by_id: dict[int, Person]
    excluded: set[int]

    def removal(self, subject: int | None) -> Rule | None:
        """The rule that removes a record of a subject, whatever else it says."""
        if subject is None:
            return Rule.MISSING_SUBJECT
        if subject in self.excluded:
            return Rule.EXCLUDED_SUBJECT
        return None if subject in self.by_id else Rule.UNKNOWN_PERSON

    def birth(self, subject: int | None) -> datetime | None:
        return self.by_id[subject].birth if subject in self.by_id else None

    def death(self, subject: int | None) -> datetime | None:
        return self.by_id[subject].death if subject in self.by_id else None

    @property
    def kept(self) -> list[Person]:
        return [person for person in self.by_id.values() if person.removed is None]


def read_persons(rows: list[Row], excluded: set[int], config: IngestConfig) -> Persons:
    persons = {}
    for row in rows:
        cells = Cells(row)
        subject = cells.integer("person_id")
        birth, changes = _birth(cells, config)
        persons[subject] = Person(
            key=cells.text("person_id"),
            subject=subject,
            gender=cells.integer("gender_concept_id"),
            race=cells.integer("race_concept_id"),
            ethnicity=cells.integer("ethnicity_concept_id"),
            birth=birth,
            removed=Rule.EXCLUDED_SUBJECT if subject in excluded else None,
            changes=changes,
        )
    return Persons(persons, excluded)


def _birth(cells: Cells, config: IngestConfig) -> tuple[datetime | None, set[Rule]]:
    at = cells.time("birth_datetime")
    if at is not None and at.year not in config.sentinel_years:
        return at, set()
    year = cells.integer("year_of_birth")
    month, date = cells.integer("month_of_birth"), cells.integer("day_of_birth")
    if year is None or year in config.sentinel_years or not 1 <= year <= 9999:
        return None, {Rule.BIRTH_UNKNOWN}
    if month is None or not 1 <= month <= 12:
        return datetime(year, 1, 1), {Rule.BIRTH_IMPUTED}
    if date is None or not 1 <= date <= 31:
        return datetime(year, month, 1), {Rule.BIRTH_IMPUTED}
    return datetime(year, month, min(date, calendar.monthrange(year, month)[1])), set()


def settle_deaths(
    rows: list[Row],
    persons: Persons,
    discharged: dict[int, datetime],
    config: IngestConfig,
    future: datetime | None,
    out: Mended,
) -> set[int]:
    """Sets the persons' deaths; returns those who died by a discharge that no record precedes.

    Args:
        rows: of the table death.
        persons: deaths are set here.
        discharged: end of the first visit whose discharge says that the person died.
        config: the dials.
        future: the extract date, where dates are real.
        out: its ledger gets the death records.
    """
    kept: dict[int, list[tuple[datetime, bool, str]]] = {}
    for number, row in enumerate(rows, 1):
        cells = Cells(row)
        subject = cells.integer("person_id")
        key = cells.text("person_id") or f"death:{number}"
        moment, date = cells.time("death_datetime"), cells.day("death_date")
        time = moment if moment is not None else date
        bad = cells.is_unreadable("death_date") or cells.is_unreadable("death_datetime")
        removed = persons.removal(subject)
        if removed is None and time is None:
            removed = Rule.UNPARSABLE_TIME if bad else Rule.MISSING_TIME
        if removed is None and time.year in config.sentinel_years:
            removed = Rule.SENTINEL_TIME
        birth = persons.birth(subject)
        if removed is None and birth is not None and day(time) < day(birth):
            removed = Rule.BEFORE_BIRTH
        if removed is None and future is not None and day(time) > future:
            removed = Rule.FUTURE_DATE
        if removed is not None:
            out.enter("death", key, removed, set())
            continue
        is_date = moment is None or is_midnight(moment)
        kept.setdefault(subject, []).append((day_end(time) if is_date else time, is_date, key))
    for deaths in kept.values():
        for place, (_, is_date, key) in enumerate(sorted(deaths)):
            removed = Rule.DEATH_DUPLICATE if place else None
            out.enter("death", key, removed, {Rule.DEATH_DATE_ONLY} if is_date else set())
    by_discharge = set()
    for subject in kept.keys() | discharged.keys():
        recorded = [time for time, _, _ in kept.get(subject, [])]
        left = discharged.get(subject)
        persons.by_id[subject].death = earliest(left, *recorded)
        if left is not None and all(left < time for time in recorded):
            by_discharge.add(subject)
    return by_discharge


def settle_periods(rows: list[Row], persons: Persons, out: Mended) -> None:
    """Observation periods inside the life, made disjoint."""
    kept: dict[int, list[tuple[datetime, datetime, str, set[Rule]]]] = {}
    for row in rows:
        cells = Cells(row)
        subject, key = cells.integer("person_id"), cells.text("observation_period_id")
        start = cells.day("observation_period_start_date")
        finish = cells.day("observation_period_end_date")
        removed = persons.removal(subject)
        if removed is None and (start is None or finish is None or finish < start):
            removed = Rule.PERIOD_INVALID
        changes = set()
        if removed is None:
            birth, death = persons.birth(subject), persons.death(subject)
            low = latest(start, day(birth) if birth else None)
            high = earliest(day_end(finish), death)
            if low != start or (death and finish > day(death)):
                changes.add(Rule.PERIOD_CLAMPED)
            if high < low:
                removed = Rule.PERIOD_INVALID
        if removed is not None:
            out.enter("observation_period", key, removed, set())
        else:
            kept.setdefault(subject, []).append((low, high, key, changes))
    for subject, periods in kept.items():
        reach = None
        for low, high, key, changes in sorted(periods, key=lambda p: (p[0], p[0] - p[1], p[2])):
            if reach is not None and (day(low) - day(reach)).days <= 1:
                out.enter("observation_period", key, Rule.PERIOD_MERGED, set())
                _, start, before = out.periods.pop()
                out.periods.append((subject, start, max(before, high)))
            else:
                out.enter("observation_period", key, None, changes)
                out.periods.append((subject, low, high))
            reach = latest(reach, high)
