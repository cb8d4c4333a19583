"""A MEDS folder into events, ledger and the small tables that the code table and report ask for."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from chronoward._core import CHANGES, REMOVALS
from chronoward.data import events, ledger
from chronoward.data.meds import (
    check_version,
    data_files,
    extra_columns,
    read_code_metadata,
    read_observation,
)
from chronoward.data.meds_facts import register_facts
from chronoward.data.meds_mend import MedsMender
from chronoward.data.meds_rows import NULL_US
from chronoward.data.meds_spool import MedsSpool
from chronoward.data.meds_tables import sentinel_years_us, visit_class
from chronoward.data.omop import FAR_FUTURE, Loaded
from chronoward.data.parquet_file import has_page_checksums, read_metadata
from chronoward.data.rules import Rule
from chronoward.data.visits import INPATIENT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from chronoward.data.config import IngestConfig
    from chronoward.data.workspace import Workspace

LEDGER_TABLE = "data"
METADATA_TABLE = "metadata/codes"


@dataclass(frozen=True, eq=False)
class MedsLoaded:
    """What a MEDS source is, beside the tables in the workspace and the files that were written.

    Attributes:
        loaded: as of any source.
        metadata: rows of its metadata/codes.parquet (`read_code_metadata`).
        tables: the ledger's counts.
        n_subjects, n_events: of the event table.
    """

    loaded: Loaded
    metadata: pa.Table
    tables: dict[str, dict[str, int]]
    n_subjects: int
    n_events: int


def load_meds(
    work: Workspace,
    root: Path,
    config: IngestConfig,
    *,
    excluded: set[int],
    threads: int,
    say: Callable[[str], None],
) -> MedsLoaded:
    """Writes events and ledger beside the workspace, and makes `subject`, `period` and the tables
    of `chronoward.data.codes.describe_events`.

    Args:
        work: an empty workspace.
        root: the MEDS folder.
        config: the dials.
        excluded: ids of subjects to leave out.
        threads: that take pieces side by side; the result does not depend on them.
        say: receives a line a step.

    Raises:
        DataError: a structural fault (see chronoward.data.meds).
        FormatError: a damaged file.
    """
    scratch = work.path.parent / "spool"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    try:
        return _load(work, root, config, excluded, threads, say, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _load(
    work: Workspace,
    root: Path,
    config: IngestConfig,
    excluded: set[int],
    threads: int,
    say: Callable[[str], None],
    scratch: Path,
) -> MedsLoaded:
    folder = work.path.parent
    check_version(root)
    files = data_files(root)
    say(f"{len(files)} shards")
    spool = MedsSpool(files, scratch, threads)
    calendar = config.calendar if config.calendar != "auto" else _calendar(spool, config)
    metadata, lost = read_code_metadata(root)
    said = zip(metadata["code"].to_pylist(), metadata["is_inpatient"].to_pylist(), strict=True)
    inpatient = {code for code, is_inpatient in said if is_inpatient}
    say("rules on records and visits")
    mender = MedsMender(
        spool,
        config,
        calendar=calendar,
        excluded=excluded,
        inpatient_codes=inpatient,
        scratch=scratch,
        threads=threads,
    )
    say("events")
    n_subjects, n_events = events.write_parts(folder / "events", mender.pieces(), threads, say)
    codes, tables = mender.texts["code"].values, mender.texts["table"].values
    register_facts(
        work,
        mender.facts(),
        codes,
        min_subjects=config.sex_specific_min_subjects,
        inpatient=(c for c in codes.to_pylist() if visit_class(c, inpatient) == INPATIENT),
    )
    _make_subjects(work, root, spool, excluded)
    say("ledger")
    rows = ledger.RowLedger(folder / "ledger", REMOVALS, (*CHANGES, Rule.METADATA_NULLED.value))
    for file, gone, changes in mender.fates():
        rows.add(LEDGER_TABLE, file.relative_to(root).as_posix(), gone, changes)
    if lost.any():
        nulled = lost.astype(np.uint32) << np.uint32(len(CHANGES))
        rows.add(METADATA_TABLE, f"{METADATA_TABLE}.parquet", np.zeros(len(lost), np.uint8), nulled)
    counts = rows.finish()
    warnings = [] if sum(spool.n_rows) else ["the source has no events"]
    warnings += _unchecked(files)
    loaded = Loaded(
        tables=tuple(tables.to_pylist()),
        has_visits=mender.has_visits,
        calendar=calendar,
        extract_date=config.extract_date,
        warnings=warnings,
        not_read=[],
        extra_columns=extra_columns(files, spool.names),
    )
    return MedsLoaded(loaded, metadata, counts, n_subjects, n_events)


def _unchecked(files: list[Path]) -> list[str]:
    if all(has_page_checksums(file, read_metadata(file)) for file in files):
        return []
    return ["there are files without page checksums: damage inside pages may go unseen"]


def _calendar(spool: MedsSpool, config: IngestConfig) -> str:
    """`shifted` when more than half of the times, sentinel years aside, lie after the border."""
    border = int(np.datetime64(config.extract_date or FAR_FUTURE, "us").astype(np.int64))
    years = sentinel_years_us(config)
    n = n_late = 0
    for time in spool.times():
        counts = time != NULL_US
        for begin, end in years.T.tolist():
            counts &= (time < begin) | (time >= end)
        n += int(counts.sum())
        n_late += int((time[counts] > border).sum())
    return "shifted" if n_late > 0.5 * n else "real"


def _make_subjects(work: Workspace, root: Path, spool: MedsSpool, excluded: set[int]) -> None:
    """Makes `subject` (subject_id, death, gone) and `period` (subject_id, start, finish)."""
    gone = np.isin(spool.subject_id, np.array(sorted(excluded), np.int64))
    known = pa.table({"subject_id": spool.subject_id[~gone]})
    work.add_rows("known_subject", known)
    work.run(
        """CREATE TABLE subject AS SELECT k.subject_id, d.death, 0::UTINYINT AS gone
        FROM known_subject k LEFT JOIN death_time d ON k.subject_id = d.subject_id"""
    )
    work.add_rows("meds_period", read_observation(root))
    work.run(
        """CREATE TABLE period AS SELECT o.subject_id, o.start_time AS start,
          LEAST(o.end_time, p.death) AS finish FROM meds_period o JOIN subject p
        ON o.subject_id = p.subject_id WHERE p.death IS NULL OR o.start_time <= p.death"""
    )
