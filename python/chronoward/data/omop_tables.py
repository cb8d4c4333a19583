"""OMOP tables: what is read of each, and the casts that are counted.

A value that cannot be cast is null with a flag beside it, never an error: an error is for
structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chronoward.data.workspace import quote_name
from chronoward.errors import DataError

if TYPE_CHECKING:
    from chronoward.data.source import SourceTable
    from chronoward.data.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Clinical:
    """Columns of a clinical table by what they mean; None: the table has no such column."""

    key: str
    concept: str
    source_concept: str
    source_value: str
    day: str
    at: str
    type: str
    end_day: str | None = None
    end_at: str | None = None
    status: str | None = None
    number: str | None = None
    text: tuple[str, ...] = ()
    value_concept: str | None = None
    operator: str | None = None
    unit: str | None = None
    unit_text: str | None = None


def _named(stem: str, day: str, *, end: str | None = None) -> Any:
    names = {
        "concept": f"{stem}_concept_id",
        "source_concept": f"{stem}_source_concept_id",
        "source_value": f"{stem}_source_value",
        "type": f"{stem}_type_concept_id",
        "day": f"{day}_date",
        "at": f"{day}_datetime",
    }
    return names | ({"end_day": f"{end}_date", "end_at": f"{end}_datetime"} if end else {})


CLINICAL: dict[str, Clinical] = {
    "condition_occurrence": Clinical(
        key="condition_occurrence_id",
        status="condition_status_concept_id",
        **_named("condition", "condition_start", end="condition_end"),
    ),
    "device_exposure": Clinical(
        key="device_exposure_id",
        **_named("device", "device_exposure_start", end="device_exposure_end"),
    ),
    "drug_exposure": Clinical(
        key="drug_exposure_id",
        **_named("drug", "drug_exposure_start", end="drug_exposure_end"),
    ),
    "measurement": Clinical(
        key="measurement_id",
        number="value_as_number",
        text=("value_source_value",),
        value_concept="value_as_concept_id",
        operator="operator_concept_id",
        unit="unit_concept_id",
        unit_text="unit_source_value",
        **_named("measurement", "measurement"),
    ),
    "observation": Clinical(
        key="observation_id",
        number="value_as_number",
        text=("value_as_string", "value_source_value"),
        value_concept="value_as_concept_id",
        unit="unit_concept_id",
        unit_text="unit_source_value",
        **_named("observation", "observation"),
    ),
    "procedure_occurrence": Clinical(
        key="procedure_occurrence_id",
        **_named("procedure", "procedure", end="procedure_end"),
    ),
}

# Tables about persons that make no events; their records are in the ledger all the same.
NOT_USED: dict[str, str | None] = {
    "condition_era": "condition_era_id",
    "cost": "cost_id",
    "dose_era": "dose_era_id",
    "drug_era": "drug_era_id",
    "episode": "episode_id",
    "episode_event": None,
    "fact_relationship": None,
    "note": "note_id",
    "note_nlp": "note_nlp_id",
    "payer_plan_period": "payer_plan_period_id",
    "specimen": "specimen_id",
}

# Tables in which other records are looked up; the ledger does not hold them.
DICTIONARIES = frozenset(
    (
        *("cdm_source", "concept", "concept_ancestor", "concept_class", "concept_relationship"),
        *("concept_synonym", "domain", "drug_strength", "relationship", "source_to_concept_map"),
        "vocabulary",
    )
)

# Order of the tables in the event table is the order of their names; "" is for facts without one.
TABLES: tuple[str, ...] = (
    "",
    *sorted([*CLINICAL, "death", "observation_period", "person", "visit_detail"]),
    "visit_occurrence",
)


def table_number(name: str) -> int:
    """The number of a table in column `tbl`."""
    return TABLES.index(name)


def whole_number(text: str) -> str:
    """SQL of an integer in text; null where there is none: DuckDB's own cast rounds 1.5 to 2."""
    is_whole = f"regexp_full_match({text}, ' *[+-]?[0-9]{{1,18}}[.]0* *')"
    return f"CASE WHEN NOT contains({text}, '.') OR {is_whole} THEN TRY_CAST({text} AS BIGINT) END"


def in_calendar(time: str) -> str:
    """Whether a time lies in the years 1 to 9999; null for null (infinity is outside)."""
    return f"({time} BETWEEN TIMESTAMP '0001-01-01' AND TIMESTAMP '9999-12-31 23:59:59.999999')"


