"""A unit of generated subjects as rows of OMOP CDM 5.4: what is not in a token is imputed by rule.

- person: birth is the clock's origin, month and day as the tokenizer drew them from the start of
  the timeline; where the age is unknown, the year of the first event without month and day.
  `person_source_value` is `synthetic-<person_id>`; ethnicity is not in a token: 0.
- observation_period: from the timeline's start to the drawn end of observation, or to the death.
- visits: start and end as generated. Visits without a known type (`Visit/0`) exist only to hold
  events outside visits: they are not written, and their events carry no visit.
- Ends at midnight were put to 23:59:59 before (chronoward.synthesize.times).
- condition_occurrence: a condition in the final moment of a stay (an inpatient visit, or one of at
  least 24 hours) is a billing diagnosis: dated at the stay's start, type 32821. All others are
  dated when they were known, type 32817. condition_end_date: the visit's end, else the start.
- drug_exposure: the type is the token's category (administration 32818, dispense 32825, order
  32838), 32817 without one. An administration, and in a stay a drug without category, lasts one
  day; all others 30 days, cut at the end of observation and at death. days_supply = end - start
  + 1. A `stop` is the end of an exposure that the tokens do not name: not written.
- procedures and devices have no end; quantities, providers and sites are null.
- measurement and observation: value, unit and category as generated; POS and NEG also as concepts.
- A code without a concept (all of a MEDS source) keeps its text in `*_source_value`, 50 characters
  of it, with concept 0, and is read back as `Source/<text>`.
- A value of a code that goes to another table has no column there and is left out.
- condition_era and drug_era: OHDSI's 30-day rule (chronoward.synthesize.eras).

Nothing lies before birth, after death or outside the observation period, and visits contain their
events, because the generated clock is monotone and the imputed ends are cut; no row is filtered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import numpy as np

from chronoward.data import cdm
from chronoward.errors import LimitError
from chronoward.schema import Role
from chronoward.synthesize import concepts as c
from chronoward.synthesize.eras import CONDITION_ERA, DRUG_ERA

if TYPE_CHECKING:
    import pyarrow as pa

STAY_HOURS = 24
PRESCRIPTION_DAYS = 30
# What the source of a synthetic database says about itself, by column of cdm_source.
SOURCE_NAME = "synthetic"

_VISITS = f"""
CREATE TABLE visit AS
SELECT *, row_number() OVER (ORDER BY person_id, start, visit_id) + $base AS key,
  is_inpatient OR finish - start >= INTERVAL {STAY_HOURS} HOUR AS is_stay
FROM (
  SELECT e.subject_id AS person_id, e.visit_id, e.time AS start,
    COALESCE(e.end_time, e.time) AS finish, m.standard_id, m.source_id, m.source_value, m.domain,
    COALESCE(m.is_inpatient, false) AS is_inpatient
  FROM event e LEFT JOIN code_map m ON e."table" = m."table" AND e.code = m.code
  WHERE e.role = {int(Role.VISIT)} AND e.code <> 'Visit/0'
)
"""

_LIVES = f"""
CREATE TABLE life AS
SELECT o.subject_id AS person_id, o.start_time AS first_time, o.end_time AS last_time,
  d.time AS death
FROM observed o
LEFT JOIN (SELECT subject_id, min(time) AS time FROM event WHERE role = {int(Role.DEATH)}
  GROUP BY subject_id) d ON d.subject_id = o.subject_id
"""

_RECORDS = f"""
CREATE TABLE record AS
SELECT e.n, e.subject_id AS person_id, m.target, m.standard_id, m.source_id, m.source_value,
  CAST(CAST(e.numeric_value AS VARCHAR) AS DOUBLE) AS number, e.text_value AS category, e.unit,
  v.key AS visit, v.start AS visit_start, v.finish AS visit_finish,
  COALESCE(v.is_stay, false) AS is_stay,
  COALESCE(v.is_stay AND v.finish > v.start AND e.time = v.finish, false) AS is_final,
  e.time AS happened,
  CAST(LEAST(l.last_time, COALESCE(l.death, l.last_time)) AS DATE) AS last_day
