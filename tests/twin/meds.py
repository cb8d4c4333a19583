"""The rules on a MEDS source, told slowly: the specification of its ingestion.

Rows are dicts with MEDS' columns and ours; a missing column is a column of nulls. The words and the
order of the rules are those of `chronoward.data.rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tests.twin.events import Mended
from tests.twin.links import ARTIFICIAL, CLAMPED, RELINKED, Record, link_records, number_visits
from tests.twin.meds_visits import (
    find_pairs,
    is_midnight_date,
    placed,
    settle_pairs,
    stage_pairs,
)
from tests.twin.times import day, day_end, earliest, is_midnight
from tests.twin.values import FIXED, Measured, Value, parse_value, settle_values, stored
from tests.twin.visits import Detail, LinkedTime, SourceVisit, Visit, mend_visits

from chronoward.data.omop import FAR_FUTURE
from chronoward.data.rules import Rule
from chronoward.data.units import unit_name
from chronoward.schema import Role

if TYPE_CHECKING:
    from chronoward.data import IngestConfig

MedsRow = dict[str, Any]


@dataclass(eq=False)
class Judged:
    """A row, what it is, and what became of it."""

    place: int
    row: MedsRow
    role: Role
    removed: Rule | None = None
    changes: set[Rule] = field(default_factory=set)
    value: Value = field(default_factory=Value)
    end: datetime | None = None
    is_silent: bool = False
    """Whether its visit says what the row says."""

    @property
    def time(self) -> datetime | None:
        return self.row["time"]

    @property
    def code(self) -> str:
        return event_code(self.row["code"])


@dataclass(eq=False)
class Life:
    """One subject: rows, birth, death, visits."""

    subject: int
    rows: list[Judged]
    birth: datetime | None = None
    death: datetime | None = None
    visits: list[Visit] = field(default_factory=list)
    details: list[Detail] = field(default_factory=list)
    by_ref: dict[int, SourceVisit] | None = None
    """Visit ids of the source, where its visits are rows."""

    def kept(self, role: Role) -> list[Judged]:
        return [r for r in self.rows if r.role == role and r.removed is None]


def mend_meds(rows: list[MedsRow], config: IngestConfig, excluded: set[int]) -> Mended:
    """Events, ledger (keys are places in `rows`) and observation periods of a MEDS source."""
    out = Mended()
    out.calendar = _calendar(rows, config)
    future = None
    if config.extract_date is not None and out.calendar == "real":
        future = datetime.fromisoformat(config.extract_date)
    judged = [Judged(place, row, role_of(row)) for place, row in enumerate(rows)]
    lives: dict[int, Life] = {}
    for row in judged:
        subject = row.row["subject_id"]
        if subject is None:
            row.removed = Rule.MISSING_SUBJECT
        elif subject in excluded:
            row.removed = Rule.EXCLUDED_SUBJECT
        else:
            lives.setdefault(subject, Life(subject, [])).rows.append(row)
    for life in lives.values():
        judge(life, config, future)
    _find_visits(list(lives.values()), config, out)
    measured = []
    for life in lives.values():
        measured += _link(life, has_visits=out.has_visits)
        _put_facts(life, out)
    settle_values([event for event, _ in measured], config)
    for event, record in measured:
        out.put(
            event.subject,
            Role.CODE,
            event.code,
            table=event.table,
            time=record.time,
            available=record.content["available"],
            numeric_value=stored(event.number),
            unit=event.unit,
            text_value=event.text,
            visit_id=None if record.visit is None else record.visit.number,
        )
    for row in judged:
        out.enter("data", str(row.place), row.removed, row.changes)
    extract = None if config.extract_date is None else datetime.fromisoformat(config.extract_date)
    deaths = {life.subject: death for life in lives.values() if (death := _recorded_death(life))}
    out.fill_periods(config, extract, deaths)
    return out


def _recorded_death(life: Life) -> datetime | None:
    return life.death if life.kept(Role.DEATH) else None


def _calendar(rows: list[MedsRow], config: IngestConfig) -> str:
    if config.calendar != "auto":
        return config.calendar
    border = datetime.fromisoformat(config.extract_date or FAR_FUTURE)
    times = [r["time"] for r in rows if r["time"] and r["time"].year not in config.sentinel_years]
    return "shifted" if sum(t > border for t in times) > 0.5 * len(times) else "real"


def role_of(row: MedsRow) -> Role:
    """What a row is: by its code, by having no time, by our own columns."""
    code, table = row["code"] or "", row["table"] or ""
    for name, role in (("MEDS_BIRTH", Role.BIRTH), ("MEDS_DEATH", Role.DEATH)):
        if code == name or code.startswith(f"{name}//"):
            return role
    upper = code.upper()
    for prefix, role in (
        *(("GENDER/", Role.SEX), ("SEX/", Role.SEX), ("RACE/", Role.RACE)),
        ("ETHNICITY/", Role.STATIC),
    ):
        if upper.startswith(prefix):
            return role
    if row["time"] is None:
        return Role.STATIC
    if table == "visit_occurrence" and code.startswith("Visit/") and row["end_time"]:
        return Role.VISIT
    if table == "visit_occurrence" and code.startswith("Discharge/"):
        return Role.DISCHARGE
    return Role.DETAIL if table == "visit_detail" and row["end_time"] else Role.CODE


def event_code(code: str) -> str:
    """The code as the event table has it: one spelling of facts about the subject."""
    row = dict.fromkeys(("code", "time", "table", "end_time"))
    role = role_of(row | {"code": code, "time": datetime.min})
    rest = code.split("/", 1)[-1].lstrip("/")
    if role is Role.SEX:
        named = {"F": "F", "FEMALE": "F", "8532": "F", "M": "M", "MALE": "M", "8507": "M"}
        return f"Gender/{named.get(rest.upper(), 'U')}"
    facts = {Role.RACE: f"Race/{rest}", Role.STATIC: f"Ethnicity/{rest}"}
    facts |= {Role.BIRTH: "MEDS_BIRTH", Role.DEATH: "MEDS_DEATH"}
    return facts.get(role, code)


def judge(life: Life, config: IngestConfig, future: datetime | None) -> None:
    """The rules that need no visit, in their order."""
    usable = [r for r in life.rows if r.time and r.time.year not in config.sentinel_years]
    births = [r.time for r in usable if r.role is Role.BIRTH]
    life.birth = min(births, default=None)
    deaths = [
        day_end(r.time) if _is_death_date(r) else r.time
        for r in usable
        if r.role is Role.DEATH and not (life.birth and day(r.time) < day(life.birth))
    ]
    life.death = min(deaths, default=None)
    seen = set()
    for r in life.rows:
        if r.row["code"] is None:
            r.removed = Rule.MISSING_CODE
            continue
        content = _content(r)
        if content in seen:
            r.removed = Rule.EXACT_DUPLICATE
        seen.add(content)
        r.removed = r.removed or _removal(r, life, config, future)
        if r.removed is None:
            _read(r, life, config)
    for role, rule in (
        *((Role.BIRTH, Rule.BIRTH_DUPLICATE), (Role.DEATH, Rule.DEATH_DUPLICATE)),
        *((Role.SEX, Rule.STATIC_DUPLICATE), (Role.RACE, Rule.STATIC_DUPLICATE)),
    ):
        of_time = role in (Role.BIRTH, Role.DEATH)
        several = sorted(
            life.kept(role),
            key=lambda r: (r.time if of_time else datetime.min, r.code.encode(), r.place),
        )
        for r in several[1:]:
            r.removed = rule


def _is_death_date(r: Judged) -> bool:
    return is_midnight(r.time) and r.row["available_time"] is None


def _content(r: Judged) -> tuple:
    """All that is read of a row; the spelling of a fact's code and of a number does not count."""
    number = r.row["numeric_value"]
    if number is not None:
        number = "NaN" if number != number else number + 0.0
    texts = (_trimmed(r.row[name]) for name in ("text_value", "unit", "table"))
    times = (r.row[name] for name in ("time", "end_time", "available_time", "visit_id"))
    return r.role, r.code, number, *texts, *times


