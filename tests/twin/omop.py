"""The rules on an OMOP source, told slowly: the specification of its ingestion.

Tables are lists of rows of texts, as CSV has them. The words and the order of the rules are those
of `chronoward.data.rules`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Any

from tests.twin.concepts import Concepts, read_concepts
from tests.twin.events import Mended
from tests.twin.links import Record, link_records, number_visits
from tests.twin.omop_records import Staged, judge_records, measured_of, stage_records
from tests.twin.persons import Persons, read_persons, settle_deaths, settle_periods
from tests.twin.source import Cells, Row
from tests.twin.times import day, day_end, is_midnight
from tests.twin.values import settle_values, stored
from tests.twin.visits import EMERGENCY, OTHER, STAY, Detail, LinkedTime, SourceVisit, mend_visits

from chronoward.data.concepts import FEMALE, MALE
from chronoward.data.omop import FAR_FUTURE
from chronoward.data.omop_tables import CLINICAL, NOT_USED
from chronoward.data.rules import Rule
from chronoward.data.visits import DIED
from chronoward.schema import Role

if TYPE_CHECKING:
    from tests.twin.visits import Visit

    from chronoward.data import IngestConfig

Tables = dict[str, list[Row]]
_DICTIONARIES = ("concept", "concept_ancestor", "cdm_source")
"""Of those that a source of the twin may have."""


@dataclass(eq=False)
class StagedVisit:
    """A row of visit_occurrence, and what is made of it."""

    key: str
    ref: int
    subject: int | None
    content: tuple
    source: SourceVisit | None
    removed: Rule | None
    changes: set[Rule] = field(default_factory=set)


def mend_omop(tables: Tables, config: IngestConfig, excluded: set[int]) -> Mended:
    """Events, ledger and observation periods of an OMOP source."""
    out = Mended()
    persons = read_persons(tables["person"], excluded, config)
    concepts = read_concepts(tables.get("concept"), tables.get("concept_ancestor"))
    visits = _stage_visits(tables.get("visit_occurrence", []), persons, config)
    records = stage_records(tables)
    extract = _extract_date(tables, config)
    starts = [v.source.start for v in visits if v.source] + [r.start for r in records if r.start]
    out.calendar = _calendar(starts, extract, config)
    future = extract if out.calendar == "real" else None
    discharged = _discharge_deaths(visits, future)
    ends = {subject: end for subject, (end, _) in discharged.items()}
    deaths = tables.get("death", [])
    for subject in settle_deaths(deaths, persons, ends, config, future, out):
        discharged[subject][1].changes.add(Rule.DEATH_FROM_DISCHARGE)
    settle_periods(tables.get("observation_period", []), persons, out)
    _end_lives(visits, persons, future)
    judge_records(records, persons, config, future)
    made, details = _mend_subjects(visits, records, persons, config)
    out.has_visits = any(made.values())
    details += _place_details(tables.get("visit_detail", []), visits, made, persons, config, out)
    linked = _link(records, made, visits, persons, has_visits=out.has_visits)
    measured = measured_of(linked, concepts, persons, config)
    settle_values([event for event, _ in measured], config)
    for event, record in measured:
        _put_code(event, record, out)
    _put_visits(made, details, concepts, out)
    _put_persons(persons, concepts, "observation_period" in tables, out)
    for visit in visits:
        out.enter("visit_occurrence", visit.key, visit.removed, visit.changes)
    for staged in records:
        out.enter(staged.table, staged.key, staged.removed, staged.changes)
    _enter_others(tables, out)
    out.fill_periods(config, extract, {p.subject: p.death for p in persons.kept if p.death})
    return out


def _stage_visits(rows: list[Row], persons: Persons, config: IngestConfig) -> list[StagedVisit]:
    staged = []
    moments: dict[int | None, list[datetime]] = defaultdict(list)
    for row in rows:
        c = Cells(row)
        moment = c.time("visit_start_datetime")
        kind = c.integer("visit_type_concept_id")
        if moment is not None:
            moments[kind].append(moment)
        content = (
            *(c.integer("person_id"), c.integer("visit_concept_id"), moment),
            *(c.day("visit_start_date"), c.time("visit_end_datetime"), c.day("visit_end_date")),
            *(c.is_unreadable("visit_start_date"), c.is_unreadable("visit_start_datetime")),
            *(c.is_unreadable("visit_end_date") or c.is_unreadable("visit_end_datetime"), kind),
            c.integer("discharged_to_concept_id"),
        )
        key, ref = c.text("visit_occurrence_id"), c.integer("visit_occurrence_id")
        staged.append(StagedVisit(key, ref, content[0], content, None, None))
    dates = {
        kind
        for kind, times in moments.items()
        if sum(map(is_midnight, times)) >= config.midnight_share * len(times)
    }
    first: dict[tuple, StagedVisit] = {}
    for visit in sorted(staged, key=lambda v: (v.ref, v.key)):
        subject, concept, moment, date, end_at, end_day, *bad, end_bad, kind, left = visit.content
        start = moment if moment is not None else date
        finish = end_at if end_at is not None else end_day
        visit.removed = persons.removal(subject)
        if visit.removed is None and visit.content in first:
            visit.removed = Rule.EXACT_DUPLICATE
        first.setdefault(visit.content, visit)
        visit.removed = visit.removed or _time_removal(start, any(bad), subject, persons, config)
        if start is None:
            continue
        is_date = moment is None or (is_midnight(moment) and kind in dates)
        ends_on_date = end_at is None or (is_midnight(end_at) and kind in dates)
        if finish is None:
            visit.changes.add(Rule.UNPARSABLE_END if end_bad else Rule.MISSING_VISIT_END)
        elif finish.year in config.sentinel_years:
            visit.changes.add(Rule.SENTINEL_END)
            finish = None
        elif day(finish) < day(start) or (finish < start and not is_date and not ends_on_date):
            visit.changes.add(Rule.END_BEFORE_START)
            finish = None
        elif ends_on_date:
            finish = day_end(finish)
        birth = persons.birth(subject)
        if birth is not None and day(start) < day(birth):
            visit.changes.add(Rule.PRENATAL)
        visit.source = SourceVisit(
            order=(visit.ref, visit.key),
            kind=_class(concept, config),
            start=day(start) if is_date else start,
            finish=finish,
            starts_on_a_date=is_date,
            ends_on_a_date=finish is not None and ends_on_date,
            concept=concept,
            discharge=left if (left or 0) > 0 else None,
            changes=visit.changes,
        )
    for visit in staged:  # links to a copy are links to the visit
        if visit.removed is Rule.EXACT_DUPLICATE:
            visit.source = first[visit.content].source
    return staged


def _class(concept: int | None, config: IngestConfig) -> int:
    if concept in config.inpatient_concepts:
        return STAY
    return EMERGENCY if concept in config.emergency_concepts else OTHER


def _time_removal(
    start: datetime | None,
    is_bad: bool,
    subject: int,
    persons: Persons,
    config: IngestConfig,
) -> Rule | None:
    """The rule on a start alone that removes a record, before any death is known."""
    if start is None:
        return Rule.UNPARSABLE_TIME if is_bad else Rule.MISSING_TIME
    if start.year in config.sentinel_years:
        return Rule.SENTINEL_TIME
    birth = persons.birth(subject)
    keep = config.prenatal_days if config.prenatal_policy == "keep" else 0
    if birth is not None and (day(birth) - day(start)).days > keep:
        return Rule.BEFORE_BIRTH
    return None


def _discharge_deaths(
    visits: list[StagedVisit], future: datetime | None
) -> dict[int, tuple[datetime, StagedVisit]]:
    """The first visit end whose discharge says died, of each subject."""
    found: dict[int, tuple[datetime, StagedVisit]] = {}
    for visit in visits:
        if visit.removed is not None or (future and day(visit.source.start) > future):
            continue
        if visit.source.discharge in DIED and visit.source.finish:
            rival = found.get(visit.subject)
            key = visit.source.finish, visit.key.encode()
            if rival is None or key < (rival[0], rival[1].key.encode()):
                found[visit.subject] = visit.source.finish, visit
    return found


def _extract_date(tables: Tables, config: IngestConfig) -> datetime | None:
    if config.extract_date is not None:
        return datetime.fromisoformat(config.extract_date)
    days = [Cells(row).day("source_release_date") for row in tables.get("cdm_source", [])]
    return max((date for date in days if date is not None), default=None)


def _calendar(starts: list[datetime], extract: datetime | None, config: IngestConfig) -> str:
    """Shifted when more than half of the starts lie after the extract date, or 2100."""
    if config.calendar != "auto":
        return config.calendar
    border = extract or datetime.fromisoformat(FAR_FUTURE)
    known = [start for start in starts if start.year not in config.sentinel_years]
    return "shifted" if sum(start > border for start in known) > 0.5 * len(known) else "real"


def _end_lives(visits: list[StagedVisit], persons: Persons, future: datetime | None) -> None:
    """Applies the extract date and deaths to visits."""
    for visit in visits:
        source, death = visit.source, persons.death(visit.subject)
        if visit.removed is not None:
            continue
        if future is not None and day(source.start) > future:
            visit.removed = Rule.FUTURE_DATE
        elif death is not None and source.start > (
            day(death) if source.starts_on_a_date else death
        ):
            visit.removed = Rule.AFTER_DEATH
        if death is not None and source.finish is not None and source.finish > death:
            if not source.ends_on_a_date or day(source.finish) > day(death):
                visit.changes.add(Rule.VISIT_END_AFTER_DEATH)
            source.finish = death


def _mend_subjects(
    visits: list[StagedVisit],
    records: list[Staged],
    persons: Persons,
    config: IngestConfig,
) -> tuple[dict[int, list[Visit]], list[Detail]]:
    made: dict[int, list[Visit]] = {}
    details: list[Detail] = []
    for person in persons.kept:
        mine = [v for v in visits if v.removed is None and v.subject == person.subject]
        by_ref = {v.ref: v.source for v in mine}
        linked = [
            LinkedTime(by_ref[r.visit_ref], r.time, r.is_date)
            for r in records
            if r.removed is None and r.subject == person.subject and r.visit_ref in by_ref
        ]
        sources = [v.source for v in mine]
        made[person.subject], new = mend_visits(sources, linked, person.death, config)
        details += new
        for visit in mine:
            visit.removed = visit.source.removed
    return made, details


def _visit_of(visits: list[StagedVisit]) -> dict[tuple[int, int], Visit]:
    """(subject, visit_occurrence_id) to the visit it became."""
    return {
        (v.subject, v.ref): v.source.visit
        for v in visits
        if v.source is not None and v.source.visit is not None
    }


def _place_details(
    rows: list[Row],
    visits: list[StagedVisit],
    made: dict[int, list[Visit]],
    persons: Persons,
    config: IngestConfig,
    out: Mended,
) -> list[Detail]:
    """Visit details, cut to their visits."""
    of, details, seen = _visit_of(visits), [], set()
    for row in sorted(rows, key=lambda row: (Cells(row).text("visit_detail_id") or "").encode()):
        c = Cells(row)
        subject, concept = c.integer("person_id"), c.integer("visit_detail_concept_id")
        ref = c.integer("visit_occurrence_id")
        names = [f"visit_detail_{part}" for part in ("start_datetime", "start_date")]
        ends = [f"visit_detail_{part}" for part in ("end_datetime", "end_date")]
        starts = [c.time(names[0]), c.day(names[1])]
        finishes = [c.time(ends[0]), c.day(ends[1])]
        content = (subject, concept, *starts, *finishes, ref)
        start, finish = (next((t for t in ts if t), None) for ts in (starts, finishes))
        removed, changes = persons.removal(subject), set()
        if removed is None and content in seen:
            removed = Rule.EXACT_DUPLICATE
        seen.add(content)
        if removed is None and start is None:
            bad = any(map(c.is_unreadable, names))
            removed = Rule.UNPARSABLE_TIME if bad else Rule.MISSING_TIME
        if removed is None and start.year in config.sentinel_years:
            removed = Rule.SENTINEL_TIME
        death = persons.death(subject)
        if removed is None and death is not None and start > death:
            removed = Rule.AFTER_DEATH
        if removed is None:
            visit = of.get((subject, ref))
            if visit is None:
                changes.add(Rule.RELINKED_BY_DATE)
                before = [v for v in made[subject] if v.start <= start]
                visit = before[-1] if before else None
            if visit is None or start > visit.finish or (finish and finish < visit.start):
                removed = Rule.DETAIL_WITHOUT_VISIT
        if removed is None:
            if finish is None:
                changes.add(Rule.MISSING_DETAIL_END)
            elif finish < start:
                changes.add(Rule.END_BEFORE_START)
                finish = None
            end = visit.finish if finish is None else min(finish, visit.finish)
            details.append(Detail(visit, max(start, visit.start), end, concept))
        out.enter("visit_detail", c.text("visit_detail_id"), removed, changes)
    return details


def _link(
    records: list[Staged],
    made: dict[int, list[Visit]],
    visits: list[StagedVisit],
    persons: Persons,
    *,
    has_visits: bool,
) -> list[tuple[Record, Staged]]:
    of = _visit_of(visits)
    linked = []
    for person in persons.kept:
        mine = []
        for staged in records:
            if staged.removed is None and staged.subject == person.subject:
                record = Record(
                    key=(staged.table, staged.key),
                    subject=person.subject,
                    table=staged.table,
                    time=staged.time,
                    is_date=staged.is_date,
                    own=of.get((person.subject, staged.visit_ref)),
                    changes=staged.changes,
                )
                mine.append((record, staged))
        real = list(made[person.subject])
        if has_visits:
            made[person.subject] += link_records([r for r, _ in mine], real, person.death)
        number_visits(real, made[person.subject][len(real) :])
        linked += mine
    return linked


def _put_code(event: Any, record: Record, out: Mended) -> None:
    out.put(
        event.subject,
        Role.CODE,
        event.code,
        table=event.table,
        time=event.time,
        available=event.available,
        numeric_value=stored(event.number),
        unit=event.unit,
        text_value=event.text,
        visit_id=None if record.visit is None else record.visit.number,
    )


def _put_visits(
    made: dict[int, list[Visit]], details: list[Detail], concepts: Concepts, out: Mended
) -> None:
    for subject, visits in made.items():
        codes = {}
        for visit in visits:
            if visit.is_artificial:
                codes[visit.number] = "Visit/0", None
                continue
            left = visit.discharge
            code = "Visit/IP" if visit.is_by_length else concepts.visit_code(visit.head.concept)
            leaving = None if left is None else concepts.plain("Discharge", left)
            codes[visit.number] = code, leaving
        mine = [d for d in details if any(d.visit is v for v in visits)]
        named = [concepts.visit_code(d.concept) for d in mine]
        out.put_visits(subject, visits, mine, codes, named)


def _put_persons(persons: Persons, concepts: Concepts, has_periods: bool, out: Mended) -> None:
    observed = {subject for subject, _, _ in out.periods}
    for person in persons.by_id.values():
        changes = set(person.changes)
        if has_periods and person.subject not in observed:
            changes.add(Rule.OBSERVATION_IMPUTED)
        out.enter("person", person.key, person.removed, changes)
    for person in persons.kept:
        sex = {FEMALE: "F", MALE: "M"}.get(person.gender, "U")
        put = {"subject": person.subject, "table": "person"}
        out.put(role=Role.SEX, code=f"Gender/{sex}", **put)
        if (person.race or 0) > 0:
            out.put(role=Role.RACE, code=concepts.plain("Race", person.race), **put)
        if (person.ethnicity or 0) > 0:
            ethnicity = concepts.plain("Ethnicity", person.ethnicity)
            out.put(role=Role.STATIC, code=ethnicity, **put)
        if person.birth is not None:
            out.put(role=Role.BIRTH, code="MEDS_BIRTH", time=person.birth, **put)
        if person.death is not None:
            out.put(person.subject, Role.DEATH, "MEDS_DEATH", table="death", time=person.death)


def _enter_others(tables: Tables, out: Mended) -> None:
    """Records of tables that are not read."""
    read = {*CLINICAL, "person", "death", "observation_period", "visit_occurrence"}
    for name, rows in tables.items():
        if name in read or name in ("visit_detail", *_DICTIONARIES):
            continue
        is_personal = name in NOT_USED or any("person_id" in row for row in rows)
        rule = Rule.TABLE_NOT_USED if is_personal else Rule.NOT_ABOUT_A_PERSON
        for number, row in zip(count(1), rows, strict=False):
            key = Cells(row).text(NOT_USED.get(name, f"{name}_id"))
            out.enter(name, key or f"{name}:{number}", rule, set())
