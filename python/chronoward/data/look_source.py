"""`look`: a quick look at whatever a user names as source."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronoward.data.look_meds import look_at_meds
from chronoward.data.look_omop import OmopTables, look_at_omop
from chronoward.data.look_postgres import look_at_database
from chronoward.data.omop_tables import Columns
from chronoward.data.origin import as_folder, as_source, decide_form
from chronoward.data.postgres import PostgresSource
from chronoward.data.source import open_omop
from chronoward.data.workspace import Workspace
from chronoward.errors import DataError

if TYPE_CHECKING:
    from chronoward.data.look import SourceLook
    from chronoward.data.origin import SourceLike


def look(
    given: SourceLike,
    *,
    as_: str | None = None,
    threads: int = 1,
    memory_limit: str = "2GB",
    temp_dir: Path | None = None,
) -> SourceLook:
    """Scans a source once and says what is there.

    Args:
        given: a path, a `postgresql://` URI, or MEDS tables.
        as_: `omop` or `meds`; None: recognized.
        threads: DuckDB's.
        memory_limit: DuckDB's, such as `2GB`; it spills beyond.
        temp_dir: where it spills; the system's choice when not given.

    Raises:
        ConfigError, DataError, FormatError, OSError: as `prepare`.
    """
    source = as_source(given)
    form = decide_form(source, as_)
    if isinstance(source, PostgresSource):
        return look_at_database(source)
    with tempfile.TemporaryDirectory(prefix="chronoward-look-", dir=temp_dir) as scratch:
        path = as_folder(source, Path(scratch) / "source", lambda _line: None)
        work = Workspace(Path(scratch), threads=threads, memory_limit=memory_limit)
        try:
            return look_at_meds(work, path) if form == "meds" else _look_at_files(work, path)
        finally:
            work.close()


def _look_at_files(work: Workspace, path: Path) -> SourceLook:
    source = open_omop(path)
    if "person" not in source.tables:
        message = f"{path}: no table person"
        raise DataError(message)
    for sql in source.setup:
        work.run(sql)

    def rows(sql: str, _name: str) -> list[tuple[Any, ...]]:
        return work.rows(sql)

    tables = source.tables
    is_text = any(table.is_text for table in tables.values())
    storage = "duckdb" if path.is_file() else "text" if is_text else "parquet"
    files = {file for table in tables.values() for file in table.files}
    size = sum(file.stat().st_size for file in files)
    kind = {"duckdb": "DuckDB", "text": "CSV or TSV", "parquet": "Parquet"}[storage]
    return look_at_omop(
        OmopTables(
            tables=tables,
            rows=rows,
            columns=Columns,
            distinct="approx_count_distinct({})",
            sample="true",
            fence="",
            storage=storage,
            described=f"{kind}, {len(tables)} tables, {len(files):,} files, {size / 1e6:,.1f} MB",
        )
    )
