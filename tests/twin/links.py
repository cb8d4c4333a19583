"""Which visit a record belongs to (CLINICAL: "Dangling links"), for the records of one subject."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.twin.times import ONE_DAY, day, day_end, earliest
from tests.twin.visits import Visit

if TYPE_CHECKING:
    from datetime import datetime

    from chronoward.data.rules import Rule

OWN, CLAMPED, RELINKED, ARTIFICIAL, NO_VISITS = range(5)


@dataclass(eq=False)
class Record:
    """A record that becomes events: what is known of it before and after it is linked."""

    key: tuple
    subject: int
    table: str
    time: datetime
    is_date: bool
    own: Visit | None
    """The visit that its source links it to."""
    content: dict = field(default_factory=dict)
    changes: set[Rule] = field(default_factory=set)
    visit: Visit | None = None
    how: int = NO_VISITS

    @property
    def latest(self) -> datetime:
        return day_end(self.time) if self.is_date else self.time

    @property
    def is_in_visit(self) -> bool:
        return self.how < ARTIFICIAL


def link_records(records: list[Record], visits: list[Visit], death: datetime | None) -> list[Visit]:
    """Sets `visit` and `how` of the records; returns the artificial visits made for them."""
    alone: dict[tuple[datetime, int], list[Record]] = {}
    for r in records:
        if r.own is not None and covers(r.own, r):
            r.visit, r.how = r.own, OWN
        elif r.own is not None and is_shortly_before(r.own, r):
            r.visit, r.how = r.own, CLAMPED
        else:
            nearest = max((i for i, v in enumerate(visits) if v.start <= r.latest), default=-1)
            if nearest >= 0 and covers(visits[nearest], r):
                r.visit, r.how = visits[nearest], RELINKED
            else:
                alone.setdefault((day(r.time), nearest), []).append(r)
    artificial = []
    for _, group in sorted(alone.items()):
        known = [earliest(r.latest, death) for r in group]
        visit = Visit([], min(known), max(known), is_artificial=True)
        artificial.append(visit)
        for r in group:
            r.visit, r.how = visit, ARTIFICIAL
    return artificial


def covers(visit: Visit, r: Record) -> bool:
    if r.is_date:
        return day(visit.start) <= r.time <= day(visit.finish)
    return visit.start <= r.time <= visit.finish


def is_shortly_before(visit: Visit, r: Record) -> bool:
    """Up to a day before the visit: it was known when the visit began."""
    if r.is_date:
        return r.time == day(visit.start) - ONE_DAY
    return visit.start - ONE_DAY <= r.time < visit.start


def number_visits(visits: list[Visit], artificial: list[Visit]) -> None:
    """0.. within the subject, in order of start; the real ones first."""
    listed = enumerate([*visits, *artificial])
    order = sorted(listed, key=lambda p: (p[1].start, p[1].finish, p[1].is_artificial, p[0]))
    for number, (_, visit) in enumerate(order):
        visit.number = number
