"""MEDS folders: any nesting, MEDS 0.3 and 0.4, shard by shard into one record table.

What MEDS promises is checked (one subject in one file, contiguous, one split); what it does not
(order inside a subject) is not relied on. `available_time`, `visit_id`, `end_time`, `unit` and
`table`, which chronoward itself writes, are honored when they are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chronoward.data.source import arrow_kind, read_parquet_schema
from chronoward.data.workspace import quote_name, quote_text
from chronoward.errors import DataError, FormatError, StateError
from chronoward.schema import Role, observation_schema

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.data.workspace import Workspace

MEDS_STAGE_COLUMNS = """
    key VARCHAR, subject_id BIGINT, time TIMESTAMP, code VARCHAR, number DOUBLE, text VARCHAR,
    unit VARCHAR, end_time TIMESTAMP, available TIMESTAMP, visit_ref BIGINT, source_table VARCHAR"""

_TEXT = ("VARCHAR",)
_OPTIONAL: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "numeric_value": ("DOUBLE", "number", ("DOUBLE", "INTEGER")),
    "text_value": ("VARCHAR", "text", _TEXT),
    "unit": ("VARCHAR", "unit", _TEXT),
    "end_time": ("TIMESTAMP", "end_time", ("TIMESTAMP", "DATE")),
    "available_time": ("TIMESTAMP", "available", ("TIMESTAMP", "DATE")),
    "visit_id": ("BIGINT", "visit_ref", ("INTEGER",)),
    "table": ("VARCHAR", "source_table", _TEXT),
}


def data_files(root: Path) -> list[Path]:
    """The Parquet files of the data, in order of their path.

    Raises:
        DataError: there are none.
    """
    folder = root / "data"
    files = sorted(
        path
        for path in (folder if folder.is_dir() else root).rglob("*.parquet")
        if path.is_file()
        and not path.name.startswith(".")
        and "metadata" not in path.relative_to(root).parts[:1]
    )
    if not files:
        message = f"{root}: no Parquet file under data/"
        raise DataError(message)
    return files


def stage_meds(work: Workspace, root: Path, files: list[Path]) -> None:
    """Makes `meds_stage` from the shards and checks their structure.

    Raises:
        DataError: a column is missing or of the wrong type, times with a zone, or a subject whose
            rows are not together.
        FormatError: a damaged file.
    """
    work.run(f"CREATE TABLE meds_stage ({MEDS_STAGE_COLUMNS})")
    starts: list[tuple[Path, NDArray[np.int64]]] = []
    for file in files:
        names = _check_schema(file)
        starts.append((file, _subject_runs(file, names["subject_id"])))
        selected = [f"{quote_text(str(file.relative_to(root)) + ':')} || file_row_number"]
        selected += [f"{quote_name(names['subject_id'])}::BIGINT"]
        selected += [f"{quote_name(names['time'])}::TIMESTAMP"]
        selected += [f"NULLIF({quote_name(names['code'])}::VARCHAR, '')"]
        for column, (kind, _, _) in _OPTIONAL.items():
            name = names.get(column)
            value = f"NULL::{kind}" if name is None else f"{quote_name(name)}::{kind}"
            selected.append(f"NULLIF(trim({value}), '')" if kind == "VARCHAR" and name else value)
        work.run(
            f"INSERT INTO meds_stage SELECT {', '.join(selected)} "
            f"FROM read_parquet({quote_text(str(file))}, file_row_number = true)"
        )
    _check_one_home(starts)


def _check_schema(file: Path) -> dict[str, str]:
    """Maps known column names (lower case) to the file's own; checks their types."""
    schema = read_parquet_schema(file)
    names: dict[str, str] = {}
    for name in schema.names:
        key = "subject_id" if name.lower() == "patient_id" else name.lower()
        names.setdefault(key, name)
    for column in ("subject_id", "time", "code"):
        if column not in names:
            message = f"{file}: required column {column} is missing"
            raise DataError(message)
    expected: dict[str, tuple[str, ...]] = {
        "subject_id": ("INTEGER",),
        "time": ("TIMESTAMP",),
        "code": _TEXT,
    } | {column: kinds for column, (_, _, kinds) in _OPTIONAL.items()}
    for column, kinds in expected.items():
        if column not in names:
            continue
        kind = arrow_kind(schema.field(names[column]).type)
        if kind in (*kinds, "NULL"):
            continue
        if column in _OPTIONAL and column not in ("numeric_value", "text_value"):
            del names[column]  # somebody else's extension column of that name
            continue
        zone = "has a time zone; MEDS times have none" if "ZONE" in kind else f"has type {kind}"
        message = f"{file}: column {column} {zone}, expected {kinds[0]}"
        raise DataError(message)
    return names


