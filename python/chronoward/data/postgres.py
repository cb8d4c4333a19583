"""A PostgreSQL database as a source: its CDM tables, as one transaction sees them, as Parquet.

The tables come through ADBC a batch at a time, so memory does not grow with them, and are counted
against the server's own count in the same transaction. NUMERIC becomes double in the SQL: ADBC
would hand it over as text of a type of its own. A password is never in a message, a report or a
manifest: whatever is said of the database is said through `PostgresSource.label`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from chronoward.data.cdm import tables as cdm_tables
from chronoward.data.omop_tables import CLINICAL, DICTIONARIES, NOT_USED, TABLES
from chronoward.data.workspace import quote_name, quote_text, text_list
from chronoward.errors import ConfigError, DataError, StateError
from chronoward.files import atomic_path, canonical_json, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SCHEMES = ("postgresql", "postgres")
SNAPSHOT = "snapshot.json"
DICTIONARIES_READ = frozenset(("cdm_source", "concept", "concept_ancestor"))
_CONNECT_SECONDS = 15
_SHOWN = ("host", "port", "dbname", "user")
_HOSTS = re.compile(r"[\w.%-]*(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?", re.ASCII)
_MALFORMED = (
    "the database's address cannot be read; expected "
    "postgresql://user@host:port/database?schema=cdm, with @ : / ? # and blanks in any part "
    "percent-encoded"
)
_COLUMNS_SQL = """
    SELECT n.nspname::text, c.relname::text, a.attname::text,
      COALESCE(b.typname, t.typname)::text
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON c.relnamespace = n.oid
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
    JOIN pg_catalog.pg_type t ON a.atttypid = t.oid
    LEFT JOIN pg_catalog.pg_type b ON t.typtype = 'd' AND t.typbasetype = b.oid
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
      AND a.attnum > 0 AND NOT a.attisdropped AND {schemas}
    ORDER BY 1, 2, a.attnum"""
_OWN_SCHEMAS = "n.nspname NOT IN ('information_schema') AND n.nspname NOT LIKE 'pg\\_%'"


@dataclass(frozen=True)
class RemoteTable:
    """A table or view of the server.

    Attributes:
        schema, name: as the server spells them.
        columns: its columns in order, as the server spells them → type (`int8`, `numeric` …).
    """

    schema: str
    name: str
    columns: dict[str, str]

    @property
    def sql(self) -> str:
        """Its qualified name."""
        return f"{quote_name(self.schema)}.{quote_name(self.name)}"


@dataclass(frozen=True)
class PostgresSource:
    """A database, by URI.

    Attributes:
        uri: for libpq, password included; not in `repr`.
        schemas: searched in this order; none: the one that has a table `person`.
        label: how messages name the database: no password.
        name: the database's name.
    """

    uri: str = field(repr=False)
    schemas: tuple[str, ...]
    label: str
    name: str
    form: ClassVar[Literal["omop"]] = "omop"

    @classmethod
    def parse(cls, text: str) -> PostgresSource:
        """Reads `postgresql://[user[:password]@][host[:port]]/database[?schema=a,b&…]`.

        Parameters other than `schema` are libpq's.

        Raises:
            ConfigError: it is malformed; the message does not repeat it.
        """
        try:
            parts = urlsplit(text)
            query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError:
            raise ConfigError(_MALFORMED) from None
        login, _, hosts = parts.netloc.rpartition("@")
        user = login.partition(":")[0]
        database = parts.path.removeprefix("/")
        is_plain = all(_HOSTS.fullmatch(host) for host in hosts.split(","))
        if not is_plain or parts.fragment or "@" in parts.path + parts.query or "/" in database:
            raise ConfigError(_MALFORMED)
        named = ",".join(value for name, value in query if name == "schema")
        schemas = tuple(part.strip() for part in named.split(",") if part.strip())
        kept = [(name, value) for name, value in query if name != "schema"]
        shown = [(name, value) for name, value in kept if name in _SHOWN]
        if "connect_timeout" not in dict(kept) and "PGCONNECT_TIMEOUT" not in os.environ:
            kept.append(("connect_timeout", str(_CONNECT_SECONDS)))
        if schemas:
            shown.append(("schema", ",".join(schemas)))
        address = f"postgresql://{user + '@' if user else ''}{hosts}{parts.path}"
        end = f"?{urlencode(shown, safe='/,')}" if shown else ""
        return cls(
            f"postgresql://{parts.netloc}{parts.path}?{urlencode(kept, safe='/')}",
            schemas,
            address + end,
            unquote(database) or dict(kept).get("dbname") or "postgresql",
        )

    @property
    def key(self) -> str:
        """Hash of which database this is; another password is the same database."""
        return hashlib.sha256(canonical_json(["postgresql", self.label])).hexdigest()

    def __str__(self) -> str:
        return self.label

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One read-only transaction that sees one state of the database throughout.

        Raises:
            ConfigError: the driver is not installed, or libpq cannot read the address.
            ConnectionError: the server cannot be reached, or refuses the login (PermissionError).
        """
        dbapi = _driver()
        try:
            connection = dbapi.connect(self.uri)
        except dbapi.Error as error:
            raise self._refusal(str(error)) from None
        try:
            with connection.cursor() as cursor:
                session = Session(self, cursor, dbapi.Error)
                session.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                yield session
        finally:
            connection.close()

    def _refusal(self, text: str) -> Exception:
        """libpq's complaint, where it is about the server: others quote parts of the address."""
        place = text.find("connection to server")
        if place < 0:
            return ConfigError(f"{self.label}: libpq cannot use this address: {_MALFORMED}")
        said = " ".join(text[place:].split())
        for secret in self._secrets():
            said = said.replace(secret, "***")
        message = f"{self.label}: {said}"
        if "authentication failed" in said or "no password supplied" in said:
            return PermissionError(message)
        return ConnectionError(message)

    def _secrets(self) -> list[str]:
        parts = urlsplit(self.uri)
        password = parts.netloc.rpartition("@")[0].partition(":")[2]
        found = {password, unquote(password)}
        found |= {value for name, value in parse_qsl(parts.query) if "password" in name}
        return sorted(found - {""}, key=len, reverse=True)

    def copy(self, folder: Path, say: Callable[[str], None]) -> Path:
        """Writes the tables as an OMOP folder of Parquet; a finished copy is used again.

        Args:
            folder: to make.
            say: receives a line a table.

        Returns:
            The folder.

        Raises:
            ConfigError, ConnectionError: see `transaction`; several schemas have a table `person`.
            DataError: there is no such table or schema, or a time has a zone.
            PermissionError: a table may not be read.
            StateError: fewer or more rows came than the server counts.
        """
        done = folder / SNAPSHOT
        if done.is_file() and read_json(done)["key"] == self.key:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        rows = {}
        with self.transaction() as session:
            tables = session.find_tables()
            plans = {name: plan_columns(self.label, name, table) for name, table in tables.items()}
            for name, table in tables.items():
                rows[name] = session.export(table, plans[name], folder / f"{name}.parquet")
                say(f"{name}: {rows[name]:,} rows from the database")
        write_json(done, {"key": self.key, "source": self.label, "rows": rows})
        return folder


