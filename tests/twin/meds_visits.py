"""Visits of a MEDS source: rows of their own, or pairs of codes that open and close them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.twin.times import day, day_end, is_midnight
from tests.twin.visits import EMERGENCY, OTHER, STAY, Detail, SourceVisit

from chronoward.data.rules import Rule
from chronoward.data.visits import EMERGENCY_CODES, INPATIENT_CODES
from chronoward.schema import Role

if TYPE_CHECKING:
    from datetime import datetime

    from tests.twin.meds import Judged, Life

    from chronoward.data import IngestConfig, VisitPattern


def visit_class(code: str) -> int:
    if code.upper() in INPATIENT_CODES:
        return STAY
    return EMERGENCY if code.upper() in EMERGENCY_CODES else OTHER


def is_midnight_date(starts: list[datetime], config: IngestConfig) -> bool:
    """Whether 00:00:00 of a visit means that its time is not known."""
    n_midnight = sum(map(is_midnight, starts))
    return bool(starts) and n_midnight >= config.midnight_share * len(starts)


def placed(
    r: Judged,
    code: str,
    start: datetime,
    finish: datetime | None,
    life: Life,
    *,
    order: tuple,
    midnight_is_a_date: bool,
) -> SourceVisit:
    """A visit with a usable end, cut at the death; `order` decides ties."""
    changes: set[Rule] = set()
    starts_on_a_date = midnight_is_a_date and is_midnight(start)
    ends_on_a_date = finish is None or (midnight_is_a_date and is_midnight(finish))
    if finish is not None:
        is_early = day(finish) < day(start)
        if not starts_on_a_date and not ends_on_a_date:
            is_early = finish < start
        if is_early:
            changes.add(Rule.END_BEFORE_START)
            finish = None
        elif ends_on_a_date:
            finish = day_end(finish)
    if life.death is not None and finish is not None and finish > life.death:
        if not ends_on_a_date or day(finish) > day(life.death):
            changes.add(Rule.VISIT_END_AFTER_DEATH)
        finish = life.death
    return SourceVisit(
        order=order,
        kind=visit_class(code),
        start=start,
        finish=finish,
        starts_on_a_date=starts_on_a_date,
        ends_on_a_date=finish is not None and ends_on_a_date,
        concept=code,
        changes=changes,
    )


@dataclass(eq=False)
class Pair:
    """A row that opens a visit or a detail, and the row (or its own end) that closes it."""

    opening: Judged
    closing: Judged | None
    finish: datetime
    code: str
    is_detail: bool
    visit: SourceVisit | None = None

    @property
    def start(self) -> datetime:
        return self.opening.time

    @property
    def left(self) -> str | None:
        """Where the subject went, in the closing row's code."""
        if self.closing is None or "//" not in self.closing.row["code"]:
            return None
        return f"Discharge/{self.closing.row['code'].split('/', 1)[1].lstrip('/')}"


def _opens(r: Judged, prefix: str | None) -> bool:
    code = r.row["code"]
    return prefix is not None and (code == prefix or code.startswith(f"{prefix}//"))


def _visit_code(r: Judged, pattern: VisitPattern) -> str:
    parts = r.row["code"].split("//")
    return pattern.visit_type or f"Visit/{parts[1] if parts[1:] and parts[1] else r.row['code']}"


def find_pairs(life: Life, config: IngestConfig) -> list[Pair]:
    """Each opening row with a closing one before the next opening one, in order of rows."""
    pairs = []
    for pattern in config.visit_patterns:
        rows = [r for r in life.kept(Role.CODE) if _opens(r, pattern.start)]
        if pattern.end is None:
            pairs += [
                Pair(r, None, r.end, _visit_code(r, pattern), pattern.is_detail)
                for r in rows
                if r.end is not None
            ]
            continue
        ends = [r for r in life.kept(Role.CODE) if _opens(r, pattern.end)]
        marks = sorted(
            [*rows, *ends], key=lambda r: (r.time, r in ends, r.code.encode(), *_content(r))
        )
        for opening, closing in pairwise(marks):
            if opening in rows and closing in ends:
                code = _visit_code(opening, pattern)
                pairs.append(Pair(opening, closing, closing.time, code, pattern.is_detail))
    return sorted(pairs, key=lambda pair: (*_order_of(pair), pair.opening.place))


def _content(r: Judged) -> tuple:
    """What rows of one time and code are told apart by, nulls first; their places at last."""
    said = (r.end, r.row["available_time"], r.row["visit_id"])
    return *((x is not None, x) if x is not None else (False,) for x in said), r.place


def _order_of(pair: Pair) -> tuple:
    return pair.start, pair.finish, pair.code.encode()


def stage_pairs(life: Life, pairs: list[Pair], *, midnight_is_a_date: bool) -> list[SourceVisit]:
    """A source visit a pair; equal pairs share one."""
    found: dict[tuple, SourceVisit] = {}
    for pair in pairs:
        if pair.is_detail:
            continue
        key = pair.start, pair.finish, pair.code
        if key not in found:
            found[key] = placed(
                pair.opening,
                pair.code,
                pair.start,
                pair.finish,
                life,
                order=_order_of(pair),
                midnight_is_a_date=midnight_is_a_date,
            )
        pair.visit = found[key]
    return list(found.values())


def settle_pairs(life: Life, pairs: list[Pair]) -> None:
    """Details of pairs, and the rows that say no more than their visit does.

    A bare start or end is its visit's; so is the end with the discharge at the visit's own end.
    """
    leaving: dict[int, list[Pair]] = {}
    for pair in pairs:
        if pair.is_detail:
            before = [visit for visit in life.visits if visit.start <= pair.start]
            if before and pair.start <= before[-1].finish:
                visit = before[-1]
                finish = min(pair.finish, visit.finish)
                life.details.append(Detail(visit, pair.start, finish, pair.code))
            continue
        visit = pair.visit.visit
        if "//" not in pair.opening.row["code"]:
            pair.opening.is_silent = True
        if pair.closing is None:
            continue
        if pair.left is None:
            pair.closing.is_silent = True
        elif pair.finish == visit.finish:
            leaving.setdefault(id(visit), []).append(pair)
    for rivals in leaving.values():
        pair = min(rivals, key=lambda pair: (pair.left.encode(), pair.start))
        pair.visit.visit.leaving = pair.left
        pair.closing.is_silent = True
