"""A quick look at OMOP tables, in SQL that DuckDB and PostgreSQL both understand.

Each table is scanned once, beside the visits and deaths that its records point to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chronoward.data.config import IngestConfig
from chronoward.data.look import SourceLook, TableLook, Trap
from chronoward.data.omop import FAR_FUTURE
from chronoward.data.omop_tables import CLINICAL, DICTIONARIES, TABLES, Columns
from chronoward.data.workspace import number_list, quote_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from chronoward.data.omop_tables import Clinical
    from chronoward.data.source import SourceTable

_LOCAL_CONCEPT = 2_000_000_000
_YEAR_SECONDS = 365.25 * 86_400
_CONFIG = IngestConfig()


@dataclass(frozen=True)
class OmopTables:
    """Tables to look at, and how.

    Attributes:
        tables: by lower-case name.
        rows: runs SQL and returns all rows; the second argument names the table in messages.
        columns: expressions in the database's SQL.
        distinct: SQL that counts different values of `{}`.
        sample: condition on `s.person` under which they are counted.
        fence: ends a subquery whose expressions are to be computed once a row.
        storage, described: as of `SourceLook`.
    """

    tables: dict[str, SourceTable]
    rows: Callable[[str, str], list[tuple[Any, ...]]]
    columns: type[Columns]
    distinct: str
    sample: str
    fence: str
    storage: str
    described: str

    def measure(self, measures: dict[str, str], relation: str, name: str) -> dict[str, Any]:
        """Aggregates of a relation (a FROM clause) by the names given to them."""
        (row,) = self.rows(f"SELECT {', '.join(measures.values())} FROM {relation}", name)
        return dict(zip(measures, row, strict=True))


@dataclass
class _Found:
    """What the scans add up to."""

    looks: dict[str, TableLook]
    traps: list[Trap]
    n_late: int = 0
    n_timed: int = 0

    def add(self, table: SourceTable, seen: dict[str, Any]) -> None:
        """Enters a table from the measures that were taken of it."""
        n, mapped = seen["rows"], seen.get("mapped")
        self.looks[table.name] = TableLook(
            name=table.name,
            n_rows=n,
            n_columns=len(table.columns),
            mapped=mapped / n if n and mapped is not None else None,
            first=seen.get("first"),
            last=seen.get("last"),
        )
        self.n_late += seen.get("late", 0)
        self.n_timed += seen.get("known", 0) if "late" in seen else 0

    def trap(self, what: str, n: int, of: int, *, is_estimate: bool = False) -> None:
        """Enters a trap that occurs."""
        if n:
            self.traps.append(Trap(what, int(n), int(of), is_estimate))


def look_at_omop(source: OmopTables) -> SourceLook:
    """Looks at every table that is read, and names the others.

    Raises:
        DataError: a required column is missing, or a file is malformed.
        FormatError: a damaged file.
    """
    found = _Found({}, [])
    extract_date = _extract_date(source)
    border = quote_text(extract_date or FAR_FUTURE)
    n_subjects = _look_at_persons(source, found)
    n_deaths = _look_at_deaths(source, found)
    n_visits = _look_at_visits(source, found, border)
    n_records = sum(
        _look_at_records(source, found, name, border) for name in CLINICAL if name in source.tables
    )
    years, origin = _follow_up(source)
    for name, table in source.tables.items():
        if name not in found.looks:
            found.looks[name] = TableLook(
                name=name, n_rows=_count_rest(source, name), n_columns=len(table.columns)
            )
    details = found.looks.get("visit_detail")
    return SourceLook(
        form="omop",
        storage=source.storage,
        described=source.described,
        tables=[look for _, look in sorted(found.looks.items())],
        n_subjects=n_subjects,
        n_records=n_records,
        n_visits=n_visits,
        n_details=(details.n_rows or 0) if details else 0,
        n_deaths=n_deaths,
        calendar="shifted" if found.n_late > 0.5 * found.n_timed else "real",
        follow_up_years=years,
        follow_up_from=origin,
        traps=found.traps,
        notes=_notes(source, extract_date),
    )


def _count_rest(source: OmopTables, name: str) -> int | None:
    """Rows of a table without a look of its own; None where that means reading it in vain."""
    table = source.tables[name]
    is_cheap = source.storage in ("parquet", "duckdb") and not table.is_text
    if name in TABLES or is_cheap:
        return int(source.measure({"n": "count(*)"}, f"{table.scan} AS t", name)["n"])
    return None


def _extract_date(source: OmopTables) -> str | None:
    table = source.tables.get("cdm_source")
    if table is None or "source_release_date" not in table.columns:
        return None
    day = source.columns(table).day("source_release_date")
    found = source.measure({"day": f"max({day})"}, f"{table.scan} AS t", table.name)["day"]
    return None if found is None else f"{found:%Y-%m-%d}"


def _look_at_persons(source: OmopTables, found: _Found) -> int:
    table = source.tables["person"]
    table.require("person_id", "gender_concept_id", "year_of_birth")
    year = source.columns(table).integer("year_of_birth")
    measures = {
        "rows": "count(*)",
        "unborn": f"count(*) FILTER (WHERE NOT COALESCE({year}, 0) BETWEEN 2 AND 9998)",
    }
    seen = source.measure(measures, f"{table.scan} AS t", table.name)
    found.add(table, seen)
    found.trap("persons without a year of birth", seen["unborn"], seen["rows"])
    return int(seen["rows"])


def _start(c: Columns, day: str, at: str) -> str:
    return f"COALESCE({c.time(at)}, {c.time(day)})"


def _unknown(column: str) -> str:
    """Whether a time lies in a year that means unknown; comparisons, as EXTRACT costs more."""
    spans = []
    for year in _CONFIG.sentinel_years:
        after = "" if year == 9999 else f" AND {column} < TIMESTAMP '{year + 1:04}-01-01'"
        spans.append(f"({column} >= TIMESTAMP '{year:04}-01-01'{after})")
    return f"({column} IS NOT NULL AND ({' OR '.join(spans)}))"


_TIMES = {
    "rows": "count(*)",
    "known": "count(*) FILTER (WHERE s.known)",
    "dates": "count(*) FILTER (WHERE s.dated)",
    "first": "min(s.start) FILTER (WHERE s.known)",
    "last": "max(s.start) FILTER (WHERE s.known)",
}


def _timed(source: OmopTables, records: str) -> str:
    """Records with columns `start` and `at`, and: is the start known, vague, a date only."""
    vague = _unknown("r.start")
    known = f"(r.start IS NOT NULL AND NOT {vague})"
    return f"""(SELECT r.*, {known} AS known, {vague} AS vague,
          {known} AND (r.at IS NULL OR r.at = date_trunc('day', r.at)) AS dated
        FROM ({records}{source.fence}) AS r{source.fence}) AS s"""


def _look_at_deaths(source: OmopTables, found: _Found) -> int:
    table = source.tables.get("death")
    if table is None:
        return 0
    c = source.columns(table)
    start, at = _start(c, "death_date", "death_datetime"), c.time("death_datetime")
    records = f"SELECT {start} AS start, {at} AS at FROM {table.scan} AS t"
    seen = source.measure(_TIMES, _timed(source, records), table.name)
    found.add(table, seen)
    found.trap("deaths without a time of day", seen["dates"], seen["rows"])
    return int(seen["rows"])


def _look_at_visits(source: OmopTables, found: _Found, border: str) -> int:
    table = source.tables.get("visit_occurrence")
    if table is None:
        return 0
    table.require("person_id", "visit_occurrence_id", "visit_concept_id")
    c = source.columns(table)
    start, finish = (
        _start(c, f"visit_{edge}_date", f"visit_{edge}_datetime") for edge in ("start", "end")
    )
    hours = "EXTRACT(EPOCH FROM (s.finish - s.start)) / 3600"
    inside = number_list(_CONFIG.inpatient_concepts)
    measures = _TIMES | {
        "mapped": "count(*) FILTER (WHERE s.concept <> 0)",
        "open": "count(*) FILTER (WHERE s.finish IS NULL)",
        "long": f"count(*) FILTER (WHERE {hours} >= {_CONFIG.inpatient_hours} "
        f"AND s.concept NOT IN {inside})",
        "late": f"count(*) FILTER (WHERE s.known AND s.start > {border})",
    }
    records = f"""SELECT {start} AS start, {finish} AS finish,
          {c.time("visit_start_datetime")} AS at,
          COALESCE({c.integer("visit_concept_id")}, 0) AS concept FROM {table.scan} AS t"""
    seen = source.measure(measures, _timed(source, records), table.name)
    found.add(table, seen)
    hours_long = f"visits of {_CONFIG.inpatient_hours} h and more outside of inpatient"
    found.trap("visits without an end", seen["open"], seen["rows"])
    found.trap(hours_long, seen["long"], seen["rows"])
    return int(seen["rows"])


def _look_at_records(source: OmopTables, found: _Found, name: str, border: str) -> int:
    """Scans a clinical table beside visits and deaths; the number of its rows."""
    table, spec = source.tables[name], CLINICAL[name]
    table.require("person_id", spec.concept)
    moments = source.distinct.format("(s.person, s.start)")
    wanted = {
        "no person of table person": "p.person IS NULL",
        "no concept (id 0)": "s.concept = 0",
        f"local concepts (over {_LOCAL_CONCEPT:,})": f"s.concept > {_LOCAL_CONCEPT}",
        "no date": "s.start IS NULL",
        "a year that means unknown": "s.vague",
        "no time of day": "s.dated",
        "no visit id": "s.visit IS NULL",
        "a visit id that no visit has": "s.visit IS NOT NULL AND v.id IS NULL",
        "after the day of death": "s.known AND date_trunc('day', s.start) > d.day",
        "a value that is text": "s.number IS NULL AND s.text IS NOT NULL",
    }
    if name == "condition_occurrence":
        wanted["stamped with the start of their visit"] = "s.at = v.start"
    if spec.unit is not None:
        wanted["a number without a unit"] = (
            "s.number IS NOT NULL AND s.unit = 0 AND s.unit_text IS NULL"
        )
    measures = _TIMES | {what: f"count(*) FILTER (WHERE {sql})" for what, sql in wanted.items()}
    measures |= {
        "mapped": "count(*) FILTER (WHERE s.concept <> 0)",
        "late": f"count(*) FILTER (WHERE s.known AND s.start > {border})",
        "sampled": f"count(*) FILTER (WHERE s.known AND {source.sample})",
        "moments": f"{moments} FILTER (WHERE s.known AND {source.sample})",
    }
    relation = f"""{_timed(source, _records(source, table, spec))}
        LEFT JOIN ({_visits(source)}) AS v ON s.visit = v.id
        LEFT JOIN ({_deaths(source)}) AS d ON s.person = d.person
        LEFT JOIN ({_persons(source)}) AS p ON s.person = p.person"""
    seen = source.measure(measures, relation, name)
    found.add(table, seen)
    for what in wanted:
        found.trap(f"{name}: {what}", seen[what], seen["rows"])
    tied = f"{name}: same time as another record of the subject"
    share = max(0.0, 1 - seen["moments"] / seen["sampled"]) if seen["sampled"] else 0.0
    found.trap(tied, round(share * seen["known"]), seen["rows"], is_estimate=True)
    return int(seen["rows"])


def _records(source: OmopTables, table: SourceTable, spec: Clinical) -> str:
    c = source.columns(table)
    visit = "visit_occurrence_id"
    texts = [c.text(column) for column in spec.text if c.has(column)]
    text = f"COALESCE({', '.join(texts)})" if texts else "NULL"
    return f"""SELECT {c.reference("person_id")} AS person,
          COALESCE({c.integer(spec.concept)}, 0) AS concept,
          {_start(c, spec.day, spec.at)} AS start, {c.time(spec.at)} AS at,
          CASE WHEN {c.text(visit)} IS NOT NULL THEN {c.reference(visit)} END AS visit,
          {c.number(spec.number)} AS number, {text} AS text,
          COALESCE({c.integer(spec.unit)}, 0) AS unit, {c.text(spec.unit_text)} AS unit_text
        FROM {table.scan} AS t"""


def _persons(source: OmopTables) -> str:
    table = source.tables["person"]
    return f"""SELECT DISTINCT {source.columns(table).reference("person_id")} AS person
        FROM {table.scan} AS t"""


def _visits(source: OmopTables) -> str:
    table = source.tables.get("visit_occurrence")
    if table is None:
        return "SELECT CAST(NULL AS BIGINT) AS id, CAST(NULL AS TIMESTAMP) AS start WHERE false"
    c = source.columns(table)
    return f"""SELECT {c.reference("visit_occurrence_id")} AS id,
          min({c.time("visit_start_datetime")}) AS start FROM {table.scan} AS t GROUP BY 1"""


def _deaths(source: OmopTables) -> str:
    table = source.tables.get("death")
    if table is None:
        return "SELECT CAST(NULL AS BIGINT) AS person, CAST(NULL AS TIMESTAMP) AS day WHERE false"
    c = source.columns(table)
    day = f"date_trunc('day', min({_start(c, 'death_date', 'death_datetime')}))"
    return f"""SELECT {c.reference("person_id")} AS person, {day} AS day
        FROM {table.scan} AS t GROUP BY 1"""


def _follow_up(source: OmopTables) -> tuple[tuple[float, float, float] | None, str]:
    """Quartiles of observed years by subject, from periods, else from first to last visit."""
    for name, stem in (("observation_period", "observation_period"), ("visit_occurrence", "visit")):
        table = source.tables.get(name)
        if table is None:
            continue
        c = source.columns(table)
        start, finish = (
            _start(c, f"{stem}_{edge}_date", f"{stem}_{edge}_datetime") for edge in ("start", "end")
        )
        if name == "visit_occurrence":
            finish = f"COALESCE({finish}, {start})"
            seconds = "EXTRACT(EPOCH FROM max(s.finish) - min(s.start))"
        else:
            seconds = "sum(EXTRACT(EPOCH FROM s.finish - s.start))"
        years = f"CAST({seconds} AS DOUBLE PRECISION) / {_YEAR_SECONDS}"
        relation = f"""(SELECT {years} AS years
            FROM (SELECT {c.reference("person_id")} AS person, {start} AS start, {finish} AS finish
              FROM {table.scan} AS t) AS s
            WHERE NOT {_unknown("s.start")} AND NOT {_unknown("s.finish")}
            GROUP BY s.person) AS p"""
        order = "WITHIN GROUP (ORDER BY p.years)"
        measures = {str(q): f"percentile_cont({q}) {order}" for q in (0.25, 0.5, 0.75)}
        low, middle, high = source.measure(measures, relation, name).values()
        if low is not None:
            origin = "observation periods" if stem != "visit" else "first to last visit"
            return (float(low), float(middle), float(high)), origin
    return None, "no periods or visits: first to last event"


def _notes(source: OmopTables, extract_date: str | None) -> list[str]:
    notes = [f"extract date {extract_date}" if extract_date else "no extract date (cdm_source)"]
    if "concept" not in source.tables:
        notes.append("no table concept: codes will be OMOP/<concept_id>, without names")
    if "concept_ancestor" not in source.tables:
        notes.append("no table concept_ancestor: rare codes cannot roll up, drugs stay products")
    if "observation_period" not in source.tables:
        notes.append("no table observation_period: follow-up ends with the last event")
    if "visit_occurrence" not in source.tables:
        notes.append("no table visit_occurrence: every record gets an artificial visit")
    unread = sorted(set(source.tables) - set(TABLES) - DICTIONARIES)
    if unread:
        notes.append(f"not read: {', '.join(unread)}")
    return notes