@dataclass(frozen=True)
class Plan:
    """What is read of a table: `columns` as SQL, and whether any rows are."""

    columns: tuple[str, ...]
    has_rows: bool


class Session:
    """Queries in one transaction."""

    def __init__(self, source: PostgresSource, cursor: Any, error: type[Exception]) -> None:
        self._source = source
        self._cursor = cursor
        self._error = error

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """The server's errors as ours; its own words may hold values, so they are not repeated."""
        try:
            yield
        except self._error as error:
            state = getattr(error, "sqlstate", None) or ""
            said = f" (SQLSTATE {state})" if state else ""
            message = f"{self._source.label}: {what}: the server failed{said}"
            if state == "42501":
                message = f"{self._source.label}: {what}: permission denied"
                raise PermissionError(message) from None
            if state.startswith("22"):
                message = f"{self._source.label}: {what}: a value cannot be read{said}"
                raise DataError(message) from None
            raise ConnectionError(message) from None

    def run(self, sql: str) -> None:
        """Executes a statement without a result."""
        with self._translated("transaction"):
            self._cursor.execute(sql)

    def rows(self, sql: str, what: str) -> list[tuple[Any, ...]]:
        """All rows of a small result; `what` names it in messages."""
        with self._translated(what):
            self._cursor.execute(sql)
            found: list[tuple[Any, ...]] = self._cursor.fetchall()
            return found

    def find_tables(self) -> dict[str, RemoteTable]:
        """Tables by lower-case name, of the first schema that has them.

        Raises:
            DataError: there is no table `person`, or a name occurs twice but for its case.
            ConfigError: the source names no schema and several have a table `person`.
        """
        schemas = self._source.schemas
        where = f"n.nspname IN {text_list(schemas)}" if schemas else _OWN_SCHEMAS
        found: dict[str, dict[str, RemoteTable]] = {}
        sql = _COLUMNS_SQL.replace("{schemas}", where)
        for schema, table, column, kind in self.rows(sql, "list of tables"):
            tables = found.setdefault(schema, {})
            remote = tables.setdefault(table.lower(), RemoteTable(schema, table, {}))
            if remote.name != table:
                message = f"{self._source.label}: table {schema}.{table} is there twice"
                raise DataError(message)
            remote.columns[column] = kind
        homes = [schema for schema, tables in found.items() if "person" in tables]
        if not homes:
            where = f"in {', '.join(schemas)}" if schemas else "in any schema"
            message = f"{self._source.label}: no table person {where}"
            raise DataError(message)
        if len(homes) > 1 and not schemas:
            message = (
                f"{self._source.label}: schemas {', '.join(homes)} have a table person; choose "
                "with ?schema=…"
            )
            raise ConfigError(message)
        merged: dict[str, RemoteTable] = {}
        for schema in schemas or tuple(homes):
            merged = found.get(schema, {}) | merged
        return dict(sorted(merged.items()))

    def export(self, table: RemoteTable, plan: Plan, path: Path) -> int:
        """Copies a table into a Parquet file and checks its number of rows.

        Raises:
            StateError: it differs from the server's.
        """
        what = f"table {table.schema}.{table.name}"
        columns = ", ".join(plan.columns)
        end = "" if plan.has_rows else " WHERE false"
        n_rows = 0
        with self._translated(what):
            self._cursor.execute(f"SELECT {columns} FROM {table.sql}{end}")
            reader = self._cursor.fetch_record_batch()
        schema = reader.schema.remove_metadata()
        schema = pa.schema([column.remove_metadata() for column in schema])
        with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as sink:
            while (batch := self._next(reader, what)) is not None:
                n_rows += batch.num_rows
                sink.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
        if plan.has_rows:
            n_counted = self.rows(f"SELECT count(*) FROM {table.sql}", what)[0][0]
            if n_counted != n_rows:
                message = f"{self._source.label}: {what}: {n_rows} of {n_counted} rows came"
                raise StateError(message)
        return n_rows

    def _next(self, reader: Any, what: str) -> pa.RecordBatch | None:
        try:
            with self._translated(what):
                return reader.read_next_batch()
        except StopIteration:
            return None
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, ConnectionError | PermissionError):
                raise
            message = f"{self._source.label}: {what}: the connection broke"
            raise ConnectionError(message) from None


