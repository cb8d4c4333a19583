"""The event table, the ledger and the observation periods that the twin makes of a source."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from tests.twin.times import day_end, earliest, latest

from chronoward.schema import Role, event_schema, observation_schema

if TYPE_CHECKING:
    from datetime import datetime

    from tests.twin.visits import Detail, Visit

    from chronoward.data import IngestConfig
    from chronoward.data.rules import Rule

# canonical order of a subject's events, nulls first
ORDER = (
    *("available_time", "role", "table", "code", "unit", "numeric_value", "text_value", "time"),
    *("visit_id", "end_time"),
)


@dataclass
class Mended:
    """What a source becomes."""

    events: list[dict[str, Any]] = field(default_factory=list)
    ledger: list[tuple[str, str, str, tuple[str, ...]]] = field(default_factory=list)
    """(table, key, removing rule or "", changing rules sorted), a row a record."""
    periods: list[tuple[int, datetime, datetime]] = field(default_factory=list)
    calendar: str = "real"
    has_visits: bool = False

    def put(
        self,
        subject: int,
        role: Role,
        code: str,
        *,
        table: str = "",
        time: datetime | None = None,
        available: datetime | None = None,
        **other: Any,
    ) -> None:
        """Adds an event; what is not said is null, and it was known when it happened."""
        row = dict.fromkeys(event_schema().names)
        row |= {"subject_id": subject, "role": int(role), "code": code, "table": table}
        row |= {"time": time, "available_time": time if available is None else available}
        self.events.append(row | other)

    def enter(self, table: str, key: str, removed: Rule | None, changes: set[Rule]) -> None:
        """Enters a record into the ledger; a removed record was not changed."""
        said = () if removed else tuple(sorted(str(change) for change in changes))
        self.ledger.append((table, key, str(removed or ""), said))

    def put_visits(
        self,
        subject: int,
        visits: list[Visit],
        details: list[Detail],
        codes: dict[int, tuple[str, str | None]],
        detail_codes: list[str],
    ) -> None:
        """Adds visits with their discharges, and details; `codes` by the visit's number."""
        for visit in visits:
            code, discharge = codes[visit.number]
            shared = {"table": "visit_occurrence", "visit_id": visit.number}
            self.put(subject, Role.VISIT, code, time=visit.start, end_time=visit.finish, **shared)
            if discharge is not None:
                self.put(subject, Role.DISCHARGE, discharge, time=visit.finish, **shared)
        for detail, code in zip(details, detail_codes, strict=True):
            self.put(
                subject,
                Role.DETAIL,
                code,
                table="visit_detail",
                time=detail.start,
                end_time=detail.finish,
                visit_id=detail.visit.number,
            )

    def fill_periods(
        self, config: IngestConfig, extract: datetime | None, deaths: dict[int, datetime]
    ) -> None:
        """Observation of those without a period: from the first event to the last known moment."""
        known = {subject for subject, _, _ in self.periods}
        by_extract = config.observation_end == "extract_date" and extract is not None
        for subject in {row["subject_id"] for row in self.events} - known:
            rows = [r for r in self.events if r["subject_id"] == subject and r["time"]]
            if not rows:
                continue
            life = [r["time"] for r in rows if r["role"] != Role.BIRTH]
            last = latest(
                *(t for r in rows for t in (r["time"], r["available_time"], r["end_time"])),
                day_end(extract) if by_extract else None,
            )
            first = min(life or [r["time"] for r in rows])
            self.periods.append((subject, first, earliest(last, deaths.get(subject))))

    def event_table(self) -> pa.Table:
        """Event table in canonical order (`chronoward.schema`)."""

        def place(row: dict[str, Any]) -> tuple:
            values = (row[name] for name in ORDER)
            texts = (v.encode() if isinstance(v, str) else v for v in values)
            return row["subject_id"], *((v is not None, v or type(v)()) for v in texts)

        return pa.Table.from_pylist(sorted(self.events, key=place), schema=event_schema())

    def observation_table(self) -> pa.Table:
        """Observation periods (`chronoward.schema.observation_schema`)."""
        names = observation_schema().names
        rows = [dict(zip(names, period, strict=True)) for period in sorted(self.periods)]
        return pa.Table.from_pylist(rows, schema=observation_schema())

    def rules(self) -> dict[str, int]:
        """Records by rule."""
        count = Counter[str]()
        for _, _, removed, changes in self.ledger:
            count.update([removed] if removed else changes)
        return dict(sorted(count.items()))
