"""From units to what a reader wants: one file a table, or shards, and a manifest of hashes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from chronoward.data import cdm
from chronoward.data.workspace import quote_name
from chronoward.files import atomic_path, canonical_json, sha256_file, write_json
from chronoward.synthesize.concepts import cdm_table
from chronoward.synthesize.meds_writer import (
    code_metadata,
    dataset_metadata,
    meds_shard,
    subject_splits,
)
from chronoward.synthesize.omop_writer import SOURCE_NAME, omop_tables
from chronoward.synthesize.times import before_midnight
from chronoward.synthesize.units import MANIFEST, read_unit, unit_folder

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from chronoward.synthesize.concepts import Code, CodeMap
    from chronoward.synthesize.plan import SynthesisPlan

KIND = "synthetic"
PRIVACY = "PRIVACY: not evaluated"
SHARD = "events"


def unit_tables(
    plan: SynthesisPlan, unit: int, events: pa.Table, observation: pa.Table, codes: CodeMap
) -> dict[str, pa.Table]:
    """The tables of one unit in the plan's format.

    Args:
        plan: the job.
        unit: number of the unit.
        events: event_schema, as decoded.
        observation: observation_schema, one row a subject.
        codes: where codes go.
    """
    written = before_midnight(events, observation)
    if plan.format == "meds":
        return {SHARD: meds_shard(written)}
    return omop_tables(
        written,
        observation,
        codes,
        base=unit * plan.stride,
        stride=plan.stride,
        key_type=plan.key_type,
    )


def _literal(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _parts(out: Path, plan: SynthesisPlan, table: str) -> str:
    """SQL that reads a table's parts in order of their units."""
    paths = [unit_folder(out, unit) / f"{table}.parquet" for unit in range(plan.n_units)]
    return f"read_parquet([{', '.join(_literal(path) for path in paths)}])"


def _cdm_source(plan: SynthesisPlan, last_day: date) -> pa.Table:
    """One row that says nobody in here exists; its dates are the last day of observation."""
    row = {
        "cdm_source_name": f"{SOURCE_NAME} (chronoward)",
        "cdm_source_abbreviation": SOURCE_NAME,
        "cdm_holder": SOURCE_NAME,
        "source_description": (
            f"Synthetic subjects drawn by chronoward {plan.version} from model "
            f"{plan.model_hash[:16]}, seed {plan.seed}. No row is about a person. {PRIVACY}."
        ),
        "cdm_etl_reference": "chronoward.synthesize.omop_writer",
        "source_release_date": last_day,
        "cdm_release_date": last_day,
        "cdm_version": cdm.VERSION,
        "cdm_version_concept_id": cdm.VERSION_CONCEPT_ID,
        "vocabulary_version": "of the source",
    }
    return cdm_table("cdm_source", [row])


def write_omop(out: Path, plan: SynthesisPlan, codes: CodeMap) -> list[Path]:
    """Joins the units into one file a table (or one DuckDB file).

    Returns:
        The files written.
    """
    with duckdb.connect() as connection:
        connection.execute("SET threads=1")
        connection.execute("SET memory_limit='1GB'")
        periods = _parts(out, plan, "observation_period")
        [(last_day,)] = connection.execute(
            f"SELECT max(observation_period_end_date) FROM {periods}"
        ).fetchall()
        extra = {"cdm_source": _cdm_source(plan, last_day), **codes.vocabulary}
        for name, rows in extra.items():
            connection.register(f"{name}_rows", rows)
        relations = {
            table: f"{table}_rows" if table in extra else _parts(out, plan, table)
            for table in cdm.WRITTEN_TABLES
        }
        if plan.files == "duckdb":
            return [_write_database(out, connection, relations)]
        options = "(HEADER)" if plan.files == "csv" else "(FORMAT parquet, COMPRESSION zstd)"
        written = []
        for table, relation in relations.items():
            path = out / f"{table}.{plan.files}"
            with atomic_path(path) as temporary:
                columns = inert_columns(connection, relation) if plan.files == "csv" else "*"
                connection.execute(
                    f"COPY (SELECT {columns} FROM {relation}) TO {_literal(temporary)} {options}"
                )
            written.append(path)
    return written


