"""A quick look at a MEDS folder: one scan by subject and one by code, whatever the shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chronoward.data.config import IngestConfig
from chronoward.data.look import SourceLook, TableLook, Trap
from chronoward.data.meds import (
    check_schema,
    data_files,
    extra_columns,
    read_code_metadata,
    read_observation,
    read_splits,
)
from chronoward.data.omop import FAR_FUTURE
from chronoward.data.workspace import number_list, quote_name, quote_text, text_list

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.data.workspace import Workspace

_READ = ("subject_id", "time", "code", "numeric_value", "text_value", "visit_id")
_KINDS = {"subject_id": "BIGINT", "time": "TIMESTAMP", "code": "VARCHAR", "numeric_value": "DOUBLE"}
_YEAR_SECONDS = 365.25 * 86_400
_CONFIG = IngestConfig()


def look_at_meds(work: Workspace, root: Path) -> SourceLook:
    """Looks at the shards and at what is beside them.

    Args:
        work: an empty workspace, for a code table and for spilling.
        root: the MEDS folder.

    Raises:
        DataError: no Parquet file, a required column is missing or of another type.
        FormatError: a damaged file.
        StateError: a subject is in two splits.
    """
    files = data_files(root)
    names = [check_schema(file) for file in files]
    columns = sorted({column for found in names for column in found})
    work.run(f"CREATE VIEW meds AS {_scan(files, names)}")
    metadata, _ = read_code_metadata(root)
    work.add_rows("described", pa.table({"code": metadata["code"].drop_null()}))
    work.run("CREATE TABLE code_rows AS SELECT code, count(*) AS n FROM meds GROUP BY code")
    n_rows, n_codes, n_known = work.rows(
        """SELECT COALESCE(sum(n), 0)::BIGINT, count(*), COALESCE(sum(n) FILTER (WHERE code IN
          (SELECT code FROM described)), 0)::BIGINT FROM code_rows"""
    )[0]
    seen = _subjects(work)
    starts = [p.start for p in _CONFIG.visit_patterns if not p.is_detail]
    opening = " OR ".join(
        f"code = {quote_text(start)} OR starts_with(code, {quote_text(start + '//')})"
        for start in starts
    )
    n_visits = work.value(
        f"SELECT COALESCE(sum(n), 0)::BIGINT FROM code_rows WHERE {opening}"
        if "visit_id" not in columns
        else "SELECT count(DISTINCT (subject_id, visit_id)) FROM meds WHERE visit_id IS NOT NULL"
    )
    n_bytes = sum(file.stat().st_size for file in files)
    n_timed = n_rows - seen["static"]
    years, years_from = _follow_up(root, seen)
    return SourceLook(
        form="meds",
        storage="meds",
        described=f"Parquet, {len(files):,} shards, {n_bytes / 1e6:,.1f} MB",
        tables=[
            TableLook(
                name="data",
                n_rows=n_rows,
                n_columns=len(columns) + sum(map(len, extra_columns(files, names).values())),
                mapped=n_known / n_rows if n_rows and metadata.num_rows else None,
                first=seen["first"],
                last=seen["last"],
            )
        ],
        n_subjects=seen["subjects"],
        n_records=n_rows - seen["static"] - seen["births"],
        n_visits=n_visits,
        n_details=0,
        n_deaths=seen["deaths"],
        calendar="shifted" if seen["late"] > 0.5 * n_timed else "real",
        follow_up_years=years,
        follow_up_from=years_from,
        traps=_traps(seen, n_rows),
        notes=_notes(root, files, n_codes, metadata.num_rows, n_visits),
    )


def _scan(files: list[Path], names: list[dict[str, str]]) -> str:
    """The shards as one relation; shards that spell their columns alike are scanned together."""
    groups: dict[tuple[str | None, ...], list[Path]] = {}
    for file, found in zip(files, names, strict=True):
        groups.setdefault(tuple(found.get(column) for column in _READ), []).append(file)
    parts = []
    for spelled, members in groups.items():
        chosen = ", ".join(
            f"{'NULL' if name is None else quote_name(name)}::{_KINDS.get(column, 'VARCHAR')} "
            f"AS {column}"
            for column, name in zip(_READ, spelled, strict=True)
        )
        listed = ", ".join(quote_text(str(file)) for file in members)
        parts.append(f"SELECT {chosen} FROM read_parquet([{listed}], union_by_name = true)")
    return " UNION ALL ".join(parts)


def _subjects(work: Workspace) -> dict[str, Any]:
    """One scan, by subject, then summed over them."""
    birth, death = (
        f"(code = {quote_text(name)} OR starts_with(code, {quote_text(name + '//')}))"
        for name in ("MEDS_BIRTH", "MEDS_DEATH")
    )
    unknown = f"year(time) IN {number_list(_CONFIG.sentinel_years)}"
    lived = f"NOT {birth} AND NOT {unknown}"
    midnight = "time = date_trunc('day', time)"
    row = work.rows(
        f"""SELECT count(subject_id), sum(n_static), sum(n_births), sum(n_deaths),
          sum(n_death_days), sum(n_unknown), sum(n_days), sum(n_late), sum(n_text), sum(n_zero),
          sum(n_timed - n_moments), min(first), max(last), count(*) FILTER (WHERE n_births = 0),
          quantile_cont(epoch(last - first) / {_YEAR_SECONDS}, [0.25, 0.5, 0.75]),
          sum(n) FILTER (WHERE subject_id IS NULL)
        FROM (SELECT subject_id, count(*) AS n, count(*) FILTER (WHERE time IS NULL) AS n_static,
            count(*) FILTER (WHERE {birth}) AS n_births,
            count(*) FILTER (WHERE {death}) AS n_deaths,
            count(*) FILTER (WHERE {death} AND {midnight}) AS n_death_days,
            count(*) FILTER (WHERE {unknown}) AS n_unknown,
            count(*) FILTER (WHERE NOT {birth} AND NOT {death} AND {midnight}) AS n_days,
            count(*) FILTER (WHERE {lived} AND time > {quote_text(FAR_FUTURE)}) AS n_late,
            count(*) FILTER (WHERE numeric_value IS NULL AND text_value IS NOT NULL) AS n_text,
            count(*) FILTER (WHERE code IN {text_list(("OMOP/0", "OMOP//0"))}) AS n_zero,
            count(time) AS n_timed, count(DISTINCT time) AS n_moments,
            min(time) FILTER (WHERE {lived}) AS first, max(time) FILTER (WHERE {lived}) AS last
          FROM meds GROUP BY subject_id)"""
    )[0]
    keys = (
        *("subjects", "static", "births", "deaths", "death_days", "unknown", "days", "late"),
        *("text", "zero", "tied", "first", "last", "unborn", "years", "nobody"),
    )
    seen = dict(zip(keys, row, strict=True))
    for key, value in seen.items():
        if key not in ("first", "last", "years"):
            seen[key] = int(value or 0)
    years = seen["years"]
    seen["years"] = None if years is None or years[0] is None else tuple(years)
    return seen


def _follow_up(root: Path, seen: dict[str, Any]) -> tuple[tuple[float, float, float] | None, str]:
    """Quartiles of observed years by subject, from periods where there are some."""
    periods = read_observation(root)
    if not periods.num_rows:
        return seen["years"], "first to last event after birth"
    start, end = (periods[name].cast(pa.int64()).to_numpy() for name in ("start_time", "end_time"))
    _, subject = np.unique(periods["subject_id"].to_numpy(), return_inverse=True)
    years = np.bincount(subject, (end - start) / 1e6 / _YEAR_SECONDS)
    low, middle, high = np.quantile(years, (0.25, 0.5, 0.75)).tolist()
    return (low, middle, high), "observation periods"


def _traps(seen: dict[str, Any], n_rows: int) -> list[Trap]:
    n_timed = n_rows - seen["static"]
    listed = [
        Trap("subjects without a birth", seen["unborn"], seen["subjects"]),
        Trap("deaths at 00:00:00 (a date only)", seen["death_days"], seen["deaths"]),
        Trap("rows without a subject", seen["nobody"], n_rows),
        Trap("rows in a year that means unknown", seen["unknown"], n_timed),
        Trap("rows at 00:00:00", seen["days"], n_timed),
        Trap("rows at the same time as another of the subject", seen["tied"], n_timed),
        Trap("rows of concept 0", seen["zero"], n_rows),
        Trap("rows whose value is text", seen["text"], n_rows),
    ]
    return [trap for trap in listed if trap.n]


def _notes(root: Path, files: list[Path], n_codes: int, n_known: int, n_visits: int) -> list[str]:
    notes = [f"{n_codes:,} different codes"]
    if n_known == 0:
        notes.append("no metadata/codes.parquet: codes have no names and no parents")
    notes.append(f"{n_visits:,} visits" if n_visits else "no visits: preset events")
    splits = read_splits(root, files)
    if splits is None:
        notes.append("no splits: subjects are split by hash")
    else:
        counts = splits.group_by("split").aggregate([("subject_id", "count")]).to_pylist()
        named = {row["split"]: row["subject_id_count"] for row in counts}
        listed = ", ".join(f"{name} {n:,}" for name, n in sorted(named.items()))
        notes.append(f"splits: {listed} subjects")
    rows = [pq.read_metadata(file).num_rows for file in files]
    notes.append(f"rows a shard: {min(rows):,} to {max(rows):,}")
    return notes