FROM event e
JOIN life l ON l.person_id = e.subject_id
LEFT JOIN code_map m ON e."table" = m."table" AND e.code = m.code
LEFT JOIN visit v ON v.person_id = e.subject_id AND v.visit_id = e.visit_id
WHERE e.role = {int(Role.CODE)}
"""


def _fact(role: Role) -> str:
    """SQL: the first static fact of a role, per subject."""
    return (
        f'(SELECT subject_id, arg_min(code, n) AS code, arg_min("table", n) AS tbl, '
        f"min(time) AS time FROM event WHERE role = {int(role)} GROUP BY subject_id)"
    )


_PERSON = f"""
SELECT l.person_id,
  CASE s.code WHEN 'Gender/F' THEN {c.FEMALE} WHEN 'Gender/M' THEN {c.MALE} ELSE 0 END
    AS gender_concept_id,
  year(COALESCE(b.time, l.first_time)) AS year_of_birth, month(b.time) AS month_of_birth,
  day(b.time) AS day_of_birth,
  b.time AS birth_datetime,
  CASE WHEN m.domain = 'Race' THEN m.standard_id ELSE 0 END AS race_concept_id,
  0 AS ethnicity_concept_id,
  '{SOURCE_NAME}-' || l.person_id AS person_source_value,
  left(regexp_replace(s.code, '^[^/]*/', ''), 50) AS gender_source_value,
  left(regexp_replace(r.code, '^[^/]*/', ''), 50) AS race_source_value
FROM life l
LEFT JOIN {_fact(Role.BIRTH)} b ON b.subject_id = l.person_id
LEFT JOIN {_fact(Role.SEX)} s ON s.subject_id = l.person_id
LEFT JOIN {_fact(Role.RACE)} r ON r.subject_id = l.person_id
LEFT JOIN code_map m ON m."table" = r.tbl AND m.code = r.code
ORDER BY l.person_id
"""

_OBSERVATION_PERIOD = f"""
SELECT person_id, CAST(first_time AS DATE) AS observation_period_start_date,
  CAST(LEAST(last_time, COALESCE(death, last_time)) AS DATE) AS observation_period_end_date,
  {c.TYPE_PERIOD} AS period_type_concept_id
FROM life ORDER BY person_id
"""

_DEATH = f"""
SELECT person_id, CAST(death AS DATE) AS death_date, death AS death_datetime,
  {c.TYPE_EHR} AS death_type_concept_id
FROM life WHERE death IS NOT NULL ORDER BY person_id
"""

_VISIT_OCCURRENCE = f"""
SELECT v.key AS visit_occurrence_id, v.person_id,
  CASE WHEN v.domain = 'Visit' THEN v.standard_id ELSE 0 END AS visit_concept_id,
  CAST(v.start AS DATE) AS visit_start_date, v.start AS visit_start_datetime,
  CAST(v.finish AS DATE) AS visit_end_date, v.finish AS visit_end_datetime,
  {c.TYPE_ENCOUNTER} AS visit_type_concept_id, v.source_value AS visit_source_value,
  v.source_id AS visit_source_concept_id,
  CASE WHEN d.domain = 'Visit' THEN d.standard_id WHEN d.n IS NOT NULL THEN 0 END
    AS discharged_to_concept_id,
  d.source_value AS discharged_to_source_value,
  lag(v.key) OVER (PARTITION BY v.person_id ORDER BY v.key) AS preceding_visit_occurrence_id
FROM visit v
LEFT JOIN (SELECT e.subject_id, e.visit_id, min(e.n) AS n, arg_min(m.standard_id, e.n)
    AS standard_id, arg_min(m.domain, e.n) AS domain, arg_min(m.source_value, e.n) AS source_value
  FROM event e LEFT JOIN code_map m ON e."table" = m."table" AND e.code = m.code
  WHERE e.role = {int(Role.DISCHARGE)} GROUP BY e.subject_id, e.visit_id) d
  ON d.subject_id = v.person_id AND d.visit_id = v.visit_id
