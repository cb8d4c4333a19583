"""MEDS folders: any nesting, MEDS 0.3 and 0.4; what is beside the shards, and what they must be.

What MEDS promises is checked (one subject in one file, contiguous, one split); what it does not
(order inside a subject) is not relied on. `available_time`, `visit_id`, `end_time`, `unit` and
`table`, which chronoward itself writes, are honored when they are there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chronoward.data.parquet_file import (
    END_US,
    FIRST_US,
    as_microseconds,
    cast_column,
    read_columns,
    read_parquet_schema,
    readable,
)
from chronoward.data.source import arrow_kind, check_regular
from chronoward.errors import DataError, FormatError, StateError
from chronoward.files import read_json
from chronoward.schema import observation_schema

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


_TEXT = ("VARCHAR",)
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "numeric_value": ("DOUBLE", "INTEGER"),
    "text_value": _TEXT,
    "unit": _TEXT,
    "end_time": ("TIMESTAMP", "DATE"),
    "available_time": ("TIMESTAMP", "DATE"),
    "visit_id": ("INTEGER",),
    "table": _TEXT,
}
_KNOWN = ("subject_id", "time", "code", *_OPTIONAL)
_NEWEST_MEDS = (0, 4)


def check_version(root: Path) -> None:
    """Checks the version of MEDS that metadata/dataset.json states; without one it is read.

    Raises:
        FormatError: a newer version than this release knows, or no JSON object.
    """
    file = root / "metadata" / "dataset.json"
    if not file.is_file():
        return
    content = read_json(file)
    stated = content.get("meds_version") if isinstance(content, dict) else ""
    numbers = re.match(r"(\d{1,9})(?:\.(\d{1,9}))?", str(stated or "0"))
    if numbers is None or not isinstance(content, dict):
        message = f"{file}: meds_version is no version"
        raise FormatError(message)
    if (int(numbers[1]), int(numbers[2] or 0)) > _NEWEST_MEDS:
        newest = ".".join(map(str, _NEWEST_MEDS))
        message = f"{file}: MEDS version {numbers[0]}, this release reads up to {newest}"
        raise FormatError(message)


def data_files(root: Path) -> list[Path]:
    """The Parquet files of the data, in order of their path.

    Raises:
        DataError: there are none, or one is no regular file (a pipe, a device, a loop of links).
    """
    folder = root / "data"
    files = sorted(
        path
        for path in (folder if folder.is_dir() else root).rglob("*.parquet")
        if not path.is_dir()
        and not path.name.startswith(".")
        and "metadata" not in path.relative_to(root).parts[:1]
    )
    for path in files:
        check_regular(path)
    if not files:
        message = f"{root}: no Parquet file under data/"
        raise DataError(message)
    return files


def check_schema(file: Path) -> dict[str, str]:
    """Maps the columns that are read, as MEDS names them, to the file's own; checks their types."""
    schema = read_parquet_schema(file)
    names: dict[str, str] = {}
    has_subject = any(name.lower() == "subject_id" for name in schema.names)
    for name in schema.names:
        is_old_name = name.lower() == "patient_id" and not has_subject
        key = "subject_id" if is_old_name else name.lower()
        if key not in _KNOWN:
            continue
        if key in names:
            message = f"{file}: column {name} is there twice"
            raise DataError(message)
        names[key] = name
    for column in ("subject_id", "time", "code"):
        if column not in names:
            message = f"{file}: required column {column} is missing"
            raise DataError(message)
    expected: dict[str, tuple[str, ...]] = {
        "subject_id": ("INTEGER",),
        "time": ("TIMESTAMP",),
        "code": _TEXT,
    } | _OPTIONAL
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


def extra_columns(files: list[Path], names: list[dict[str, str]]) -> dict[str, list[str]]:
    """Columns that are not read, under the name `data`: of any file, in order.

    Args:
        files: the data.
        names: of each file, the columns that are read (`check_schema`).
    """
    found = set[str]()
    for file, read in zip(files, names, strict=True):
        found |= set(read_parquet_schema(file).names) - set(read.values())
    return {"data": sorted(found)} if found else {}


def check_runs(
    file: Path, subject: NDArray[np.int64], row: NDArray[np.int64], is_known: NDArray[np.bool_]
) -> None:
    """Checks that a subject's rows are together.

    Args:
        file: named in the message.
        subject: of each run of equal subjects.
        row: its first row.
        is_known: false where the subject is null.

    Raises:
        DataError: a subject has two runs; the message names the row of the second.
    """
    again = _repeats(np.where(is_known, subject, np.iinfo(np.int64).min))
    if len(again):
        message = f"{file}: a subject's rows are not contiguous: seen again at row {row[again[0]]}"
        raise DataError(message)


def _repeats(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions, ascending, at which a value occurs that occurred before."""
    if not len(values):
        return np.zeros(0, np.int64)
    order = np.argsort(values, kind="stable")
    is_again = np.concatenate([[False], values[order][1:] == values[order][:-1]])
    return np.sort(order[is_again])


def check_one_home(
    files: list[Path], runs: list[tuple[NDArray[np.int64], NDArray[np.bool_]]]
) -> None:
    """Checks that no subject is in two files.

    Args:
        files: the shards.
        runs: of each, the subjects of its runs and which of them are known.

    Raises:
        DataError: one is.
    """
    known = [subject[is_known] for subject, is_known in runs]
    again = _repeats(np.concatenate(known))
    if len(again):
        border = np.cumsum([len(subjects) for subjects in known])
        file = files[int(np.searchsorted(border, again[0], side="right"))]
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
        table = read_columns(
            file, pa.schema([("subject_id", pa.int64()), ("split", pa.string())])
        ).drop_null()
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
            with readable(path):
                ids = pq.read_table(path, columns=[column]).column(0)
            origin = f"{path}: column {column}"
            subject = pc.unique(cast_column(ids, pa.int64(), origin).drop_null())
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
    names = [name for name in kinds if name in schema.names]
    for name in names:
        if schema.names.count(name) > 1:
            message = f"{file}: column {name} is there twice"
            raise DataError(message)
    if "code" not in names:
        message = f"{file}: required column code is missing"
        raise DataError(message)
    with readable(file):
        table = pq.read_table(file, columns=names, page_checksum_verification=True)
        table.validate(full=True)
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
    table = read_columns(file, observation_schema())
    for name in observation_schema().names:
        if table[name].null_count:
            message = f"{file}: column {name} has nulls"
            raise DataError(message)
    for name in ("start_time", "end_time"):
        ends = pc.min_max(as_microseconds(table[name], file, name)).as_py()
        if len(table) and (ends["min"] < FIRST_US or ends["max"] >= END_US):
            message = f"{file}: column {name}: a time outside of the years 1 to 9999"
            raise DataError(message)
    return table.cast(observation_schema())
