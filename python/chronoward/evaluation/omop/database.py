"""Any form of an OMOP database as one DuckDB connection in which broken values stay visible.

Every table exists twice: `raw.<table>` is a view in which each column is text, as it lies in the
file, and `cdm.<table>` holds the columns of CDM 5.4 with their types, null where a text could not
be converted or a column is missing. Both carry `row`, the row's number in its file from 1, by
which checks point at a fault without naming a person.
"""

from __future__ import annotations

import csv
import gzip
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import duckdb

from chronoward.data import cdm
from chronoward.errors import DataError

if TYPE_CHECKING:
    from types import TracebackType

_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".parquet")


def quote(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _wide(f: cdm.Field) -> str:
    """The type with every integer 64 bits wide, so that one too large is seen as that."""
    return "BIGINT" if f.type == "integer" else f.sql_type()


def typed(column: str, field_type: str, sql_type: str) -> str:
    """SQL that converts a text column to its CDM type, null where the text is of another type."""
    if field_type == "integer":
        # A cast alone would round '1.5' to 2.
        return (
            f"CASE WHEN regexp_full_match({column}, '[-+]?[0-9]+') "
            f"THEN TRY_CAST({column} AS {sql_type}) END"
        )
    if field_type == "date":
        # Vocabulary downloads write dates as 20200131.
        compact = f"CAST(try_strptime({column}, '%Y%m%d') AS DATE)"
        return f"COALESCE(TRY_CAST({column} AS DATE), {compact})"
    return f"TRY_CAST({column} AS {sql_type})"


@dataclass
class CdmDatabase:
    """An opened OMOP database; use as a context manager (it owns a temporary folder)."""

    source: Path
    connection: duckdb.DuckDBPyConnection
    scratch: Path
    columns: dict[str, list[str]] = field(default_factory=dict)
    """Columns of each table found, in the file's order, lower case."""
    rows: dict[str, int] = field(default_factory=dict)
    filled: dict[str, set[str]] = field(default_factory=dict)
    """Columns of each table that hold anything at all."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.connection.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def has(self, table: str, *columns: str) -> bool:
        """Whether the source has the table and all these columns of it."""
        return table in self.columns and set(columns) <= set(self.columns[table])

    def _add(self, table: str, relation: str) -> None:
        """Registers one table read by the SQL `relation`."""
        connection = self.connection
        described = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
        names = [str(row[0]) for row in described]
        self.columns[table] = [name.lower() for name in names]
        texts = ", ".join(f"CAST({quote(n)} AS VARCHAR) AS {quote(n.lower())}" for n in names)
        connection.execute(
            f"CREATE VIEW raw.{table} AS SELECT row_number() OVER () AS row, {texts} "
            f"FROM {relation}"
        )
        present = set(self.columns[table])
        converted = [
            (
                typed(quote(f.column), f.type, _wide(f))
                if f.column in present
                else f"CAST(NULL AS {_wide(f)})"
            )
            + f" AS {quote(f.column)}"
            for f in cdm.fields(table)
        ]
        connection.execute(
            f"CREATE TABLE cdm.{table} AS SELECT row, {', '.join(converted)} FROM raw.{table}"
        )
        known = [f.column for f in cdm.fields(table) if f.column in present]
        counts = ", ".join(f"count({quote(column)})" for column in known)
        filled = connection.execute(
            f"SELECT count(*){', ' if known else ''}{counts} FROM raw.{table}"
        ).fetchone()
        assert filled is not None
        self.rows[table] = int(filled[0])
        self.filled[table] = {c for c, n in zip(known, filled[1:], strict=True) if n}

    def _add_missing(self) -> None:
        for table, columns in cdm.tables().items():
            if table not in self.columns:
                empty = ", ".join(f"{quote(f.column)} {_wide(f)}" for f in columns)
                self.connection.execute(f"CREATE TABLE cdm.{table} (row BIGINT, {empty})")


def _relation(path: Path) -> str:
    """SQL that reads one table's file or folder of parts."""
    pattern = path
    probe = path
    if path.is_dir():
        parts = sorted(p for p in path.iterdir() if p.name.lower().endswith(_SUFFIXES))
        if not parts:
            message = f"{path}: no CSV or Parquet file in this folder"
            raise DataError(message)
        probe = parts[0]
        suffix = next(s for s in _SUFFIXES if probe.name.lower().endswith(s))
        pattern = path / f"*{suffix}"
    if probe.name.lower().endswith(".parquet"):
        return f"read_parquet({_literal(str(pattern))})"
    delimiter = "\t" if probe.name.lower().endswith(".tsv") else ","
    columns = ", ".join(f"{_literal(name)}: 'VARCHAR'" for name in _header(probe, delimiter))
    # Nothing is guessed: a sniffed quote or type would depend on the data.
    return (
        f"read_csv({_literal(str(pattern))}, header=true, auto_detect=false, "
        f"delim={_literal(delimiter)}, quote='\"', escape='\"', columns={{{columns}}})"
    )


def _header(path: Path, delimiter: str) -> list[str]:
    """Column names in the first line of a CSV file.

    Raises:
        DataError: the file is empty or names a column twice.
    """
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as handle:
        names = next(csv.reader(handle, delimiter=delimiter), [])
    if not names:
        message = f"{path}: the file is empty, expected a header line"
        raise DataError(message)
    if len({name.lower() for name in names}) < len(names):
        message = f"{path}: a column is named twice in the header"
        raise DataError(message)
    return names


def _table_files(folder: Path) -> dict[str, Path]:
    known = cdm.tables()
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = path.name.lower()
        if path.is_file():
            suffix = next((s for s in _SUFFIXES if stem.endswith(s)), None)
            if suffix is None:
                continue
            stem = stem.removesuffix(suffix)
        if stem in known:
            if stem in found:
                message = f"{path}: table '{stem}' is also in {found[stem].name}"
                raise DataError(message)
            found[stem] = path
    return found


def open_cdm(source: Path, *, memory_limit: str = "2GB", threads: int = 1) -> CdmDatabase:
    """Opens an OMOP database: a folder of CSV or Parquet tables, or a DuckDB file.

    Args:
        source: folder or DuckDB file; table and column names in any case.
        memory_limit: DuckDB's limit; larger tables spill to a temporary folder.
        threads: DuckDB's threads; results do not depend on them.

    Raises:
        DataError: nothing of the CDM is there, a table is there twice, or a file cannot be read.
    """
    source = Path(source)
    if not source.exists():
        message = f"{source} does not exist"
        raise DataError(message)
    scratch = Path(tempfile.mkdtemp(prefix="chronoward-omop-"))
    connection = duckdb.connect()
    connection.execute(f"SET temp_directory={_literal(str(scratch))}")
    database = CdmDatabase(source=source, connection=connection, scratch=scratch)
    connection.execute(f"SET memory_limit={_literal(memory_limit)}")
    connection.execute(f"SET threads={int(threads)}")
    connection.execute("CREATE SCHEMA raw; CREATE SCHEMA cdm")
    place = source
    try:
        if source.is_dir():
            for table, path in _table_files(source).items():
                place = path
                database._add(table, _relation(path))
        else:
            connection.execute(f"ATTACH {_literal(str(source))} AS source (READ_ONLY)")
            listing = connection.execute(
                "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name='source'"
            ).fetchall()
            for schema, name in sorted(listing):
                if name.lower() in cdm.tables():
                    relation = f"source.{quote(schema)}.{quote(name)}"
                    database._add(name.lower(), relation)
        database._add_missing()
        if not database.columns:
            message = f"{source}: no table of the OMOP CDM was found here"
            raise DataError(message)
    except BaseException as error:
        database.__exit__(None, None, None)
        if isinstance(error, duckdb.Error):
            # DuckDB's own text can quote a cell; its first clause names the kind of fault only.
            message = f"{place}: cannot be read ({type(error).__name__})"
            raise DataError(message) from None
        raise
    return database