def _trimmed(text: str | None) -> str | None:
    return (text or "").strip(" ") or None


def _removal(r: Judged, life: Life, config: IngestConfig, future: datetime | None) -> Rule | None:
    if r.time is None:
        return Rule.MISSING_TIME if r.role in (Role.BIRTH, Role.DEATH) else None
    if r.role in (Role.SEX, Role.RACE, Role.STATIC):
        return None
    if r.time.year in config.sentinel_years:
        return Rule.SENTINEL_TIME
    if r.role is Role.BIRTH:
        return None
    is_kept = config.prenatal_policy == "keep" and r.role is not Role.DEATH
    days = config.prenatal_days if is_kept else 0
    if life.birth is not None and (day(life.birth) - day(r.time)).days > days:
        return Rule.BEFORE_BIRTH
    if future is not None and day(r.time) > future:
        return Rule.FUTURE_DATE
    if r.role is not Role.DEATH and life.death is not None and r.time > life.death:
        return Rule.AFTER_DEATH
    return None


def _read(r: Judged, life: Life, config: IngestConfig) -> None:
    r.value = parse_value(r.row["numeric_value"], _trimmed(r.row["text_value"]))
    r.changes |= r.value.changes
    end, start = r.row["end_time"], r.time
    if end is not None and end.year in config.sentinel_years:
        r.changes.add(Rule.SENTINEL_END)
    elif (
        end is not None
        and start is not None
        and (day(end) < day(start) or (end < start and not is_midnight(end)))
    ):
        r.changes.add(Rule.END_BEFORE_START)
    else:
        r.end = end
    if start is not None and life.birth is not None and day(start) < day(life.birth):
        r.changes.add(Rule.PRENATAL)
    if r.role is Role.DEATH and _is_death_date(r):
        r.changes.add(Rule.DEATH_DATE_ONLY)