def inert_columns(connection: duckdb.DuckDBPyConnection, relation: str) -> str:
    """SQL of a relation's columns with an apostrophe before text that a spreadsheet would run.

    A code is whatever its source called it, `=HYPERLINK(…)` too; who opens a CSV file with a
    spreadsheet must see it, not run it.
    """
    described = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    columns = []
    for name, kind, *_ in described:
        column = quote_name(name)
        if kind == "VARCHAR":
            runs = f"regexp_matches({column}, '^[=+@\\t\\r-]')"
            column = f"CASE WHEN {runs} THEN chr(39) || {column} ELSE {column} END AS {column}"
        columns.append(column)
    return ", ".join(columns)


def _write_database(
    out: Path, connection: duckdb.DuckDBPyConnection, relations: dict[str, str]
) -> Path:
    path = out / "omop.duckdb"
    with atomic_path(path) as temporary:
        connection.execute(f"ATTACH {_literal(temporary)} AS written")
        for table, relation in relations.items():
            connection.execute(f"CREATE TABLE written.main.{table} AS SELECT * FROM {relation}")
        connection.execute("DETACH written")
    return path


def write_meds(out: Path, plan: SynthesisPlan, codes: list[Code]) -> list[Path]:
    """Moves the shards to data/ and writes the metadata.

    Returns:
        The files written.
    """
    data = out / "data" / "train"
    metadata = out / "metadata"
    for folder in (data, metadata):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    written = []
    for unit in range(plan.n_units):
        path = data / f"{unit:07d}.parquet"
        with atomic_path(path) as temporary:
            temporary.write_bytes((unit_folder(out, unit) / f"{SHARD}.parquet").read_bytes())
        written.append(path)
    splits = subject_splits(range(1, plan.n_subjects + 1))
    for name, table in (("codes", code_metadata(codes)), ("subject_splits", splits)):
        path = metadata / f"{name}.parquet"
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, write_page_checksum=True)
        written.append(path)
    path = metadata / "dataset.json"
    write_json(path, dataset_metadata(model_hash=plan.model_hash, version=plan.version))
    return [*written, path]


def output_hash(files: dict[str, dict[str, Any]]) -> str:
    """SHA-256 over the names and hashes of all files: what a privacy report is about."""
    listed = {name: entry["sha256"] for name, entry in files.items()}
    return hashlib.sha256(canonical_json(listed)).hexdigest()


def write_manifest(out: Path, plan: SynthesisPlan, written: list[Path]) -> dict[str, Any]:
    """Writes the manifest: what this is, what it is made of, and that privacy is not evaluated."""
    rows: dict[str, int] = {}
    counts: dict[str, int] = {}
    for unit in range(plan.n_units):
        done = read_unit(out, unit)
        for total, part in ((rows, done["rows"]), (counts, done["counts"])):
            for name, n in part.items():
                total[name] = total.get(name, 0) + n
    files = {
        str(path.relative_to(out)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(written)
    }
    manifest = {
        "schema": 1,
        "kind": KIND,
        "privacy": PRIVACY,
        "about": "No row is about a person. Not a medical device, not de-identified data.",
        "plan": plan.to_json(),
        "model_hash": plan.model_hash,
        "tokenizer_hash": plan.tokenizer_hash,
        "seed": plan.seed,
        "keys": {"type": plan.key_type, "stride": plan.stride, "first": 1},
        "rows": rows,
        "timelines_ended": counts,
        "files": files,
        "output_hash": output_hash(files),
    }
    write_json(out / MANIFEST, manifest)
    return manifest
