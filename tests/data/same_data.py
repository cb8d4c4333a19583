"""The same data in another shape: other formats, other files, other orders of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chronoward.data import cdm
from chronoward.data.parquet_file import has_page_checksums

if TYPE_CHECKING:
    from pathlib import Path


def _text_scan(file: Path) -> str:
    """Every cell as text, as CSV has it; of Parquet as DuckDB writes it."""
    if file.suffix == ".parquet":
        return f"(SELECT COLUMNS(*)::VARCHAR FROM read_parquet('{file}'))"
    return f"read_csv('{file}', all_varchar = true)"


def tables_of(folder: Path) -> dict[str, Path]:
    return {f.stem: f for f in sorted(folder.iterdir()) if f.suffix in (".csv", ".parquet")}


def _typed(connection: duckdb.DuckDBPyConnection, name: str, file: Path) -> str:
    """Columns by the types of CDM 5.4 where every cell can be cast, else as text."""
    kinds = {f.column: f.sql_type("BIGINT") for f in cdm.tables().get(name, ())}
    columns = []
    scan = _text_scan(file)
    for (
        column,
        *_,
    ) in connection.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall():
        kind = kinds.get(column.lower(), "VARCHAR")
        lost = connection.execute(
            f'SELECT count(*) FROM {scan} WHERE "{column}" IS NOT NULL '
            f'AND TRY_CAST("{column}" AS {kind}) IS NULL'
        ).fetchall()[0][0]
        columns.append(f'"{column}"::{"VARCHAR" if lost else kind} AS "{column}"')
    return f"SELECT {', '.join(columns)} FROM {scan}"


def as_csv(folder: Path, out: Path, *, seed: int | None = None) -> Path:
    """Tables as CSV; with a seed their rows are shuffled."""
    out.mkdir(parents=True)
    connection = duckdb.connect()
    for name, file in tables_of(folder).items():
        rows = connection.sql(f"SELECT * FROM {_text_scan(file)}").to_arrow_table()
        if seed is not None:
            rows = rows.take(np.random.default_rng(seed).permutation(len(rows)))
        connection.register("rows", rows)
        connection.execute(f"COPY rows TO '{out / name}.csv' (HEADER, DELIMITER ',')")
    return out


def as_parquet(folder: Path, out: Path) -> Path:
    """Tables as typed Parquet, a table in two parts."""
    out.mkdir(parents=True)
    connection = duckdb.connect()
    for name, file in tables_of(folder).items():
        rows = connection.sql(_typed(connection, name, file)).to_arrow_table()
        (out / name).mkdir()
        half = len(rows) // 2
        for number, part in enumerate((rows.slice(0, half), rows.slice(half))):
            pq.write_table(part, out / name / f"{number}.parquet")
    return out


def as_duckdb(folder: Path, out: Path) -> Path:
    """Tables in a DuckDB file."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(out)) as connection:
        for name, file in tables_of(folder).items():
            connection.execute(f"CREATE TABLE {name} AS {_typed(connection, name, file)}")
    return out


def resharded(folder: Path, out: Path, *, subjects_a_file: int, seed: int | None = None) -> Path:
    """MEDS in other files; with a seed subjects, and rows within subjects, are shuffled."""
    files = sorted((folder / "data").rglob("*.parquet"))
    # files without checksums are a warning of the report, so the others have none either
    has_checksums = all(has_page_checksums(file, pq.read_metadata(file)) for file in files)
    for split in sorted({file.parent.relative_to(folder) for file in files}):
        mine = [pq.read_table(f) for f in files if f.parent == folder / split]
        table = pa.concat_tables(mine, promote_options="default")
        ids = table["subject_id"].to_numpy()
        known, place = np.unique(ids, return_inverse=True)
        order = np.argsort(place, kind="stable")
        if seed is not None:
            rng = np.random.default_rng(seed)
            place = rng.permutation(len(known))[place]
            order = np.lexsort((rng.random(len(ids)), place))
        table, place = table.take(order), place[order]
        (out / split).mkdir(parents=True)
        for first in range(0, len(known), subjects_a_file):
            rows = np.flatnonzero((place >= first) & (place < first + subjects_a_file))
            part = table.slice(rows[0], len(rows))
            path = out / split / f"{first}.parquet"
            pq.write_table(part, path, write_page_checksum=has_checksums)
    for file in sorted((folder / "metadata").glob("*.parquet")):
        (out / "metadata").mkdir(exist_ok=True)
        (out / "metadata" / file.name).write_bytes(file.read_bytes())
    return out
