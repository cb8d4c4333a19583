"""What lies in a folder: OMOP or MEDS, which tables and columns, and how DuckDB reads them.

CSV columns are always read as text and cast later, so that a code such as `001`, `NA` or `1E10`
stays what it is and every failed cast can be counted. Parts of a table may differ in column order,
never in format.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import duckdb
import pyarrow as pa

from chronoward.data.parquet_file import read_parquet_schema
from chronoward.data.workspace import MAX_LINE_BYTES, quote_name, quote_text
from chronoward.errors import DataError, FormatError, LimitError

if TYPE_CHECKING:
    from collections.abc import Iterable

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
DUCKDB_SUFFIXES = (".duckdb", ".db", ".ddb")
MAX_COLUMNS = 10_000
_HEADER_BYTES = 1 << 20
_DELIMITERS = (",", "\t", ";", "|")
_SOURCE_DATABASE = "source_database"

Form = Literal["omop", "meds"]


@dataclass(frozen=True)
class TextLayout:
    """How a file of delimited text is read."""

    file: Path
    delimiter: str
    names: tuple[str, ...]
    """Columns as the file names them, in lower case."""


@dataclass(frozen=True)
class SourceTable:
    """One table of a source: its files in name order, its columns in lower case."""

    name: str
    files: tuple[Path, ...]
    columns: dict[str, str]
    """Column in lower case → type as DuckDB names it (`VARCHAR` for all of CSV)."""
    scan: str
    """SQL of a FROM item with the columns in lower case."""
    is_text: bool
    origin: str
    """How messages name it."""
    layouts: tuple[TextLayout, ...] = ()
    """Of each file, of text."""

    def require(self, *columns: str) -> None:
        """Checks that columns are there.

        Raises:
            DataError: one is missing.
        """
        for column in columns:
            if column not in self.columns:
                message = f"{self.origin}: required column {column} is missing"
                raise DataError(message)


@dataclass(frozen=True)
class OmopSource:
    """The tables of an OMOP folder or database by lower-case name, and SQL that opens them."""

    path: Path
    tables: dict[str, SourceTable]
    setup: tuple[str, ...] = ()


def recognize_path(path: Path) -> Form:
    """Says whether a folder (or DuckDB file) is an OMOP or a MEDS source.

    Raises:
        DataError: it is neither.
        OSError: it does not exist.
    """
    path = Path(path)
    if not path.exists():
        message = f"{path} does not exist"
        raise FileNotFoundError(message)
    if path.is_file():
        if path.suffix.lower() in DUCKDB_SUFFIXES:
            return "omop"
        message = f"{path} is neither a folder nor a DuckDB file"
        raise DataError(message)
    if "person" in find_tables(path):
        return "omop"
    if (path / "data").is_dir() and any((path / "data").rglob("*.parquet")):
        return "meds"
    if (path / "metadata").is_dir() and any(path.rglob("*.parquet")):
        return "meds"
    message = f"{path} is neither OMOP (no table person) nor MEDS (no Parquet file under data/)"
    raise DataError(message)


def check_regular(path: Path) -> None:
    """Refuses what is no file that can be read twice: pipes, devices, sockets, loops of links.

    Raises:
        DataError: it is none.
    """
    if not path.is_file():
        message = f"{path} is no regular file (a pipe, device or broken link)"
        raise DataError(message)


def table_name(path: Path) -> str | None:
    """Name of the table a file holds, in lower case; None when it is no table file."""
    name = path.name.lower()
    if name.startswith((".", "_")):
        return None
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return None


def find_tables(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Files by table: `person.csv`, `PERSON.parquet`, or a folder `person/` of parts.

    Raises:
        DataError: a table is there twice, as two files or as a file and a folder.
    """
    found: dict[str, tuple[Path, ...]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            parts = tuple(p for p in sorted(entry.rglob("*")) if not p.is_dir() and table_name(p))
            name = entry.name.lower()
            for suffix in SUFFIXES:
                name = name.removesuffix(suffix)
            files: tuple[Path, ...] = parts
            if not files and name != entry.name.lower():
                message = f"{entry} is a folder without parts of a table"
                raise DataError(message)
        elif file_name := table_name(entry):
            name, files = file_name, (entry,)
        else:
            continue
        if not files:
            continue
        for file in files:
            check_regular(file)
        if name in found:
            message = f"{folder}: table {name} is there twice ({found[name][0].name}, {entry.name})"
            raise DataError(message)
        found[name] = files
    return found


def open_omop(path: Path) -> OmopSource:
    """Describes the tables of an OMOP folder or DuckDB file.

    Raises:
        DataError: a file without header, a duplicate column, or parts in different formats.
        FormatError: a damaged Parquet file.
    """
    if path.is_file():
        return _open_duckdb(path)
    tables = {name: open_table(name, files) for name, files in find_tables(path).items()}
    return OmopSource(path, tables)


def open_table(name: str, files: tuple[Path, ...]) -> SourceTable:
    """Describes one table from its files (see `open_omop`)."""
    kinds = {"parquet" if file.name.lower().endswith(".parquet") else "text" for file in files}
    if len(kinds) > 1:
        message = f"table {name} mixes Parquet and text files"
        raise DataError(message)
    scans: list[str] = []
    layouts: list[TextLayout] = []
    columns: dict[str, str] = {}
    for file in files:
        if kinds == {"parquet"}:
            file_columns, scan = _parquet(file)
        else:
            delimiter, file_names = _layout(file)
            scan = _text_scan(file, delimiter, file_names)
            file_columns = [(name, "VARCHAR") for name in file_names]
            layouts.append(TextLayout(file, delimiter, tuple(n.lower() for n in file_names)))
        _check_names(file, file_columns)
        lowered = {column.lower(): kind for column, kind in file_columns}
        if columns and set(lowered) != set(columns):
            message = f"{file}: its columns differ from those of {files[0].name}"
            raise DataError(message)
        columns = columns or lowered
        names = {column.lower(): column for column, _ in file_columns}
        projection = ", ".join(f"{quote_name(names[c])} AS {quote_name(c)}" for c in columns)
        scans.append(f"SELECT {projection} FROM {scan}")
    origin = str(files[0]) if len(files) == 1 else str(files[0].parent)
    scan = "(" + " UNION ALL ".join(scans) + ")"
    return SourceTable(name, files, columns, scan, kinds == {"text"}, origin, tuple(layouts))


def _check_names(file: Path, columns: Iterable[tuple[str, str]]) -> None:
    seen = set()
    for column, _ in columns:
        if column.lower() in seen:
            message = f"{file}: column {column} is there twice"
            raise DataError(message)
        seen.add(column.lower())


def _parquet(file: Path) -> tuple[list[tuple[str, str]], str]:
    schema = read_parquet_schema(file)
    columns = [(name, arrow_kind(schema.field(i).type)) for i, name in enumerate(schema.names)]
    return columns, f"read_parquet({quote_text(str(file))})"


def arrow_kind(kind: pa.DataType) -> str:
    """The class of an Arrow type that matters here: VARCHAR, INTEGER, DOUBLE, DATE, TIMESTAMP …"""
    if pa.types.is_dictionary(kind):
        return arrow_kind(kind.value_type)
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP" if kind.tz is None else "TIMESTAMP WITH TIME ZONE"
    if pa.types.is_date(kind):
        return "DATE"
    if pa.types.is_integer(kind):
        return "INTEGER"
    if pa.types.is_floating(kind) or (pa.types.is_decimal(kind) and kind.bit_width <= 128):
        return "DOUBLE"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "VARCHAR"
    return str(kind).upper()


def _layout(file: Path) -> tuple[str, list[str]]:
    """A text file's delimiter and the names in its header."""
    header = _first_line(file)
    if not header:
        message = f"{file}: the file is empty, not even a header"
        raise DataError(message)
    delimiter = "\t" if ".tsv" in file.name.lower() else max(_DELIMITERS, key=header.count)
    if "\0" in header:
        message = f"{file}: line 1: a NUL byte in the header"
        raise DataError(message)
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
    if "" in names:
        message = f"{file}: column {names.index('') + 1} of the header has no name"
        raise DataError(message)
    if len(names) > MAX_COLUMNS:
        message = f"{file}: {len(names):,} columns, over the limit of {MAX_COLUMNS:,}"
        raise LimitError(message)
    return delimiter, names


def _text_scan(file: Path, delimiter: str, names: list[str]) -> str:
    declared = ", ".join(f"{quote_text(name)}: 'VARCHAR'" for name in names)
    return (
        f"read_csv({quote_text(str(file))}, auto_detect = false, header = true, "
        f"columns = {{{declared}}}, delim = {quote_text(delimiter)}, quote = '\"', escape = '\"', "
        f"nullstr = '', strict_mode = true, max_line_size = {MAX_LINE_BYTES})"
    )


def _first_line(file: Path) -> str:
    """The header, however its line ends; the rest is DuckDB's to read."""
    opener = gzip.open if file.name.lower().endswith(".gz") else open
    try:
        with opener(file, "rb") as raw:
            line = raw.read(_HEADER_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        message = f"{file}: damaged gzip file: {error}"
        raise FormatError(message) from None
    line = re.split(rb"[\r\n]", line, maxsplit=1)[0]
    if len(line) > _HEADER_BYTES:
        message = f"{file}: a header of more than {_HEADER_BYTES:,} bytes"
        raise LimitError(message)
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        message = f"{file}: line 1: not UTF-8 text"
        raise DataError(message) from None


def _open_duckdb(path: Path) -> OmopSource:
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            rows = connection.execute(
                "SELECT table_schema, table_name, column_name, data_type "
                "FROM information_schema.columns ORDER BY 1, 2, ordinal_position"
            ).fetchall()
    except duckdb.Error as error:
        message = f"{path} is not a readable DuckDB file: {str(error).splitlines()[0]}"
        raise FormatError(message) from None
    schemas = [schema for schema, table, _, _ in rows if table.lower() == "person"]
    if not schemas:
        message = f"{path}: no table person"
        raise DataError(message)
    columns: dict[str, list[tuple[str, str]]] = {}
    for schema, table, column, kind in rows:
        if schema == schemas[0]:
            columns.setdefault(table, []).append((column, kind))
    tables = {}
    for table, listed in columns.items():
        _check_names(path / table, listed)
        name = f"{_SOURCE_DATABASE}.{quote_name(schemas[0])}.{quote_name(table)}"
        projection = ", ".join(f"{quote_name(c)} AS {quote_name(c.lower())}" for c, _ in listed)
        tables[table.lower()] = SourceTable(
            table.lower(),
            (path,),
            {column.lower(): _duckdb_kind(kind) for column, kind in listed},
            f"(SELECT {projection} FROM {name})",
            is_text=False,
            origin=f"{path}:{table}",
        )
    setup = (f"ATTACH {quote_text(str(path))} AS {_SOURCE_DATABASE} (READ_ONLY)",)
    return OmopSource(path, tables, setup)


def _duckdb_kind(kind: str) -> str:
    if kind in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UINTEGER", "UBIGINT"):
        return "INTEGER"
    if kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL"):
        return "DOUBLE"
    if kind.startswith("TIMESTAMP") and "ZONE" not in kind:
        return "TIMESTAMP"
    return kind
