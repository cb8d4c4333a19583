"""`prepare`: any source into a finished work folder, resumable, the same bytes for any threads.

The manifest `prepared.json` is written last; a folder without it is begun anew. What may differ
between two runs of the same data (paths, sizes of CSV files) is in the manifest, not in the report.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from chronoward.data import codes as code_table
from chronoward.data import events
from chronoward.data.config import IngestConfig
from chronoward.data.meds import data_files, read_splits
from chronoward.data.meds_load import load_meds
from chronoward.data.observation import make_observation
from chronoward.data.omop import load_omop
from chronoward.data.origin import as_folder, as_source, decide_form
from chronoward.data.prepared import MANIFEST, REPORT, VERSION, PreparedEvents, split_schema
from chronoward.data.report import make_report
from chronoward.data.source import find_tables, open_omop
from chronoward.data.workspace import Workspace
from chronoward.errors import ConfigError, DataError, FormatError, LimitError, StateError
from chronoward.files import canonical_json, read_json, remove_temporary_files, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from chronoward.data.omop import Loaded
    from chronoward.data.origin import Source, SourceLike

_HEAD = 1 << 16
_COPY = "source_copy"
"""Folder of a source that is no folder itself; gone once the events are finished."""


def prepare(
    src: SourceLike,
    work_dir: Path,
    *,
    config: IngestConfig | None = None,
    as_: str | None = None,
    threads: int = 1,
    memory_limit: str = "2GB",
    exclude_subjects: Path | Iterable[int] | None = None,
    progress: Callable[[str], None] | None = None,
) -> PreparedEvents:
    """Makes the sorted event table of a source in `work_dir`, or reuses a finished one.

    Args:
        src: OMOP folder, MEDS folder, DuckDB file, `postgresql://` URI, or MEDS tables.
        work_dir: folder for the result and for spilling; made when missing.
        config: the dials; None: the defaults.
        as_: `omop` or `meds`; None: recognized.
        threads: DuckDB's threads; the result does not depend on them.
        memory_limit: DuckDB's memory, e.g. `2GB`.
        exclude_subjects: ids of subjects to leave out, or a text file with one a line.
        progress: receives a line a step.

    Raises:
        DataError: the source's structure is at fault.
        FormatError: a file is damaged.
        StateError: `work_dir` holds the result of another source or configuration.
        ConfigError: an unknown form or kind of source, or a bad exclusion list.
        ConnectionError: a database cannot be reached.
        LimitError: the memory limit is too small.
    """
    source, work_dir = as_source(src), Path(work_dir)
    config = config or IngestConfig()
    form = decide_form(source, as_)
    excluded = read_excluded(exclude_subjects)
    identity = _identity(source, form, config, excluded)
    if (work_dir / MANIFEST).is_file():
        if read_json(work_dir / MANIFEST).get("identity") != identity:
            message = f"{work_dir} holds another source or configuration; choose another folder"
            raise StateError(message)
        _remove_copy(source, work_dir)  # of a run that was killed at its end
        return PreparedEvents.open(work_dir)
    work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_temporary_files(work_dir)
    _remove_results(work_dir)
    say = progress or _silent
    try:
        readable = as_folder(source, work_dir / _COPY, say)
        work = Workspace(work_dir, threads=threads, memory_limit=memory_limit)
        try:
            manifest = _run(work, readable, form, config, excluded, say, threads)
        finally:
            work.close()
            pa.default_memory_pool().release_unused()  # or what follows would need as much again
        _check_unchanged(source, form, config, excluded, identity)
        write_json(work_dir / MANIFEST, {"identity": identity, **manifest})
    except (DataError, FormatError, OSError, StateError, LimitError) as error:
        _remove_results(work_dir)
        _remove_copy(source, work_dir)  # what is mended is to be read anew
        _check_unchanged(source, form, config, excluded, identity, error)
        raise
    _remove_copy(source, work_dir)
    return PreparedEvents.open(work_dir)


def _remove_copy(source: Source, work_dir: Path) -> None:
    if not isinstance(source, Path):
        shutil.rmtree(work_dir / _COPY, ignore_errors=True)


def _remove_results(work_dir: Path) -> None:
    """Removes what a run that was not finished left under final names."""
    for folder in ("events", "ledger"):
        shutil.rmtree(work_dir / folder, ignore_errors=True)
    for path in [*work_dir.glob("*.parquet"), work_dir / REPORT]:
        path.unlink(missing_ok=True)


def _check_unchanged(
    src: Source,
    form: str,
    config: IngestConfig,
    excluded: list[str],
    identity: str,
    cause: Exception | None = None,
) -> None:
    """Checks that the files are those that reading began with.

    Raises:
        StateError: they are not (what went wrong while reading them is then beside the point).
    """
    try:
        same = _identity(src, form, config, excluded) == identity
    except (OSError, DataError):
        same = False
    if not same:
        message = f"{src}: its files changed while they were read; start again once they rest"
        raise StateError(message) from cause


def _silent(_line: str) -> None:
    return None


def _run(
    work: Workspace,
    src: Path,
    form: str,
    config: IngestConfig,
    excluded: list[str],
    say: Callable[[str], None],
    threads: int,
) -> dict[str, Any]:
    """Everything but the manifest, which is returned."""
    work_dir = work.path.parent
    splits = None
    if form == "omop":
        if excluded:
            work.add_rows("excluded", pa.table({"subject_id": excluded_ids(excluded)}))
        source = open_omop(src)
        if "person" not in source.tables:
            message = f"{src}: no table person"
            raise DataError(message)
        omop = load_omop(work, source, config, excluded=bool(excluded), threads=threads, say=say)
        loaded, tables, described = omop.loaded, omop.tables, omop.described
        n_subjects, n_events = omop.n_subjects, omop.n_events
    else:
        splits = read_splits(src, data_files(src))
        ids = {int(subject) for subject in excluded if subject.lstrip("-").isdecimal()}
        meds = load_meds(work, src, config, excluded=ids, threads=threads, say=say)
        loaded, tables = meds.loaded, meds.tables
        n_subjects, n_events = meds.n_subjects, meds.n_events
        described = _describe_meds(meds.metadata, loaded)
    say("codes")
    codes = code_table.make_codes(work, loaded.tables, described)
    observation, rule = make_observation(work, config, loaded.extract_date)
    report = make_report(
        work, config, loaded, tables=tables, form=form, excluded=excluded, observation_rule=rule
    )
    report["n_subjects"], report["n_events"] = n_subjects, n_events
    _write(work, codes, observation, splits, report)
    files = {
        str(path.relative_to(work_dir)): path.stat().st_size
        for path in sorted([*work_dir.rglob("*.parquet"), *work_dir.glob("events/*.arrow")])
        if path.relative_to(work_dir).parts[0] != _COPY
    } | {REPORT: (work_dir / REPORT).stat().st_size}
    return {
        "version": VERSION,
        "form": form,
        "n_subjects": report["n_subjects"],
        "n_events": report["n_events"],
        "has_visits": loaded.has_visits,
        "calendar": loaded.calendar,
        "files": files,
    }


def _write(
    work: Workspace,
    codes: pa.Table,
    observation: pa.Table,
    splits: pa.Table | None,
    report: dict[str, Any],
) -> None:
    from chronoward.files import atomic_path

    work_dir = work.path.parent
    written = {"codes": codes, "observation": observation}
    if splits is not None:
        kept = work.table("SELECT subject_id FROM subject WHERE gone = 0 ORDER BY subject_id")
        written["splits"] = (
            splits.join(kept, "subject_id", join_type="inner")
            .sort_by("subject_id")
            .select(["subject_id", "split"])
            .cast(split_schema())
        )
    if work.value("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'subject_ids'"):
        written["subject_ids"] = work.table("SELECT * FROM subject_ids ORDER BY subject_id")
    for name, table in written.items():
        with atomic_path(work_dir / f"{name}.parquet") as path:
            events.write_parquet(table, path)
    write_json(work_dir / REPORT, report)


def _describe_meds(metadata: pa.Table, loaded: Loaded) -> pa.Table:
    """The metadata's code rows with table numbers (null: any table)."""
    number = {name: i for i, name in enumerate(loaded.tables)}
    tables = pa.array(
        [None if name is None else number.get(name) for name in metadata["table"].to_pylist()],
        pa.uint16(),
    )
    return metadata.drop_columns(["table", "is_inpatient"]).append_column("tbl", tables)


