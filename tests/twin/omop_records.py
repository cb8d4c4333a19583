"""Clinical records of an OMOP source: which stay, at what time, known when, with what value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.twin.links import ARTIFICIAL, CLAMPED, RELINKED, Record
from tests.twin.source import Cells, Row
from tests.twin.times import day, day_end, earliest, is_midnight
from tests.twin.values import FIXED, Measured, Value, parse_value

from chronoward.data.concepts import LOCAL_CONCEPT
from chronoward.data.omop_tables import CLINICAL
from chronoward.data.records import BOUND_OPERATORS, NEGATIVE_CONCEPTS, POSITIVE_CONCEPTS
from chronoward.data.rules import Rule
from chronoward.data.units import unit_name

if TYPE_CHECKING:
    from datetime import datetime

    from tests.twin.concepts import Concepts
    from tests.twin.persons import Persons

    from chronoward.data import IngestConfig

ORDERED = (32838, 32833, 38000177, 581373, 32837, 38000180)
DISPENSED = (32825, 38000175, 38000176, 581452, 44787730)
GIVEN = (32818, 38000179, 38000180, 43542356)
"""Type concepts of drugs."""


@dataclass(eq=False)
class Staged:
    """A record of a clinical table, cast."""

    table: str
    key: str
    subject: int | None
    concept: int | None
    source_concept: int | None
    source_value: str | None
    moment: datetime | None
    date: datetime | None
    is_bad: bool
    end_at: datetime | None
    end_day: datetime | None
    end_is_bad: bool
    kind: int | None
    status: int | None
    visit_ref: int | None
    number: float | None
    number_is_bad: bool
    text: str | None
    value_concept: int | None
    operator: int | None
    unit: int | None
    unit_text: str | None
    removed: Rule | None = None
    changes: set[Rule] = field(default_factory=set)
    is_date: bool = False
    value: Value = field(default_factory=Value)

    @property
    def start(self) -> datetime | None:
        return self.moment if self.moment is not None else self.date

    @property
    def time(self) -> datetime:
        return day(self.start) if self.is_date else self.start

    @property
    def content(self) -> tuple:
        """Everything but the key; one NaN is like another."""
        names = (name for name in self.__dataclass_fields__ if name not in ("key", "value"))
        values = (getattr(self, name) for name in names)
        return tuple("NaN" if v != v else v for v in values if not isinstance(v, set))

    @property
    def target_content(self) -> tuple:
        """What the records of one source code with several targets share."""
        number = "NaN" if self.number != self.number else self.number
        return (
            *(self.table, self.subject, self.moment, self.date, self.visit_ref, self.kind),
            *(self.source_value, self.source_concept, number, self.text, self.value_concept),
        )


def stage_records(tables: dict[str, list[Row]]) -> list[Staged]:
    staged = []
    for table, spec in CLINICAL.items():
        for row in tables.get(table, []):
            c = Cells(row)
            at, date = c.time(spec.at), c.day(spec.day)
            end_at, end_day = c.time(spec.end_at), c.day(spec.end_day)
            bad = c.is_unreadable(spec.at) or c.is_unreadable(spec.day)
            end_bad = c.is_unreadable(spec.end_at) or c.is_unreadable(spec.end_day)
            number = c.number(spec.number)
            staged.append(
                Staged(
                    table=table,
                    key=c.text(spec.key),
                    subject=c.integer("person_id"),
                    concept=c.integer(spec.concept),
                    source_concept=c.integer(spec.source_concept),
                    source_value=c.text(spec.source_value),
                    moment=at,
                    date=date,
                    is_bad=bad and at is None and date is None,
                    end_at=end_at,
                    end_day=end_day,
                    end_is_bad=end_bad and end_at is None and end_day is None,
                    kind=c.integer(spec.type),
                    status=c.integer(spec.status),
                    visit_ref=c.integer("visit_occurrence_id"),
                    number=number,
                    number_is_bad=number is None and c.text(spec.number) is not None,
                    text=next((t for t in map(c.text, spec.text) if t is not None), None),
                    value_concept=c.integer(spec.value_concept),
                    operator=c.integer(spec.operator),
                    unit=c.integer(spec.unit),
                    unit_text=c.text(spec.unit_text),
                )
            )
    return staged


def judge_records(
    records: list[Staged], persons: Persons, config: IngestConfig, future: datetime | None
) -> None:
    """Applies the rules on single records, in their order, and parses values and ends."""
    dates = _types_without_time(records, config)
    copies, targets = _copies(records), {}
    for r in records:
        is_target = (r.concept or 0) > 0 and id(r) not in copies
        if is_target and ((r.source_concept or 0) > 0 or r.source_value is not None):
            targets.setdefault(r.target_content, []).append(r)
    first = {content: min(r.concept for r in group) for content, group in targets.items()}
    of_several = {
        id(r) for content, group in targets.items() for r in group if r.concept > first[content]
    }
    for r in records:
        r.is_date = r.start is not None and (
            r.moment is None or (is_midnight(r.moment) and (r.table, r.kind) in dates)
        )
        is_further = id(r) in of_several
        r.removed = _removal(
            r, persons, config, future, is_copy=id(r) in copies, is_further=is_further
        )
        if r.removed is None:
            _read(r, persons, config)
            if is_further:
                r.changes.add(Rule.MULTIPLE_TARGETS)


def _types_without_time(records: list[Staged], config: IngestConfig) -> set[tuple[str, int | None]]:
    """Tables and types of records whose 00:00:00 means that the time is not known."""
    moments: dict[tuple[str, int | None], list[bool]] = {}
    for r in records:
        if r.moment is not None:
            moments.setdefault((r.table, r.kind), []).append(is_midnight(r.moment))
    return {k for k, seen in moments.items() if sum(seen) >= config.midnight_share * len(seen)}


def _copies(records: list[Staged]) -> set[int]:
    """Records equal to one with a smaller key."""
    seen, copies = set(), set()
    for r in sorted(records, key=lambda r: (int(r.key), r.key)):
        if r.content in seen:
            copies.add(id(r))
        seen.add(r.content)
    return copies


def _removal(
    r: Staged,
    persons: Persons,
    config: IngestConfig,
    future: datetime | None,
    *,
    is_copy: bool,
    is_further: bool,
) -> Rule | None:
    removed = persons.removal(r.subject)
    if removed is not None:
        return removed
    if is_copy:
        return Rule.EXACT_DUPLICATE
    if r.start is None:
        return Rule.UNPARSABLE_TIME if r.is_bad else Rule.MISSING_TIME
    if r.start.year in config.sentinel_years:
        return Rule.SENTINEL_TIME
    birth, death = persons.birth(r.subject), persons.death(r.subject)
    keep = config.prenatal_days if config.prenatal_policy == "keep" else 0
    if birth is not None and (day(birth) - day(r.start)).days > keep:
        return Rule.BEFORE_BIRTH
    if future is not None and day(r.start) > future:
        return Rule.FUTURE_DATE
    if death is not None and r.time > (day(death) if r.is_date else death):
        return Rule.AFTER_DEATH
    if config.concept_policy == "standard" and not r.concept:
        return Rule.UNMAPPED_DROPPED
    if config.concept_policy == "source" and is_further:
        return Rule.MULTIPLE_TARGETS_MERGED
    return None


def _read(r: Staged, persons: Persons, config: IngestConfig) -> None:
    birth = persons.birth(r.subject)
    if birth is not None and day(r.start) < day(birth):
        r.changes.add(Rule.PRENATAL)
    end = r.end_at if r.end_at is not None else r.end_day
    if end is None:
        if r.end_is_bad:
            r.changes.add(Rule.UNPARSABLE_END)
    elif end.year in config.sentinel_years:
        r.changes.add(Rule.SENTINEL_END)
    elif day(end) < day(r.start) or (end < r.start and not r.is_date and not is_midnight(end)):
        r.changes.add(Rule.END_BEFORE_START)
    if r.number_is_bad:
        r.changes.add(Rule.VALUE_UNPARSABLE)
    value = parse_value(r.number, r.text)
    if value.number is not None and r.operator in BOUND_OPERATORS:
        value.changes.add(Rule.VALUE_BOUNDED)
    if not value.is_known and (r.value_concept or 0) > 0:
        value.text = None
        if r.value_concept in POSITIVE_CONCEPTS:
            value.text = "POS"
        elif r.value_concept in NEGATIVE_CONCEPTS:
            value.text = "NEG"
    r.changes |= value.changes
    r.value = value


@dataclass(eq=False)
class CodeEvent(Measured):
    """An event of a record, with its times."""

    time: datetime
    available: datetime


def measured_of(
    linked: list[tuple[Record, Staged]],
    concepts: Concepts,
    persons: Persons,
    config: IngestConfig,
) -> list[tuple[CodeEvent, Record]]:
    """The events of linked records, one an ingredient, before units and texts are settled."""
    drug_types = {_drug_type(s.kind) for r, s in linked if r.table == "drug_exposure"} - {None}
    events = []
    for record, staged in linked:
        used = _used_concept(staged, config)
        is_mapped = (
            bool(staged.source_concept)
            if config.concept_policy == "source"
            else bool(staged.concept)
        )
        if not is_mapped:
            record.changes.add(Rule.UNMAPPED)
        if used is not None and used > LOCAL_CONCEPT:
            record.changes.add(Rule.LOCAL_CONCEPT)
        available = available_time(record, staged, concepts, persons, config)
        is_drug = record.table == "drug_exposure"
        parts = [used]
        if is_drug and config.concept_policy != "source" and used in concepts.ingredients:
            parts = concepts.ingredients[used]
            several = len(parts) > 1
            record.changes.add(Rule.MULTI_INGREDIENT if several else Rule.INGREDIENT_ROLLUP)
        text = staged.value.text
        if text is None and not staged.value.is_known and (staged.value_concept or 0) > 0:
            text = concepts.code_of(staged.value_concept)
        is_fixed = staged.value.text in FIXED
        if is_drug and len(drug_types) > 1 and _drug_type(staged.kind) is not None:
            text, is_fixed = _drug_type(staged.kind), True
        for part in parts:
            code = f"Source/{staged.source_value}" if staged.source_value else "OMOP/0"
            event = CodeEvent(
                subject=record.subject,
                table=record.table,
                code=code if part is None else concepts.code_of(part),
                number=staged.value.number,
                unit=_unit(staged, concepts),
                text=text,
                is_fixed_text=is_fixed,
                changes=record.changes,
                time=record.time,
                available=available,
            )
            events.append((event, record))
            if is_drug and config.drug_stop and (end := _end(staged, config)) is not None:
                events.append((_stop(event, end), record))
    return events


def _stop(event: CodeEvent, end: datetime) -> CodeEvent:
    """The second event of a drug: its end."""
    return CodeEvent(
        subject=event.subject,
        table=event.table,
        code=event.code,
        number=None,
        unit=None,
        text="stop",
        is_fixed_text=True,
        changes=event.changes,
        time=end,
        available=max(event.available, end),
    )


def _end(r: Staged, config: IngestConfig) -> datetime | None:
    end = r.end_at if r.end_at is not None else r.end_day
    faulty = {Rule.UNPARSABLE_END, Rule.SENTINEL_END, Rule.END_BEFORE_START}
    return None if faulty & r.changes else end


def _used_concept(r: Staged, config: IngestConfig) -> int | None:
    """The concept that names the event; None: its source value does."""
    standard, source = r.concept or None, r.source_concept or None
    if config.concept_policy == "source":
        return source or (standard if r.source_value is None else None)
    return standard or source


def _drug_type(kind: int | None) -> str | None:
    if kind in ORDERED:
        return "order"
    if kind in DISPENSED:
        return "dispense"
    return "administration" if kind in GIVEN else None


def _unit(r: Staged, concepts: Concepts) -> str | None:
    if r.unit is None and r.unit_text is None:
        return None
    known = concepts.code.get(r.unit) if r.unit is not None else None
    return unit_name(r.unit, known.split("/", 1)[1] if known else None, r.unit_text)


def available_time(
    record: Record, r: Staged, concepts: Concepts, persons: Persons, config: IngestConfig
) -> datetime:
    """When the record could be known (CLINICAL: "Availability"); notes what changed."""
    visit, time = record.visit, record.time
    late = day_end(time) if record.is_date else time
    if record.how == CLAMPED:
        record.changes.add(Rule.CLAMPED_TO_VISIT)
    elif record.how == RELINKED:
        record.changes.add(Rule.RELINKED_BY_DATE)
    elif record.how == ARTIFICIAL:
        record.changes.add(Rule.ARTIFICIAL_VISIT)
    is_billed = record.is_in_visit and _is_billed(r, concepts, config)
    if is_billed:
        known = max(time, visit.finish)
        if time < visit.finish:
            record.changes.add(Rule.STAMPED_DIAGNOSIS)
    elif record.is_in_visit and record.is_date and visit.is_timed:
        known = visit.finish
        record.changes.add(Rule.DATE_ONLY_IN_VISIT)
    elif record.is_in_visit and record.is_date:
        known = max(visit.start, min(late, visit.finish))
        record.changes.add(Rule.DATE_ONLY_DAY)
    elif record.is_in_visit:
        known = min(max(time, visit.start), visit.finish)
    else:
        known = late
        if record.is_date:
            record.changes.add(Rule.DATE_ONLY_DAY)
    return earliest(known, persons.death(record.subject))


def _is_billed(r: Staged, concepts: Concepts, config: IngestConfig) -> bool:
    """A diagnosis (or DRG) that is known when the stay is billed."""
    is_bill = r.table == "condition_occurrence" and r.kind in config.billing_types
    if is_bill and (r.status or 0) not in config.admission_statuses:
        return True
    drg = config.drg_vocabularies
    return any(concepts.vocabulary.get(c) in drg for c in (r.concept, r.source_concept))