ORDER BY v.key
"""

_VISIT_DETAIL = f"""
SELECT v.person_id, CASE WHEN m.domain = 'Visit' THEN m.standard_id ELSE 0 END
    AS visit_detail_concept_id,
  CAST(e.time AS DATE) AS visit_detail_start_date, e.time AS visit_detail_start_datetime,
  CAST(LEAST(COALESCE(e.end_time, v.finish), v.finish) AS DATE)
    AS visit_detail_end_date,
  LEAST(COALESCE(e.end_time, v.finish), v.finish) AS visit_detail_end_datetime,
  {c.TYPE_ENCOUNTER} AS visit_detail_type_concept_id, m.source_value AS visit_detail_source_value,
  m.source_id AS visit_detail_source_concept_id, v.key AS visit_occurrence_id
FROM event e
JOIN visit v ON v.person_id = e.subject_id AND v.visit_id = e.visit_id
LEFT JOIN code_map m ON e."table" = m."table" AND e.code = m.code
WHERE e.role = {int(Role.DETAIL)} ORDER BY e.n
"""

_CONDITION_OCCURRENCE = f"""
SELECT person_id, standard_id AS condition_concept_id,
  CAST(dated AS DATE) AS condition_start_date, dated AS condition_start_datetime,
  CAST(COALESCE(visit_finish, dated) AS DATE) AS condition_end_date,
  CASE WHEN is_final THEN {c.TYPE_BILLING} ELSE {c.TYPE_EHR} END AS condition_type_concept_id,
  visit AS visit_occurrence_id, source_value AS condition_source_value,
  source_id AS condition_source_concept_id
FROM (SELECT *, CASE WHEN is_final THEN visit_start ELSE happened END AS dated FROM record)
WHERE target = 'condition_occurrence' ORDER BY n
"""

_DRUG_EXPOSURE = f"""
SELECT *, date_diff('day', drug_exposure_start_date, drug_exposure_end_date) + 1 AS days_supply
FROM (
  SELECT n, person_id, standard_id AS drug_concept_id,
    CAST(happened AS DATE) AS drug_exposure_start_date,
    happened AS drug_exposure_start_datetime,
    CASE WHEN COALESCE(category = 'administration', false) OR (category IS NULL AND is_stay)
      THEN CAST(happened AS DATE)
      ELSE LEAST(CAST(happened AS DATE) + {PRESCRIPTION_DAYS - 1}, last_day) END
      AS drug_exposure_end_date,
    CASE category WHEN 'administration' THEN {c.TYPE_ADMINISTRATION}
      WHEN 'dispense' THEN {c.TYPE_DISPENSING} WHEN 'order' THEN {c.TYPE_PRESCRIPTION}
      ELSE {c.TYPE_EHR} END AS drug_type_concept_id,
    visit AS visit_occurrence_id, source_value AS drug_source_value,
    source_id AS drug_source_concept_id
  FROM record WHERE target = 'drug_exposure' AND category IS DISTINCT FROM 'stop'
) ORDER BY n
"""

_PROCEDURE_OCCURRENCE = f"""
SELECT person_id, standard_id AS procedure_concept_id, CAST(happened AS DATE) AS procedure_date,
  happened AS procedure_datetime, {c.TYPE_EHR} AS procedure_type_concept_id,
  visit AS visit_occurrence_id, source_value AS procedure_source_value,
  source_id AS procedure_source_concept_id
FROM record WHERE target = 'procedure_occurrence' ORDER BY n
"""

_DEVICE_EXPOSURE = f"""
SELECT person_id, standard_id AS device_concept_id,
  CAST(happened AS DATE) AS device_exposure_start_date,
  happened AS device_exposure_start_datetime, {c.TYPE_EHR} AS device_type_concept_id,
  visit AS visit_occurrence_id, source_value AS device_source_value,
  source_id AS device_source_concept_id
FROM record WHERE target = 'device_exposure' ORDER BY n
"""

_VALUES = f"""
  number AS value_as_number,
  CASE category WHEN 'POS' THEN {c.POSITIVE} WHEN 'NEG' THEN {c.NEGATIVE} END
    AS value_as_concept_id,
  CASE WHEN r.unit IS NOT NULL THEN COALESCE(u.concept_id, 0) END AS unit_concept_id,
  left(r.unit, 50) AS unit_source_value, left(category, 50) AS value_source_value,
  visit AS visit_occurrence_id