def _subject_runs(file: Path, column: str) -> NDArray[np.int64]:
    """The subject of each run of equal subjects in a file.

    Raises:
        DataError: a subject has two runs; the message names the row of the second.
        FormatError: the file cannot be decoded.
    """
    heads: list[NDArray[np.int64]] = []
    rows: list[NDArray[np.int64]] = []
    last: int | None = None
    row = 0
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(1 << 20, columns=[column]):
                values = batch.column(0)
                if values.null_count:
                    values = pc.fill_null(values, np.iinfo(np.int64).min)
                subject = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
                if not len(subject):
                    continue
                is_head = np.empty(len(subject), bool)
                is_head[0] = last is None or subject[0] != last
                np.not_equal(subject[1:], subject[:-1], out=is_head[1:])
                heads.append(subject[is_head])
                rows.append(np.flatnonzero(is_head) + row)
                last, row = int(subject[-1]), row + len(subject)
    except (pa.ArrowInvalid, OSError) as error:
        message = f"{file} cannot be read: {str(error).splitlines()[0]}"
        raise FormatError(message) from None
    if not heads:
        return np.empty(0, np.int64)
    runs, run_rows = np.concatenate(heads), np.concatenate(rows)
    again = _repeats(runs)
    if len(again):
        message = (
            f"{file}: a subject's rows are not contiguous: seen again at row {run_rows[again[0]]}"
        )
        raise DataError(message)
    return runs