class Columns:
    """SQL expressions over one source table's columns, cast by what the column should hold."""

    def __init__(self, table: SourceTable) -> None:
        self.table = table

    def has(self, column: str | None) -> bool:
        """Whether the table has the column."""
        return column is not None and column in self.table.columns

    def text(self, column: str | None) -> str:
        """A string without blanks at its ends; null for the empty string."""
        if column is None or not self.has(column):
            return "NULL::VARCHAR"
        return f"NULLIF(TRIM({quote_name(column)}::VARCHAR), '')"

    def integer(self, column: str | None) -> str:
        """An id; null where the column holds something else."""
        if column is None or not self.has(column):
            return "NULL::BIGINT"
        name = quote_name(column)
        if self.is_text(column):
            return whole_number(name)
        if self.table.columns[column] == "DOUBLE":  # exact up to 2^53
            return (
                f"CASE WHEN {name} = trunc({name}) AND abs({name}) <= 9007199254740992 THEN "
                f"TRY_CAST({name} AS BIGINT) END"
            )
        return f"TRY_CAST({name} AS BIGINT)"

    def reference(self, column: str | None) -> str:
        """A key of another table; keys that are text are hashed, the same way everywhere."""
        if column is None or not self.has(column):
            return "NULL::BIGINT"
        if self.table.columns[column] == "INTEGER":
            return self.integer(column)
        text = self.text(column)
        return f"COALESCE({whole_number(text)}, (hash({text}) >> 1)::BIGINT)"

    def number(self, column: str | None) -> str:
        """A floating-point number; null where the column holds something else."""
        if column is None or not self.has(column):
            return "NULL::DOUBLE"
        name = quote_name(column)
        if self.is_text(column):  # DuckDB reads 1_000 as a thousand
            return f"CASE WHEN NOT contains({name}, '_') THEN TRY_CAST({name} AS DOUBLE) END"
        return f"TRY_CAST({name} AS DOUBLE)"

    def failed(self, column: str | None, cast: str) -> str:
        """Whether a text is there that `cast` could not read."""
        if column is None or not self.has(column) or not self.is_text(column):
            return "false"
        return f"({self.text(column)} IS NOT NULL AND {cast} IS NULL)"

    def is_text(self, column: str) -> bool:
        """Whether the source holds the column as text."""
        return self.table.columns[column] == "VARCHAR"

    def time(self, column: str | None) -> str:
        """A point in time without zone, in microseconds."""
        if column is None or not self.has(column):
            return "NULL::TIMESTAMP"
        if not self.is_text(column):
            return f"{quote_name(column)}::TIMESTAMP"
        text = self.text(column)
        return (
            f"COALESCE(TRY_CAST({text} AS TIMESTAMP), "
            f"TRY_CAST(TRY_STRPTIME({text}, '%Y%m%d') AS TIMESTAMP))"
        )

    def day(self, column: str | None) -> str:
        """A date, as the point in time at its start."""
        return f"date_trunc('day', {self.time(column)})"

    def start_bad(self, day: str, at: str) -> str:
        """Whether a start is written but can be read neither as date nor as datetime."""
        bad = f"({self.failed(day, self.time(day))} OR {self.failed(at, self.time(at))})"
        return f"({bad} AND {self.time(day)} IS NULL AND {self.time(at)} IS NULL)"


def check_times(work: Workspace, table: SourceTable, columns: tuple[str | None, ...]) -> None:
    """Checks that time columns hold times without zone (text columns by their first 1,000 values).

    Raises:
        DataError: another type, a zone, or text that is no date at all.
    """
    for column in columns:
        if column is None or column not in table.columns:
            continue
        kind = table.columns[column]
        if kind not in ("DATE", "TIMESTAMP", "VARCHAR", "NULL"):
            zone = "has a time zone; times must be local" if "ZONE" in kind else f"has type {kind}"
            message = f"{table.origin}: column {column} {zone}, expected a date or timestamp"
            raise DataError(message)
        if kind != "VARCHAR":
            continue
        expression = Columns(table)
        text, time = expression.text(column), expression.time(column)
        seen, good, row = work.rows(
            f"SELECT count(t), count(*) FILTER (good), min(row) FILTER (zoned) FROM ("
            f"SELECT t, row_number() OVER () AS row, time IS NOT NULL AS good, "
            f"regexp_matches(t, '[0-9]:[0-9.:]+ ?(Z|[+-][0-9]{{2}}(:?[0-9]{{2}})?)$') AS zoned "
            f"FROM (SELECT {text} AS t, {time} AS time FROM {table.scan} "
            f"WHERE {text} IS NOT NULL LIMIT 1000))"
        )[0]
        if row is not None:
            message = (
                f"{table.origin}: column {column} has a time zone (row {row} of those with a "
                "value); times must be local"
            )
            raise DataError(message)
        if seen >= 10 and not good:
            message = f"{table.origin}: column {column} holds no dates"
            raise DataError(message)


def key_expression(table: SourceTable, key: str | None) -> str:
    """The record's key in the ledger: its primary key, else `<file>:<row>`."""
    if key is not None and key in table.columns:
        return Columns(table).text(key)
    return f"'{table.name}:' || (row_number() OVER ())::VARCHAR"


def check_keys(work: Workspace, stage: str, table: SourceTable, key: str) -> None:
    """Checks that no staged record lacks its key.

    Raises:
        DataError: some do.
    """
    n_null = work.value(
        f"SELECT count(*) FROM {stage} WHERE key IS NULL AND tbl = {table_number(table.name)}"
    )
    if n_null:
        message = f"{table.origin}: {n_null} rows have no {key}"
        raise DataError(message)