def _find_visits(lives: list[Life], config: IngestConfig, out: Mended) -> None:
    """Visits of all subjects: rows of their own where the source has such, else pairs of codes."""
    if any(life.kept(Role.VISIT) for life in lives):
        _take_rows(lives, config)
    else:
        pairs = {life.subject: find_pairs(life, config) for life in lives}
        starts = [p.start for found in pairs.values() for p in found if not p.is_detail]
        is_date = is_midnight_date(starts, config)
        for life in lives:
            mine = pairs[life.subject]
            sources = stage_pairs(life, mine, midnight_is_a_date=is_date)
            life.visits, life.details = mend_visits(sources, [], life.death, config)
            settle_pairs(life, mine)
    out.has_visits = any(life.visits for life in lives)
    for life in lives:
        _settle_columns(life)


def _order_of(r: Judged) -> tuple:
    return r.time, r.end is not None, r.end or r.time


def _identity_of(r: Judged) -> tuple:
    """Visits by their ids, those without one first; ties by what else they say."""
    ref = r.row["visit_id"]
    end = (False,) if r.end is None else (True, r.end)
    return (ref is not None, ref or 0), r.time, end, r.code.encode(), r.place


def _take_rows(lives: list[Life], config: IngestConfig) -> None:
    """Rows that are visits; mended only where some of the source's overlap."""
    starts, is_disjoint = [], True
    for life in lives:
        ends: list[datetime] = []
        for r in sorted(life.kept(Role.VISIT), key=_order_of):
            is_disjoint &= not ends or r.time >= max(ends)
            ends += [r.end] if r.end else []
            starts.append(r.time)
    is_date = not is_disjoint and is_midnight_date(starts, config)
    for life in lives:
        rows = sorted(life.kept(Role.VISIT), key=_identity_of)
        life.by_ref = {}
        sources = []
        for r in rows:
            order = _identity_of(r)
            source = placed(r, r.code, r.time, r.end, life, order=order, midnight_is_a_date=is_date)
            sources.append(source)
            life.by_ref.setdefault(r.row["visit_id"], source)
        life.by_ref.pop(None, None)
        for r in sorted(life.kept(Role.DISCHARGE), key=lambda r: r.code.encode(), reverse=True):
            for source, row in zip(sources, rows, strict=True):
                if row.row["visit_id"] is not None and row.row["visit_id"] == r.row["visit_id"]:
                    source.discharge = r.code
        if is_disjoint:
            for r, source in sorted(zip(rows, sources, strict=True), key=lambda p: _order_of(p[0])):
                finish = earliest(r.end or r.time, life.death)
                source.visit = Visit([source], r.time, finish)
                life.visits.append(source.visit)
            continue
        linked = [
            LinkedTime(life.by_ref[r.row["visit_id"]], r.time, is_date=False)
            for r in life.kept(Role.CODE)
            if r.row["visit_id"] in life.by_ref
        ]
        life.visits, life.details = mend_visits(sources, linked, life.death, config)
        for r, source in zip(rows, sources, strict=True):
            r.removed = source.removed
            r.changes |= source.changes