def _repeats(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions, ascending, at which a value occurs that occurred before."""
    order = np.argsort(values, kind="stable")
    is_again = np.concatenate([[False], values[order][1:] == values[order][:-1]])
    return np.sort(order[is_again])


def _check_one_home(starts: list[tuple[Path, NDArray[np.int64]]]) -> None:
    subjects = np.concatenate([runs for _, runs in starts])
    subjects = np.where(subjects == np.iinfo(np.int64).min, np.arange(len(subjects)), subjects)
    again = _repeats(subjects)
    if len(again):
        border = np.cumsum([len(runs) for _, runs in starts])
        file = starts[int(np.searchsorted(border, again[0], side="right"))][0]
        message = f"{file}: a subject of this file is in an earlier file too"
        raise DataError(message)


def read_splits(root: Path, files: list[Path]) -> pa.Table | None:
    """The source's splits: metadata/subject_splits.parquet, else the folders under data/.

    Raises:
        DataError: the file lacks a column.
        StateError: a subject is in two splits.
    """
    file = root / "metadata" / "subject_splits.parquet"
    if file.is_file():
        names = set(read_parquet_schema(file).names)
        if not {"subject_id", "split"} <= names:
            message = f"{file}: columns subject_id and split are required"
            raise DataError(message)
        table = pq.read_table(file, columns=["subject_id", "split"])
        table = table.cast(pa.schema([("subject_id", pa.int64()), ("split", pa.string())]))
    else:
        parts = []
        for path in files:
            inside = path.relative_to(root).parts
            if len(inside) < 3 or inside[0] != "data":
                return None
            column = next(
                name
                for name in read_parquet_schema(path).names
                if name.lower() in ("subject_id", "patient_id")
            )
            subject = pc.unique(pq.read_table(path, columns=[column]).column(0).cast(pa.int64()))
            split = pa.array([inside[1]] * len(subject), pa.string())
            parts.append(pa.table({"subject_id": subject, "split": split}))
        table = pa.concat_tables(parts)
    table = table.group_by(["subject_id", "split"]).aggregate([]).sort_by("subject_id")
    again = _repeats(table["subject_id"].to_numpy())
    if len(again):
        message = f"{file if file.is_file() else root}: {len(again)} subjects are in two splits"
        raise StateError(message)
    return table


def read_code_metadata(root: Path) -> tuple[pa.Table, NDArray[np.bool_]]:
    """metadata/codes.parquet with the columns of the code table that it has, the rest null.

    Returns:
        The table; and bool (rows,): those that lost a value, its column being of another type.

    Raises:
        DataError: the column of codes is missing or is no text.
        FormatError: a damaged file.
    """
    kinds = {
        "code": pa.string(),
        "table": pa.string(),
        "description": pa.string(),
        "concept_id": pa.int64(),
        "vocabulary_id": pa.string(),
        "domain_id": pa.string(),
        "concept_class_id": pa.string(),
        "parent_codes": pa.list_(pa.string()),
        "is_inpatient": pa.bool_(),
    }
    file = root / "metadata" / "codes.parquet"
    if not file.is_file():
        return pa.table({name: pa.array([], kind) for name, kind in kinds.items()}), np.zeros(
            0, np.bool_
        )
    schema = read_parquet_schema(file)
    table = pq.read_table(file, columns=[name for name in kinds if name in schema.names])
    if "code" not in table.column_names:
        message = f"{file}: required column code is missing"
        raise DataError(message)
    columns, lost = {}, np.zeros(table.num_rows, np.bool_)
    for name, kind in kinds.items():
        if name not in table.column_names:
            columns[name] = pa.nulls(table.num_rows, kind)
            continue
        try:
            columns[name] = table[name].cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            if name == "code":
                message = f"{file}: column code must be text, is {table[name].type}"
                raise DataError(message) from None
            columns[name] = pa.nulls(table.num_rows, kind)
            lost |= np.asarray(table[name].is_valid().to_numpy())
    return pa.table(columns), lost


def read_observation(root: Path) -> pa.Table:
    """Observation periods that chronoward wrote beside a MEDS folder; else no rows."""
    file = root / "metadata" / "observation.parquet"
    if not file.is_file():
        return observation_schema().empty_table()
    if not set(observation_schema().names) <= set(read_parquet_schema(file).names):
        message = f"{file}: columns {', '.join(observation_schema().names)} are required"
        raise DataError(message)
    return pq.read_table(file, columns=observation_schema().names).cast(observation_schema())


def role_expression() -> str:
    """SQL of a staged event's role."""
    upper = "upper(code)"
    return f"""CASE
      WHEN code = 'MEDS_BIRTH' OR code LIKE 'MEDS_BIRTH//%' THEN {int(Role.BIRTH)}
      WHEN code = 'MEDS_DEATH' OR code LIKE 'MEDS_DEATH//%' THEN {int(Role.DEATH)}
      WHEN {upper} LIKE 'GENDER/%' OR {upper} LIKE 'SEX/%' THEN {int(Role.SEX)}
      WHEN {upper} LIKE 'RACE/%' THEN {int(Role.RACE)}
      WHEN time IS NULL OR {upper} LIKE 'ETHNICITY/%' THEN {int(Role.STATIC)}
      WHEN source_table = 'visit_occurrence' AND code LIKE 'Visit/%' AND end_time IS NOT NULL
        THEN {int(Role.VISIT)}
      WHEN source_table = 'visit_detail' AND end_time IS NOT NULL THEN {int(Role.DETAIL)}
      WHEN source_table = 'visit_occurrence' AND code LIKE 'Discharge/%'
        THEN {int(Role.DISCHARGE)}
      ELSE {int(Role.CODE)} END"""


def static_code() -> str:
    """SQL of the code as the event table has it: prefixes of sex, race and ethnicity made one."""
    rest = "regexp_replace(code, '^[^/]*/+', '')"
    return f"""CASE role
      WHEN {int(Role.BIRTH)} THEN 'MEDS_BIRTH' WHEN {int(Role.DEATH)} THEN 'MEDS_DEATH'
      WHEN {int(Role.SEX)} THEN CASE WHEN upper({rest}) IN ('F', 'FEMALE', '8532') THEN 'Gender/F'
        WHEN upper({rest}) IN ('M', 'MALE', '8507') THEN 'Gender/M' ELSE 'Gender/U' END
      WHEN {int(Role.RACE)} THEN 'Race/' || {rest}
      WHEN {int(Role.STATIC)} THEN CASE WHEN upper(code) LIKE 'ETHNICITY/%'
        THEN 'Ethnicity/' || {rest} ELSE code END
      ELSE code END"""
