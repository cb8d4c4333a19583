"""One DuckDB database file on disk, in which a source is sorted and mended out of core.

Settings that decide bytes are fixed here: UTC, no insertion-order guarantees (every result that
leaves is ordered by a total key). Names and literals from data reach SQL only through `quote_name`
and `quote_text`.
"""

from __future__ import annotations

import gzip
import re
import shutil
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

from chronoward.errors import ConfigError, DataError, FormatError, LimitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    from chronoward.data.rules import Rule

MAX_LINE_BYTES = 8 << 20
"""A line of CSV; a field of ten megabytes is a fault of the export."""

_CSV_REASONS = {  # tried in this order
    "Maximum line size": f"the line is longer than {MAX_LINE_BYTES:,} bytes",
    "unterminated quote": "a quoted field does not end",
    "unicode": "not UTF-8 text",
    "state machine": "line ends of several kinds, or text beside a quoted field",
}
_GZIP_SCAN = re.compile(r"read_csv\('((?:[^']|'')+\.gz)'", re.IGNORECASE)


def quote_name(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """An SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def number_list(numbers: Iterable[int]) -> str:
    """A parenthesized SQL list that is never empty."""
    return "(" + ", ".join(str(int(number)) for number in numbers) + ")" if numbers else "(NULL)"


def text_list(texts: Iterable[str]) -> str:
    """A parenthesized SQL list of string literals that is never empty."""
    return "(" + ", ".join(quote_text(text) for text in texts) + ")" if texts else "(NULL)"


def removed(rule: Rule) -> str:
    """The number under which a removing rule is stored in column `gone` (0 is kept)."""
    from chronoward.data.rules import REMOVING

    return f"{REMOVING.index(rule) + 1}::UTINYINT"


def changed(rule: Rule) -> str:
    """The bit under which a changing rule is stored in column `changes`."""
    from chronoward.data.rules import CHANGING

    return f"{1 << CHANGING.index(rule)}::UBIGINT"


def changed_if(condition: str, rule: Rule) -> str:
    """The rule's bit where `condition` is true, else 0."""
    return f"CASE WHEN {condition} THEN {changed(rule)} ELSE 0::UBIGINT END"


class Workspace:
    """The database `ingest.duckdb` and its spill folder inside `folder`; gone after `close`."""

    def __init__(self, folder: Path, *, threads: int, memory_limit: str) -> None:
        self.path = folder / "ingest.duckdb"
        self.spill = folder / "spill"
        self.remove()
        self.spill.mkdir(parents=True)
        try:
            self.connection = duckdb.connect(
                str(self.path),
                config={
                    "threads": threads,
                    "memory_limit": memory_limit,
                    "temp_directory": str(self.spill),
                    "preserve_insertion_order": False,
                    "autoinstall_known_extensions": False,
                    "autoload_known_extensions": False,
                },
            )
        except duckdb.IOException as error:
            self.remove()
            raise OSError(_first_line(error)) from None
        except duckdb.ParserException:
            message = f"memory limit must be a size such as 2GB, got {memory_limit!r}"
            raise ConfigError(message) from None
        # One transaction that is never committed: a work database needs no log and no fsync.
        self.connection.execute("BEGIN TRANSACTION")

    def run(self, sql: str, parameters: list[Any] | None = None) -> duckdb.DuckDBPyConnection:
        """Executes SQL.

        Raises:
            DataError: a CSV file's structure (ragged row, open quote, encoding).
            FormatError: a Parquet file that is truncated or damaged.
            LimitError: the memory limit is too small for the statement.
            OSError: the disk is full or a file cannot be read.
        """
        with _translated(sql):
            return self.connection.execute(sql, parameters)

    def rows(self, sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of a small result."""
        return self.run(sql, parameters).fetchall()

    def value(self, sql: str) -> Any:
        """The single value of a one-row result."""
        rows = self.rows(sql)
        return rows[0][0] if rows else None

    def table(self, sql: str) -> pa.Table:
        """A result as an Arrow table."""
        with _translated(sql):
            return self.connection.sql(sql).to_arrow_table()

    def ids(self, sql: str) -> NDArray[np.int64]:
        """A result of one column of integers without nulls."""
        return np.ascontiguousarray(self.table(sql).column(0).to_numpy(), np.int64)

    def stream(self, sql: str, rows: int = 1 << 17) -> Iterator[pa.RecordBatch]:
        """A large result, a record batch at a time."""
        with _translated(sql):
            yield from self.connection.sql(sql).to_arrow_reader(rows)

    def add_rows(self, table: str, data: pa.Table) -> None:
        """Makes `table` from an Arrow table."""
        self.connection.register("incoming", data)
        self.run(f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM incoming")
        self.connection.unregister("incoming")

    def drop(self, *tables: str) -> None:
        """Drops tables that are no longer needed."""
        for table in tables:
            self.run(f"DROP TABLE IF EXISTS {table}")

    def close(self) -> None:
        """Closes the database and removes its files."""
        self.connection.close()
        self.remove()

    def remove(self) -> None:
        """Removes the database's files."""
        shutil.rmtree(self.spill, ignore_errors=True)
        for path in self.path.parent.glob(self.path.name + "*"):
            path.unlink(missing_ok=True)


@contextmanager
def _translated(sql: str) -> Iterator[None]:
    """DuckDB's errors as ours."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        message = f"DuckDB ran out of its memory limit: {_first_line(error)}"
        raise LimitError(message) from None
    except duckdb.IOException as error:
        _check_gzip(sql)
        raise OSError(_first_line(error)) from None
    except (duckdb.ConversionException, duckdb.OutOfRangeException):
        message = "a value does not fit its column's type"
        raise DataError(message) from None
    except duckdb.InvalidInputException as error:
        _check_gzip(sql)
        text = _first_line(error)
        if "arquet" in text or "hrift" in text or "ecompress" in text:
            raise FormatError(text) from None
        if "Maximum line size" in str(error):
            raise LimitError(_without_values(str(error))) from None
        raise DataError(_without_values(str(error))) from None
    except (duckdb.InterruptException, RuntimeError) as error:
        if "interrupted" in str(error).lower():  # Ctrl-C came while DuckDB worked
            raise KeyboardInterrupt from None
        raise


def _check_gzip(sql: str) -> None:
    """Looks whether a statement failed because a packed file that it reads is damaged.

    Raises:
        FormatError: one is; DuckDB does not always say which.
    """
    for found in _GZIP_SCAN.findall(sql):
        path = Path(found.replace("''", "'"))
        try:
            with gzip.open(path) as unpacked:
                while unpacked.read(1 << 20):
                    pass
        except (EOFError, gzip.BadGzipFile, zlib.error):
            message = f"{path}: damaged gzip file: it is truncated, changed, or ends in other bytes"
            raise FormatError(message) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _without_values(text: str) -> str:
    """DuckDB's CSV message as file, line and reason, without the content that it quotes."""
    line = re.search(r"CSV Error on Line: (\d+)", text)
    file = re.search(r"^\s*file ?= ?(.+?)\s*$", text, re.MULTILINE)
    reason = next((reason for part, reason in _CSV_REASONS.items() if part in text), None)
    columns = re.search(r"Expected Number of Columns: \d+ Found: \d+", text)
    if columns and reason is None:
        reason = columns.group(0).lower()
    if line is None and reason is None:
        return text.strip().splitlines()[0]
    where = file.group(1) if file else "CSV file"
    return (
        f"{where}: {f'line {line.group(1)}: ' if line else ''}{reason or 'cannot be read as CSV'}"
    )