def _driver() -> Any:
    try:
        from adbc_driver_postgresql import dbapi
    except ImportError:
        message = "reading PostgreSQL needs ADBC: pip install 'chronoward[postgres]'"
        raise ConfigError(message) from None
    return dbapi


def columns_read(name: str) -> frozenset[str] | None:
    """Columns (lower case) that ingestion reads of a CDM table; None: all of them.

    Of tables whose records are only counted, those that name the record.
    """
    if spec := CLINICAL.get(name):
        flat = [v if isinstance(v, tuple) else (v,) for v in vars(spec).values()]
        named = {column for columns in flat for column in columns if column is not None}
        return frozenset(named | {"person_id", "visit_occurrence_id"})
    if name in TABLES or name in DICTIONARIES_READ:
        return None
    return frozenset({NOT_USED.get(name) or f"{name}_id", "person_id"})


def plan_columns(label: str, name: str, table: RemoteTable) -> Plan:
    """What is exported of a table: what is read, or what names its records for the ledger.

    Other vocabulary tables and tables that are not of the CDM are exported without rows: the report
    then names them as not read.

    Raises:
        DataError: a column is there twice but for its case, or a time has a zone.
    """
    wanted = columns_read(name)
    is_dictionary = name in DICTIONARIES and name not in DICTIONARIES_READ
    has_rows = not is_dictionary and name in cdm_tables()
    lowered = [column.lower() for column in table.columns]
    if len(set(lowered)) < len(lowered):
        message = f"{label}: table {table.schema}.{table.name} has a column twice"
        raise DataError(message)
    chosen = [c for c in table.columns if wanted is None or c.lower() in wanted]
    if not has_rows or not chosen:
        chosen = list(table.columns)[:1]
    columns = []
    for column in chosen:
        kind = table.columns[column]
        if kind == "timestamptz" and has_rows:
            message = (
                f"{label}: table {table.schema}.{table.name}: column {column} has a time zone; "
                "times must be local: give the schema of a view that casts it to timestamp"
            )
            raise DataError(message)
        columns.append(
            f"{cast_column(quote_name(column), kind, column)} AS {quote_name(column.lower())}"
        )
    return Plan(tuple(columns), has_rows)


def cast_column(sql: str, kind: str, column: str) -> str:
    """SQL of a column as a type that ADBC hands over as what it is."""
    if kind in ("int2", "int4", "int8", "float4", "float8", "text"):
        return sql
    if kind == "numeric":
        if column.lower().endswith("_id"):  # a key in double would lose digits
            return f"CASE WHEN {sql} = trunc({sql}) THEN trunc({sql})::text ELSE {sql}::text END"
        return f"{sql}::double precision"
    if kind in ("date", "timestamp"):
        # ADBC shifts infinite times into the past; years 9999 and 1 mean "unknown" (IngestConfig).
        late, early = quote_text("9999-12-31"), quote_text("0001-01-01")
        cases = f"WHEN 'infinity' THEN {late} WHEN '-infinity' THEN {early}"
        return f"CASE {sql} {cases} ELSE {sql} END"
    return f"{sql}::text"
