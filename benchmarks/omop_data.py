"""D4: OMOP CSV to a token store, against DuckDB's scan of the same files in the same run.

The data are made up: a table `measurement` as wide as the CDM has it, or of six columns, 5,000
concepts with Zipf frequencies, subjects of about 500 records, a number in 30 % of them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from benchmarks.data import EVENTS_A_SUBJECT, N_CODES, VALUE_SHARE
from benchmarks.process import chronoward
from benchmarks.record import Measurement, Stopwatch

from chronoward.store import TokenStore
from chronoward.tokenize import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIX = """measurement_id, person_id, measurement_concept_id, measurement_date, value_as_number,
    unit_concept_id"""
# Columns of CDM 5.4 that are nearly always there; Zipf by the inverse of its continuous form.
_ROWS = f"""SELECT i AS measurement_id, i // {EVENTS_A_SUBJECT} + 1 AS person_id,
    3000000 + least({N_CODES} - 1, floor(pow({N_CODES}, u))::BIGINT) AS measurement_concept_id,
    DATE '2010-01-01' + (i % {EVENTS_A_SUBJECT} * 3)::INTEGER AS measurement_date,
    measurement_date + INTERVAL (i * 7919 % 1440) MINUTE AS measurement_datetime,
    NULL AS measurement_time, 32856 AS measurement_type_concept_id, NULL AS operator_concept_id,
    CASE WHEN v < {VALUE_SHARE} THEN round(exp(v / {VALUE_SHARE} * 5), 2) END AS value_as_number,
    NULL AS value_as_concept_id, 8840 AS unit_concept_id, NULL AS range_low, NULL AS range_high,
    NULL AS provider_id, NULL AS visit_occurrence_id, NULL AS visit_detail_id,
    measurement_concept_id::VARCHAR AS measurement_source_value,
    0 AS measurement_source_concept_id, 'mg/dL' AS unit_source_value, 0 AS unit_source_concept_id,
    value_as_number::VARCHAR AS value_source_value, NULL AS measurement_event_id,
    NULL AS meas_event_field_concept_id
    FROM (SELECT i, hash(i) % 1000003 / 1000003 AS u, hash(-i) % 1000003 / 1000003 AS v
          FROM range({{n}}) t(i))"""


def _write_omop(folder: Path, n_rows: int, columns: str) -> Path:
    """Writes `person` and `measurement`; the file of the latter."""
    folder.mkdir()
    n_persons = -(-n_rows // EVENTS_A_SUBJECT)
    with duckdb.connect() as connection:
        connection.execute(
            f"""COPY (SELECT i + 1 AS person_id, 8507 + i % 2 * 25 AS gender_concept_id,
            1940 + i % 60 AS year_of_birth, 0 AS race_concept_id, 0 AS ethnicity_concept_id
            FROM range({n_persons}) t(i)) TO '{folder / "person.csv"}' (HEADER)"""
        )
        file = folder / "measurement.csv"
        connection.execute(
            f"COPY (SELECT {columns} FROM ({_ROWS.format(n=n_rows)})) TO '{file}' (HEADER)"
        )
    return file


def _check(store: Path, n_rows: int) -> None:
    """The store makes sense, and no record is missing from its report."""
    verify(store)
    report = (store / "ingest_report.json").read_text()
    said = int(
        report.split('"measurement": {')[1].split('"records": ')[1].split("}")[0].split(",")[0]
    )
    if said != n_rows or not TokenStore.open(store).manifest["splits"]["train"]["n_subjects"]:
        message = f"{n_rows} records, but the report says {said}"
        raise AssertionError(message)


def measure_omop(quick: bool) -> Iterator[Measurement]:
    """The lines of D4: six columns, then full width."""
    n_rows = 100_000 if quick else 20_000_000
    for metric, columns in (("six_columns", _SIX), ("full_width", "*")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            file = _write_omop(folder / "omop", n_rows, columns)
            with duckdb.connect(config={"threads": 2}) as connection, Stopwatch() as scan:
                connection.execute(f"SELECT sum(hash(COLUMNS(*))) FROM '{file}'").fetchall()
            used = chronoward(
                "tokenize", folder / "omop", "--out", folder / "tokens", "--threads", "2"
            )
            _check(folder / "tokens", n_rows)
            n_bytes = file.stat().st_size
        yield Measurement(
            id="D4",
            metric=metric,
            value=n_rows / used.wall,
            unit="rows/s",
            against="DuckDB's scan of the same file, all columns",
            baseline=round(n_rows / scan.wall),
            ratio=round(scan.wall / used.wall, 3),
            seconds=used.wall + scan.wall,
            extra={
                "n_rows": n_rows,
                "bytes_a_row": round(n_bytes / n_rows, 1),
                "cpu_seconds": round(used.cpu, 2),
                "scan_cpu_seconds": round(scan.cpu, 2),
                "threads": min(2, os.cpu_count() or 1),
            },
        )


MEASURES = {"D4": measure_omop}