def _settle_columns(life: Life) -> None:
    """Rows that are details and discharges of visits that are rows."""
    for r in life.kept(Role.DETAIL):
        source = (life.by_ref or {}).get(r.row["visit_id"])
        visit = None if source is None else source.visit
        if visit is None or r.end is None or r.time > visit.finish or r.end < visit.start:
            r.removed = Rule.DETAIL_WITHOUT_VISIT
        else:
            start, finish = max(r.time, visit.start), min(r.end, visit.finish)
            life.details.append(Detail(visit, start, finish, r.code))
    for r in life.kept(Role.DISCHARGE):
        source = (life.by_ref or {}).get(r.row["visit_id"])
        if source is None or source.visit.discharge != r.code:
            r.removed = Rule.DISCHARGE_NOT_USED


def _link(life: Life, *, has_visits: bool) -> list[tuple[Measured, Record]]:
    """Code events of a life, linked to visits."""
    rows = [r for r in life.kept(Role.CODE) if not r.is_silent]
    records = []
    for r in rows:
        source = (life.by_ref or {}).get(r.row["visit_id"])
        own = None if source is None else source.visit
        records.append(Record((r.place,), life.subject, "", r.time, False, own, changes=r.changes))
    artificial = link_records(records, life.visits, life.death) if has_visits else []
    number_visits(life.visits, artificial)
    life.visits = [*life.visits, *artificial]
    linked = []
    for r, record in zip(rows, records, strict=True):
        known = r.row["available_time"] or r.time
        if record.is_in_visit:
            known = min(max(known, record.visit.start), record.visit.finish)
        record.content["available"] = earliest(known, life.death)
        if record.how == ARTIFICIAL:
            r.changes.add(Rule.ARTIFICIAL_VISIT)
        elif life.by_ref is not None and record.how == CLAMPED:
            r.changes.add(Rule.CLAMPED_TO_VISIT)
        elif life.by_ref is not None and record.how == RELINKED:
            r.changes.add(Rule.RELINKED_BY_DATE)
        event = Measured(
            subject=life.subject,
            table=_trimmed(r.row["table"]) or "",
            code=r.code,
            number=r.value.number,
            unit=unit_name(None, None, r.row["unit"]),
            text=r.value.text,
            is_fixed_text=r.value.text in FIXED,
            changes=r.changes,
        )
        linked.append((event, record))
    return linked


def _put_facts(life: Life, out: Mended) -> None:
    """Birth, death, facts without time, and the visits."""
    times = {Role.BIRTH: life.birth, Role.DEATH: life.death}
    for r in life.rows:
        if r.removed is None and (r.role <= Role.STATIC or r.role is Role.DEATH):
            table = _trimmed(r.row["table"]) or ""
            out.put(life.subject, r.role, r.code, table=table, time=times.get(r.role))
    codes = {}
    for visit in life.visits:
        code = "Visit/0" if visit.is_artificial else visit.head.concept
        if not visit.is_artificial and visit.is_by_length:
            code = "Visit/IP"
        codes[visit.number] = code, None if visit.is_artificial else visit.discharge
    out.put_visits(
        life.subject, life.visits, life.details, codes, [d.concept for d in life.details]
    )
