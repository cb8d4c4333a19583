"""`ingest`: a source as a strict MEDS 0.4 folder, with its report and ledger."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronoward.data.assemble import prepare
from chronoward.data.meds_writer import write_meds
from chronoward.data.origin import as_source
from chronoward.data.report import check_strict
from chronoward.files import make_output_folder, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from chronoward.data.config import IngestConfig
    from chronoward.data.origin import SourceLike


def ingest(
    src: SourceLike,
    out: Path,
    *,
    config: IngestConfig,
    as_: str | None = None,
    exclude_subjects: Path | None = None,
    strict: bool = False,
    threads: int = 1,
    memory_limit: str = "2GB",
    temp_dir: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Mends and sorts a source and writes it as MEDS.

    Args:
        src: as of `prepare`.
        out: folder to make; it must be empty or absent.
        config: the dials.
        as_: `omop` or `meds`; None: recognized.
        exclude_subjects: text file with one subject id a line, to leave out.
        strict: fail where a faulty record had to be quarantined or nulled.
        threads: the result does not depend on them.
        memory_limit: of the sort, e.g. `2GB`.
        temp_dir: where intermediate files go; beside `out` when not given.
        progress: receives a line a step.

    Returns:
        The ingest report, and events by split.

    Raises:
        StateError: `out` has content.
        DataError, FormatError, ConfigError, LimitError: as `prepare`; with `strict` DataError.
    """
    source = as_source(src)
    make_output_folder(out)
    parent = temp_dir if temp_dir is not None else out.parent
    with tempfile.TemporaryDirectory(
        prefix=f".{out.name}.", dir=parent, ignore_cleanup_errors=True
    ) as scratch:
        work = Path(scratch)
        prepared = prepare(
            source,
            work,
            config=config,
            as_=as_,
            threads=threads,
            memory_limit=memory_limit,
            exclude_subjects=exclude_subjects,
            progress=progress,
        )
        report = prepared.report
        if strict:
            check_strict(report)
        counts = write_meds(
            prepared.batches(),
            out,
            codes=prepared.codes,
            splits=prepared.splits,
            observation=prepared.observation,
            name=source.name,
        )
        shutil.copytree(work / "ledger", out / "ledger")
        write_json(out / "ingest_report.json", report)
    return report, counts
