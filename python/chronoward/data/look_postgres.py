"""The tables of a PostgreSQL server as `look_at_omop` wants them: aggregates run on the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chronoward.data.look_omop import OmopTables, look_at_omop
from chronoward.data.omop_tables import Columns
from chronoward.data.postgres import cast_column
from chronoward.data.source import SourceTable
from chronoward.data.workspace import quote_name

if TYPE_CHECKING:
    from chronoward.data.look import SourceLook
    from chronoward.data.postgres import PostgresSource, RemoteTable

_DAY = "interval '1 day'"
_DATE = "^(?!0000)[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])([ T]|$)"
_HOUR = "^.{10}[ T]((?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9])?)"
_KINDS = {
    **dict.fromkeys(("int2", "int4", "int8"), "INTEGER"),
    **dict.fromkeys(("float4", "float8"), "DOUBLE"),
    "date": "DATE",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMP WITH TIME ZONE",
}


class PostgresColumns(Columns):
    """The casts that PostgreSQL spells differently: it has no cast that gives null."""

    def integer(self, column: str | None) -> str:
        """An id; null where the column holds something else."""
        return self._cast(column, "bigint", "^[0-9]{1,18}$")

    def number(self, column: str | None) -> str:
        """A floating-point number; null where the column holds something else."""
        return self._cast(column, "double precision", r"^-?[0-9]{1,18}(\.[0-9]*)?$")

    def _cast(self, column: str | None, kind: str, pattern: str) -> str:
        if column is None or not self.has(column):
            return f"NULL::{kind}"
        name = quote_name(column)
        if not self.is_text(column):
            return f"{name}::{kind}"
        return f"CASE WHEN {name} ~ '{pattern}' THEN {name}::{kind} END"

    def reference(self, column: str | None) -> str:
        """A key of another table; keys that are text are hashed."""
        if column is None or not self.has(column) or not self.is_text(column):
            return self.integer(column)
        return f"COALESCE({self.integer(column)}, hashtext({quote_name(column)})::bigint)"

    def time(self, column: str | None) -> str:
        """A point in time without zone; null where text is no date."""
        if column is None or not self.has(column):
            return "NULL::timestamp"
        name = quote_name(column)
        if not self.is_text(column):
            return f"{name}::timestamp"
        # Days are added to the month's first: 30 February is then found out, not an error.
        month = f"(substr({name}, 1, 7) || '-01')::timestamp"
        day = f"{month} + (substr({name}, 9, 2)::int - 1) * {_DAY}"
        hour = f"COALESCE(substring({name} from '{_HOUR}')::interval, interval '0')"
        return (
            f"CASE WHEN {name} ~ '{_DATE}' THEN CASE WHEN to_char({day}, 'MM') = "
            f"substr({name}, 6, 2) THEN {day} + {hour} END END"
        )


def look_at_database(source: PostgresSource) -> SourceLook:
    """Looks at a database's CDM tables in one transaction; only aggregates leave the server.

    Raises:
        ConfigError, ConnectionError, DataError: see `PostgresSource.copy`.
    """
    with source.transaction() as session:
        tables = {name: _describe(name, table) for name, table in session.find_tables().items()}

        def rows(sql: str, name: str) -> list[tuple[Any, ...]]:
            return session.rows(sql, f"table {name}")

        return look_at_omop(
            OmopTables(
                tables=tables,
                rows=rows,
                columns=PostgresColumns,
                distinct="count(DISTINCT {})",
                sample="mod(s.person, 8) = 0",  # the server sorts to count
                fence=" OFFSET 0",
                storage="postgresql",
                described=f"PostgreSQL, {len(tables)} tables",
            )
        )


def _describe(name: str, table: RemoteTable) -> SourceTable:
    columns, casts = {}, []
    for column, kind in table.columns.items():
        cast = cast_column(quote_name(column), kind, column)
        known = _KINDS.get(kind, "VARCHAR")
        columns[column.lower()] = "DOUBLE" if cast.endswith("double precision") else known
        casts.append(f"{cast} AS {quote_name(column.lower())}")
    scan = f"(SELECT {', '.join(casts)} FROM {table.sql})"
    return SourceTable(name, (), columns, scan, is_text=False, origin=f"table {name}")
