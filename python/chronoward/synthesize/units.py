"""Units on disk: finished ones are kept, so a job that was killed goes on where it stopped.

A unit is a folder of Parquet files; `unit.json`, written last, says that it is whole and what its
files hash to. When all units are there they are joined into the final tables, the manifest is
written, and the units are removed. A kill between any two of these steps changes nothing: the same
command does the rest, and the bytes are those of an uninterrupted run.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from chronoward.errors import FormatError, StateError
from chronoward.files import (
    atomic_path,
    make_output_folder,
    read_json,
    remove_temporary_files,
    sha256_file,
    write_json,
)
from chronoward.synthesize.plan import SynthesisPlan

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

PLAN = "plan.json"
MANIFEST = "manifest.json"
UNITS = "units"
DONE = "unit.json"


@contextmanager
def job_folder(out: Path, plan: SynthesisPlan) -> Iterator[Path]:
    """Opens or makes the folder of a job and keeps other jobs out of it.

    Raises:
        StateError: the folder holds something else, another plan, or is in use by another job.
    """
    out = Path(out)
    make_output_folder(out, resume=(out / PLAN).is_file())
    descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"{out} is in use by another job"
            raise StateError(message) from None
        if (out / PLAN).is_file():
            found = SynthesisPlan.from_json(read_json(out / PLAN), str(out / PLAN))
            if found != plan:
                message = f"{out} holds another job's plan; choose another folder or remove it"
                raise StateError(message)
        remove_temporary_files(out)
        write_json(out / PLAN, plan.to_json())
        yield out
    finally:
        os.close(descriptor)


def unit_folder(out: Path, unit: int) -> Path:
    """Where a unit lies while the job runs."""
    return out / UNITS / f"{unit:07d}"


def is_done(out: Path, unit: int) -> bool:
    """Whether a unit is whole."""
    return (unit_folder(out, unit) / DONE).is_file()


def write_unit(out: Path, unit: int, tables: dict[str, pa.Table], counts: dict[str, int]) -> None:
    """Writes a unit's tables, then the mark that it is whole.

    Args:
        out: the job's folder.
        unit: its number.
        tables: file stem to rows.
        counts: how its timelines ended, for the manifest.
    """
    folder = unit_folder(out, unit)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    hashes = {}
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        with atomic_path(path) as temporary:
            pq.write_table(
                table.combine_chunks(),
                temporary,
                compression="zstd",
                version="2.6",
                write_page_checksum=True,
            )
        hashes[name] = sha256_file(path)
    rows = {name: table.num_rows for name, table in tables.items()}
    write_json(folder / DONE, {"files": hashes, "rows": rows, "counts": counts})


def read_unit(out: Path, unit: int) -> dict[str, Any]:
    """What a finished unit says of itself.

    Raises:
        FormatError: one of its files was changed since.
    """
    folder = unit_folder(out, unit)
    done: dict[str, Any] = read_json(folder / DONE)
    for name, said in done["files"].items():
        path = folder / f"{name}.parquet"
        if not path.is_file() or sha256_file(path) != said:
            message = f"{path} does not match {DONE}; remove {folder} and run again"
            raise FormatError(message)
    return done


def remove_units(out: Path) -> None:
    """Removes the units of a finished job."""
    shutil.rmtree(out / UNITS, ignore_errors=True)
