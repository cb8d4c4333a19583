"""The rules on visits, for the visits of one subject (CLINICAL: "Visit class")."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tests.twin.times import ONE_DAY, day, day_end, earliest, latest

from chronoward.data.rules import Rule

if TYPE_CHECKING:
    from chronoward.data import IngestConfig

STAY, EMERGENCY, OTHER = 1, 2, 3


@dataclass(eq=False)
class SourceVisit:
    """A visit of the source with usable times; `order` (by id, key) decides ties."""

    order: tuple
    kind: int
    start: datetime
    finish: datetime | None
    starts_on_a_date: bool
    ends_on_a_date: bool
    concept: object = None
    """What kind of visit it is in the words of its source: a concept id or a code."""
    discharge: object = None
    removed: Rule | None = None
    changes: set[Rule] = field(default_factory=set)
    visit: Visit | None = None
    """What it became, or a part of."""

    @property
    def is_timed(self) -> bool:
        return not (self.starts_on_a_date and self.ends_on_a_date)


@dataclass(eq=False)
class Visit:
    """A visit of the event table, made of one or several of the source."""

    members: list[SourceVisit]
    start: datetime
    finish: datetime
    is_artificial: bool = False
    number: int = -1
    own_start: datetime | None = None
    leaving: object = None
    """Where the subject went, where no member says so."""

    @property
    def head(self) -> SourceVisit:
        return self.members[0]

    @property
    def kind(self) -> int:
        return self.head.kind

    @property
    def is_timed(self) -> bool:
        return self.is_artificial or any(member.is_timed for member in self.members)

    @property
    def is_by_length(self) -> bool:
        return any(Rule.VISIT_INPATIENT_BY_LENGTH in member.changes for member in self.members)

    @property
    def discharge(self) -> object:
        """Where the subject went: what the member that ends last says of it."""
        said = [m for m in self.members if m.discharge is not None]
        return max(said, key=lambda m: (m.finish, m.order)).discharge if said else self.leaving


@dataclass(eq=False)
class Detail:
    """A part of a visit: a ward, or the emergency visit it began with."""

    visit: Visit
    start: datetime
    finish: datetime
    concept: object


@dataclass(frozen=True)
class LinkedTime:
    """The time of a record that its source links to a visit."""

    visit: SourceVisit
    time: datetime
    is_date: bool


def mend_visits(
    sources: list[SourceVisit],
    linked: list[LinkedTime],
    death: datetime | None,
    config: IngestConfig,
) -> tuple[list[Visit], list[Detail]]:
    """Disjoint visits in order of start, and the emergency visits that became parts of stays."""
    for source in sources:
        end(source, [record for record in linked if record.visit is source], death, config)
    groups = merge(sources)
    emergencies = link_emergencies(groups, config)
    absorb(groups)
    visits = clamp([group for group in groups if group.head.removed is None])
    details = []
    for group, stay in emergencies:
        start = max(group.start, stay.start)
        finish = max(min(group.finish, stay.finish), start)
        details.append(Detail(stay, start, finish, group.head.concept))
    return visits, details


def end(
    v: SourceVisit, linked: list[LinkedTime], death: datetime | None, config: IngestConfig
) -> None:
    """A missing end comes from the last record, a timed one moves to a record of its day."""
    if v.finish is None:
        known = [r.time for r in linked if not r.is_date]
        known += [day_end(r.time) for r in linked if r.is_date and r.time > day(v.start)]
        v.finish = latest(day_end(v.start) if v.starts_on_a_date else v.start, *known)
        v.ends_on_a_date |= v.starts_on_a_date
    elif not v.ends_on_a_date:
        same_day = [
            r.time
            for r in linked
            if not r.is_date and r.time > v.finish and day(r.time) == day(v.finish)
        ]
        if same_day:
            v.finish = max(same_day)
            v.changes.add(Rule.VISIT_EXTENDED)
    v.finish = earliest(v.finish, death)
    length = (day(v.finish) if v.ends_on_a_date else v.finish) - v.start
    if v.kind != STAY and length >= timedelta(hours=config.inpatient_hours):
        v.kind = STAY
        v.changes.add(Rule.VISIT_INPATIENT_BY_LENGTH)


def merge(sources: list[SourceVisit]) -> list[Visit]:
    """Visits of a class that overlap are one; one that begins where another ends is its own."""
    groups: list[Visit] = []
    for kind in (STAY, EMERGENCY, OTHER):
        group, previous = None, None
        for v in sorted(
            (v for v in sources if v.kind == kind), key=lambda v: (v.start, -span(v), v.order)
        ):
            if group is None or v.start > group.finish:
                opens = True
            else:
                opens = v.start == group.finish and previous.start < v.start
            if opens:
                group = Visit([v], v.start, v.finish, own_start=v.start)
                groups.append(group)
            else:
                group.members.append(v)
                group.finish = max(group.finish, v.finish)
                v.removed = Rule.VISIT_MERGED
            v.visit = group
            previous = v
    return groups


def span(v: SourceVisit | Visit) -> timedelta:
    return v.finish - v.start


def link_emergencies(groups: list[Visit], config: IngestConfig) -> list[tuple[Visit, Visit]]:
    """An emergency visit that ends in a stay or shortly before one is where the stay began."""
    stays = sorted(
        (g for g in groups if g.kind == STAY), key=lambda g: (g.finish, g.start, g.head.order)
    )
    linked = []
    for group in groups:
        if group.kind != EMERGENCY:
            continue
        compared = group.finish if group.is_timed else day(group.finish)
        stay = next((stay for stay in stays if stay.finish >= compared), None)
        if stay is None:
            continue
        before = timedelta(hours=config.ed_link_hours)
        if group.is_timed:
            is_near = group.finish >= stay.own_start - before
        else:
            is_near = compared >= day(stay.own_start) - ONE_DAY * -(-config.ed_link_hours // 24)
        if is_near:
            linked.append((group, stay))
    for group, stay in linked:
        stay.start = min(stay.start, group.start)
        join(group, stay, Rule.ED_LINKED)
    return linked


def absorb(groups: list[Visit]) -> None:
    """Visits of class other inside a stay belong to it."""
    stays = sorted((g for g in groups if g.kind == STAY), key=lambda g: (g.start, g.own_start))
    for group in groups:
        if group.kind != OTHER:
            continue
        compared = group.start if group.is_timed else group.finish
        stay = next((stay for stay in reversed(stays) if stay.start <= compared), None)
        if stay is None:
            continue
        if group.is_timed:
            is_inside = stay.start <= group.start and group.finish <= stay.finish
        else:
            is_inside = day(stay.start) <= day(group.start) and day(group.finish) <= day(
                stay.finish
            )
        if is_inside:
            join(group, stay, Rule.OUTPATIENT_IN_STAY)


def join(group: Visit, stay: Visit, rule: Rule) -> None:
    for member in group.members:
        member.visit = stay
    group.head.removed = rule


def clamp(groups: list[Visit]) -> list[Visit]:
    """What still overlaps an earlier visit starts at its end."""
    reach = None
    visits = sorted(groups, key=lambda g: (g.start, g.kind, -span(g), g.head.order))
    for visit in visits:
        if reach is not None and visit.start < reach:
            visit.start = reach
            visit.finish = max(visit.finish, reach)
            visit.head.changes.add(Rule.VISIT_OVERLAP_CLAMPED)
        reach = latest(reach, visit.finish)
    return visits