def read_excluded(exclude: Path | Iterable[int] | None) -> list[str]:
    """Ids to leave out, sorted, as text.

    Raises:
        ConfigError: the file is empty or holds blanks inside a line.
        OSError: the file cannot be read.
    """
    if exclude is None:
        return []
    if not isinstance(exclude, str | Path):
        return sorted({str(int(subject)) for subject in exclude})
    lines = [line.strip() for line in Path(exclude).read_text(encoding="utf-8").splitlines()]
    ids = {line for line in lines if line and not line.startswith("#")} - {"subject_id"}
    if not ids or any(len(line.split()) != 1 for line in ids):
        message = f"{exclude}: expected one subject id a line"
        raise ConfigError(message)
    return sorted(ids)


def excluded_ids(excluded: list[str]) -> pa.Array:
    """Subject ids (int64) that the ids of an exclusion list may have become: each as it is, and
    hashed, as all are where one of the source's ids is text."""
    with duckdb.connect() as connection:
        connection.register("listed", pa.table({"id": pa.array(excluded, pa.string())}))
        found = connection.sql(
            """SELECT (hash(id) >> 1)::BIGINT AS subject_id FROM listed UNION
            SELECT TRY_CAST(id AS BIGINT) FROM listed WHERE TRY_CAST(id AS BIGINT) IS NOT NULL
            ORDER BY subject_id"""
        ).to_arrow_table()
    return found["subject_id"].combine_chunks()


def _identity(src: Source, form: str, config: IngestConfig, excluded: list[str]) -> str:
    """Hash of what decides the result: names, sizes, first and last 64 KiB of the files, config."""
    decided = [VERSION, form, config.to_json(), excluded]
    if not isinstance(src, Path):
        return hashlib.sha256(canonical_json([*decided, src.key])).hexdigest()
    if src.is_file():
        files = [src]
    elif form == "omop":
        files = [file for parts in find_tables(src).values() for file in parts]
    else:
        files = [*data_files(src), *sorted((src / "metadata").glob("*.parquet"))]
    digest = hashlib.sha256(canonical_json(decided))
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(src) if src.is_dir() else file.name}\0{size}\0".encode())
        with file.open("rb") as handle:
            digest.update(handle.read(_HEAD))
            handle.seek(max(0, size - _HEAD))
            digest.update(handle.read(_HEAD))
    return digest.hexdigest()
