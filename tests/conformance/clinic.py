"""Clinic subjects under both conversions, and why a subject's tokens differ."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import duckdb

from chronoward.data import CEHRGPT_DIALS, prepare, read_ledger
from chronoward.data.simulate import SimulationConfig, simulate

from .omop_tables import SCHEMAS
from .ours import Sequences, encode, fit_all

if TYPE_CHECKING:
    from pathlib import Path

N_SUBJECTS, SEED = 1000, 7
TABLES = ("condition_occurrence", "procedure_occurrence", "drug_exposure")
STAYS = (9201, 262, 8971, 8920)
_SQL = {"int64": "BIGINT", "string": "VARCHAR", "double": "DOUBLE"}
_SQL |= {"date32[day]": "DATE", "timestamp[us]": "TIMESTAMP"}
_RULES = {
    "records without a visit, or outside theirs": {"relinked_by_date", "artificial_visit"},
    "records at a date without a time": {"date_only_in_visit", "date_only_day"},
    "records hours before their visit": {"clamped_to_visit"},
    "visits that overlap": {"visit_overlap_clamped"},
    "visits without an end, or with records after it": {"missing_visit_end", "visit_extended"},
    "records or visits after death": {"after_death", "visit_end_after_death"},
    "deaths from discharges": {"death_from_discharge"},
    "faulty records: impossible times, duplicates": {
        "exact_duplicate", "sentinel_time", "before_birth", "prenatal", "missing_time",
        "future_date", "unparsable_time", "end_before_start",
    },
}  # fmt: skip


def write_parquet(folder: Path, trap_ratio: float) -> Path:
    """The clinic's tables in Parquet, without measurements; `folder` is new."""
    config = SimulationConfig.from_dict({"records": {"trap_ratio": trap_ratio}})
    simulate(folder / "csv", n_subjects=N_SUBJECTS, seed=SEED, config=config)
    with duckdb.connect() as database:
        for name, schema in SCHEMAS.items():
            if name == "measurement":
                continue
            (folder / "omop" / name).mkdir(parents=True)
            columns = ", ".join(
                f'try_cast(nullif("{f.name}", \'\') AS {_SQL[str(f.type)]}) AS "{f.name}"'
                for f in schema
            )
            database.execute(
                f"COPY (SELECT {columns} FROM read_csv('{folder}/csv/{name}.csv', "
                f"all_varchar=true)) TO '{folder}/omop/{name}/0.parquet' (FORMAT parquet)"
            )
    shutil.rmtree(folder / "csv")
    return folder / "omop"


def convert(folder: Path) -> Sequences:
    """Our tokens of the clinic in `folder`/omop."""
    prepared = prepare(folder / "omop", folder / "events", config=CEHRGPT_DIALS)
    return encode(prepared, fit_all(prepared))


def causes(folder: Path) -> dict[str, set[str]]:
    """What in a subject's records is treated differently, by class: persons."""
    found: dict[str, set[str]] = {name: set() for name in _RULES}
    with duckdb.connect() as database:
        omop = folder / "omop"
        database.register("ledger", read_ledger(folder / "events" / "ledger"))
        for table in (*TABLES, "visit_occurrence"):
            rows = database.execute(
                f"""SELECT x.person_id, list_append(l.changes, l.rule)
                FROM ledger l JOIN '{omop}/{table}/*.parquet' x
                  ON l."table" = '{table}' AND l.key = CAST(x.{table}_id AS VARCHAR)
                WHERE l.rule IS NOT NULL OR len(l.changes) > 0"""
            ).fetchall()
            for person, rules in rows:
                for name, known in _RULES.items():
                    if known & set(rules):
                        found[name].add(str(person))
        found |= _by_tables(database, omop)
    return found


def _by_tables(database: Any, omop: Path) -> dict[str, set[str]]:
    """Visits whose records lie on later dates than their start, and repeated deaths."""
    starts = {
        "condition_occurrence": "condition_start_date",
        "procedure_occurrence": "procedure_date",
        "drug_exposure": "drug_exposure_start_date",
    }
    records = " UNION ALL ".join(
        f"SELECT visit_occurrence_id, {column} AS day FROM '{omop}/{table}/*.parquet'"
        for table, column in starts.items()
    )
    rows = database.execute(
        f"""SELECT v.person_id, v.visit_concept_id IN {STAYS} AS is_stay,
          max(r.day) > any_value(v.visit_start_date) AS is_late,
          min(r.day) > any_value(v.visit_start_date) AS begins_late
        FROM '{omop}/visit_occurrence/*.parquet' v JOIN ({records}) r USING (visit_occurrence_id)
        GROUP BY v.person_id, v.visit_occurrence_id, is_stay"""
    ).fetchall()
    deaths = database.execute(
        f"SELECT person_id FROM '{omop}/death/*.parquet' GROUP BY 1 HAVING count(*) > 1"
    ).fetchall()
    return {
        "deaths recorded twice": {str(p) for (p,) in deaths},
        "visits of several days that are no stays": {
            str(p) for p, stay, late, _ in rows if late and not stay
        },
        "stays without records on their first day": {
            str(p) for p, stay, _, begins in rows if begins and stay
        },
    }


def without_age(tokens: list[str]) -> list[str]:
    """A sequence less its second token."""
    return tokens[:1] + tokens[2:]
