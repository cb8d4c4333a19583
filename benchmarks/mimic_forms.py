"""The two forms of the MIMIC-IV demo, record by record: what one has that the other has not.

Both come from the same 100 people, whose ids in the source connect them. Records are matched by the
hospital's own item numbers, codes and times; the docs say why the rest differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

if TYPE_CHECKING:
    from pathlib import Path

# subject of the MEDS form for every person of the OMOP form
_WHO = "JOIN who USING (person_id)"
_ICD = "trim(condition_source_value)"
_STAY = """m.subject_id = v.sid AND m.time BETWEEN v.visit_start_datetime::TIMESTAMP
  AND v.visit_end_datetime::TIMESTAMP"""

# what is compared: MEDS records, OMOP records, and those of the MEDS form that the OMOP form has
THEMES: dict[str, tuple[str, str, str]] = {
    "people": (
        "SELECT DISTINCT subject_id FROM meds",
        "FROM person",
        "SELECT DISTINCT subject_id FROM meds SEMI JOIN who ON subject_id = sid",
    ),
    "births (year)": (
        "FROM meds WHERE kind = 'MEDS_BIRTH'",
        "FROM person",
        """FROM meds m JOIN who ON subject_id = sid JOIN person USING (person_id)
        WHERE kind = 'MEDS_BIRTH' AND year(m.time) = year_of_birth::INT""",
    ),
    "deaths (day)": (
        "FROM meds WHERE kind = 'MEDS_DEATH'",
        "FROM death",
        f"""FROM meds m JOIN (FROM death {_WHO}) d ON m.subject_id = d.sid
        WHERE kind = 'MEDS_DEATH' AND m.time::DATE = d.death_date::DATE""",
    ),
    "admissions (inside a visit)": (
        "FROM meds WHERE kind = 'HOSPITAL_ADMISSION'",
        "FROM visit WHERE visit_concept_id <> 38004207",
        f"""FROM meds m WHERE kind = 'HOSPITAL_ADMISSION'
        AND EXISTS (FROM visit v WHERE {_STAY})""",
    ),
    "emergency registrations (inside a visit)": (
        "FROM meds WHERE kind = 'ED_REGISTRATION'",
        "FROM visit WHERE visit_concept_id IN (8870, 581385, 262)",
        f"FROM meds m WHERE kind = 'ED_REGISTRATION' AND EXISTS (FROM visit v WHERE {_STAY})",
    ),
    "billed diagnoses (person, ICD code)": (
        "SELECT DISTINCT subject_id, icd FROM meds WHERE kind = 'DIAGNOSIS'",
        f"""SELECT DISTINCT sid, {_ICD} FROM condition_occurrence {_WHO}
        WHERE condition_type_concept_id = 32821""",
        f"""FROM (SELECT DISTINCT subject_id, icd FROM meds WHERE kind = 'DIAGNOSIS') m SEMI JOIN
        (SELECT sid, {_ICD} AS icd FROM condition_occurrence {_WHO}) o
        ON m.subject_id = o.sid AND m.icd = o.icd""",
    ),
    "billed procedures (person, ICD code)": (
        "SELECT DISTINCT subject_id, icd FROM meds WHERE kind = 'PROCEDURE' AND item = 'ICD'",
        f"""SELECT DISTINCT sid, procedure_source_value FROM procedure_occurrence {_WHO}
        WHERE procedure_type_concept_id = 32821""",
        f"""FROM (SELECT DISTINCT subject_id, icd FROM meds
          WHERE kind = 'PROCEDURE' AND item = 'ICD') m SEMI JOIN
        (SELECT sid, trim(procedure_source_value) AS icd FROM procedure_occurrence {_WHO}) o
        ON m.subject_id = o.sid AND m.icd = o.icd""",
    ),
    "labs and charted items (person, item, time)": (
        "FROM meds WHERE kind = 'LAB'",
        "FROM measurement",
        f"""FROM (FROM meds WHERE kind = 'LAB') m SEMI JOIN (
          SELECT sid, measurement_source_value AS item, measurement_datetime::TIMESTAMP AS time
          FROM measurement {_WHO}) o
        ON m.subject_id = o.sid AND m.item = o.item AND m.time = o.time""",
    ),
    "charted findings (person, text)": (
        "FROM meds WHERE kind = 'LAB' AND text_value IS NOT NULL",
        "FROM condition_occurrence WHERE condition_type_concept_id = 32817",
        f"""FROM (FROM meds WHERE kind = 'LAB' AND text_value IS NOT NULL) m SEMI JOIN
        (SELECT sid, condition_source_value AS text_value FROM condition_occurrence {_WHO}
          WHERE condition_type_concept_id = 32817) o
        ON m.subject_id = o.sid AND m.text_value = o.text_value""",
    ),
    "drugs": (
        "FROM meds WHERE kind IN ('MEDICATION', 'INFUSION_START', 'INFUSION_END')",
        "FROM drug_exposure",
        "FROM meds WHERE false",
    ),
}


def _open(meds: Path, omop: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for file in sorted(omop.iterdir()):
        if file.suffix in (".csv", ".parquet"):
            read = "read_csv" if file.suffix == ".csv" else "read_parquet"
            options = ", all_varchar = true" if file.suffix == ".csv" else ""
            connection.execute(f"CREATE VIEW {file.stem} AS FROM {read}('{file}'{options})")
    connection.execute(
        f"""CREATE TABLE meds AS SELECT *, split_part(code, '//', 1) AS kind,
          split_part(code, '//', 2) AS item, replace(split_part(code, '//', 4), '.', '') AS icd
        FROM read_parquet('{meds}/data/**/*.parquet')"""
    )
    connection.execute(
        "CREATE TABLE who AS SELECT person_id, person_source_value::BIGINT AS sid FROM person"
    )
    connection.execute(f"CREATE TABLE visit AS FROM visit_occurrence {_WHO}")
    return connection


def compare_forms(meds: Path, omop: Path) -> list[tuple[str, int, int, int]]:
    """(theme, records of the MEDS form, of the OMOP form, of the MEDS form found in the other)."""
    connection = _open(meds, omop)

    def n(query: str) -> int:
        return int(connection.execute(f"SELECT count(*) FROM ({query})").fetchall()[0][0])

    return [(theme, *(n(query) for query in queries)) for theme, queries in THEMES.items()]