"""

_MEASUREMENT = f"""
SELECT person_id, standard_id AS measurement_concept_id, CAST(happened AS DATE) AS measurement_date,
  happened AS measurement_datetime, {c.TYPE_EHR} AS measurement_type_concept_id, {_VALUES},
  source_value AS measurement_source_value, source_id AS measurement_source_concept_id
FROM record r LEFT JOIN unit_map u ON u.unit = r.unit
WHERE target = 'measurement' ORDER BY n
"""

_OBSERVATION = f"""
SELECT person_id, standard_id AS observation_concept_id, CAST(happened AS DATE) AS observation_date,
  happened AS observation_datetime, {c.TYPE_EHR} AS observation_type_concept_id, {_VALUES},
  left(category, 60) AS value_as_string,
  source_value AS observation_source_value, source_id AS observation_source_concept_id
FROM record r LEFT JOIN unit_map u ON u.unit = r.unit
WHERE target = 'observation' ORDER BY n
"""

_QUERIES = {
    "person": _PERSON,
    "observation_period": _OBSERVATION_PERIOD,
    "visit_occurrence": _VISIT_OCCURRENCE,
    "visit_detail": _VISIT_DETAIL,
    "condition_occurrence": _CONDITION_OCCURRENCE,
    "drug_exposure": _DRUG_EXPOSURE,
    "procedure_occurrence": _PROCEDURE_OCCURRENCE,
    "device_exposure": _DEVICE_EXPOSURE,
    "measurement": _MEASUREMENT,
    "observation": _OBSERVATION,
    "death": _DEATH,
    "condition_era": CONDITION_ERA,
    "drug_era": DRUG_ERA,
}


_READ_AGAIN = ("condition_occurrence", "drug_exposure")  # by the eras


def _cdm_query(
    connection: duckdb.DuckDBPyConnection, table: str, *, base: int, key_type: str
) -> str:
    """SQL of one CDM table with all its columns, types and keys."""
    query = _QUERIES[table]
    given = set(connection.sql(query).columns)
    columns = []
    for f in cdm.fields(table):
        sql_type = f.sql_type(key_type)
        value = f.column if f.column in given else "NULL"
        if f.primary_key and f.column not in given:
            value = f"row_number() OVER () + {base}"
        columns.append(f"CAST({value} AS {sql_type}) AS {f.column}")
    return f"SELECT {', '.join(columns)} FROM ({query})"


def omop_tables(
    events: pa.Table,
    observation: pa.Table,
    codes: c.CodeMap,
    *,
    base: int = 0,
    stride: int = 2**31 - 1,
    key_type: str = "INTEGER",
) -> dict[str, pa.Table]:
    """The clinical tables of a unit of generated subjects.

    Args:
        events: event_schema, in canonical order; `subject_id` becomes `person_id`.
        observation: observation_schema, one row a subject.
        codes: where each code goes.
        base: keys of this unit are base + 1, base + 2, … in each table.
        stride: most rows a table may have.
        key_type: INTEGER or BIGINT.

    Returns:
        Table name to Arrow table, all columns of CDM 5.4 in order; the same input gives the same
        rows in the same order.

    Raises:
        LimitError: a table has more rows than `stride`.
    """
    import pyarrow as pa

    numbered = events.append_column("n", pa.array(np.arange(events.num_rows)))
    with duckdb.connect() as connection:
        connection.execute("SET threads=1")
        for name, table in (
            ("event", numbered),
            ("observed", observation),
            ("code_map", codes.codes),
            ("unit_map", codes.units),
        ):
            connection.register(f"{name}_arrow", table)
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM {name}_arrow")
        connection.execute(_VISITS.replace("$base", str(base)))
        connection.execute(_LIVES)
        connection.execute(_RECORDS)
        written = {}
        for table in cdm.CLINICAL_TABLES:
            query = _cdm_query(connection, table, base=base, key_type=key_type)
            if table in _READ_AGAIN:
                connection.execute(f"CREATE TABLE {table} AS {query}")
                query = f"FROM {table}"
            written[table] = connection.sql(query).to_arrow_table()
    for table, rows in written.items():
        if rows.num_rows > stride:
            message = (
                f"table {table} of one unit has {rows.num_rows:,} rows, more than the {stride:,} "
                "keys of a unit; use keys='bigint'"
            )
            raise LimitError(message)
    return written
