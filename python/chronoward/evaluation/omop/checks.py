"""The checks: each a condition on a relation of the database; rows that meet it are violations.

Written from the facts of CDM 5.4's fields (chronoward.data.cdm) and the rules of clinical sense;
nothing here knows who wrote the data. A broken value is reported once, by the narrowest check: a
text in a date column is a fault of type, and the checks of dates pass it over.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from chronoward.data import cdm
from chronoward.evaluation.omop import eras

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chronoward.evaluation.omop.database import CdmDatabase

Severity = Literal["hard", "soft"]

MAX_AGE_YEARS = 120
FIRST_LOCAL_CONCEPT = 2_000_000_000  # OHDSI's convention: a site's own concepts
INT32_MAX = 2**31 - 1
INPATIENT_VISITS = (9201, 262, 8717, 8920, 32037, 581379, 581383)
COUNTS = {
    "drug_exposure": ("quantity", "days_supply", "refills"),
    "procedure_occurrence": ("quantity",),
    "device_exposure": ("quantity",),
    "condition_era": ("condition_occurrence_count",),
    "drug_era": ("drug_exposure_count", "gap_days"),
}
BIRTH = (
    "COALESCE(CAST(p.birth_datetime AS DATE), TRY_CAST(printf('%04d-%02d-%02d', p.year_of_birth, "
    "COALESCE(p.month_of_birth, 1), COALESCE(p.day_of_birth, 1)) AS DATE))"
)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question to the database: the rows of `relation` for which `condition` holds.

    Checks of one relation are answered by one query.
    """

    name: str
    severity: Severity
    table: str
    column: str
    relation: str
    """What stands behind FROM; `t.row` is the row's number in the table's file, null where the
    fault is that a row is missing."""
    condition: str


def _whole(sql: str) -> str:
    """A query, each row of which counts, as a relation."""
    return f"({sql}) t"


def _spans() -> Iterator[tuple[str, str, str | None]]:
    """(table, start date column, end date column) of everything that is dated."""
    for table, record in cdm.RECORDS.items():
        yield table, record.start, record.end
    yield "observation_period", "observation_period_start_date", "observation_period_end_date"
    yield "condition_era", "condition_era_start_date", "condition_era_end_date"
    yield "drug_era", "drug_era_start_date", "drug_era_end_date"


def _dated() -> Iterator[tuple[str, str]]:
    for table, start, end in _spans():
        yield table, start
        if end is not None:
            yield table, end


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The answer to one check."""

    name: str
    severity: Severity
    table: str
    column: str
    violations: int
    example_row: int | None
    """First violating row of the table's file, from 1; None where the fault has no row."""


def structure(db: CdmDatabase) -> Iterator[Finding]:
    """Whether tables and columns are those of CDM 5.4, in its order; needs no query."""

    def fault(name: str, severity: Severity, table: str, column: str, n: int) -> Finding:
        return Finding(
            name=name,
            severity=severity,
            table=table,
            column=column,
            violations=n,
            example_row=None,
        )

    for table in cdm.WRITTEN_TABLES:
        yield fault("table_missing", "hard", table, "", int(table not in db.columns))
    if db.has("person"):
        yield fault("no_persons", "hard", "person", "", int(db.rows["person"] == 0))
    for table, found in db.columns.items():
        expected = [f.column for f in cdm.fields(table)]
        for column in expected:
            yield fault("column_missing", "hard", table, column, int(column not in found))
        extra = sum(column not in expected for column in found)
        yield fault("column_unknown", "soft", table, "", extra)
        known = [column for column in found if column in expected]
        in_order = known == [column for column in expected if column in found]
        yield fault("column_order", "soft", table, "", int(not in_order))


def conformance(db: CdmDatabase) -> Iterator[Check]:
    """Required values are there and of their type; keys are unique and lead somewhere."""
    for table in db.columns:
        for f in cdm.fields(table):
            if db.has(table, f.column):
                yield from _field_checks(f)


def _field_checks(f: cdm.Field) -> Iterator[Check]:
    column = f.column

    def check(name: str, condition: str, severity: Severity = "hard") -> Check:
        return Check(
            name=name,
            severity=severity,
            table=f.table,
            column=column,
            relation=f"raw.{f.table} r JOIN cdm.{f.table} t USING (row)",
            condition=condition,
        )

    if f.required:
        yield check("required", f"r.{column} IS NULL")
    if not f.type.startswith("varchar"):
        yield check("type", f"r.{column} IS NOT NULL AND t.{column} IS NULL")
    if f.max_length is not None:
        yield check("length", f"length(r.{column}) > {f.max_length}")
    if f.type == "integer":
        is_key = f.primary_key or f.foreign_table not in ("", "concept")
        # Keys may be BIGINT by agreement; concept ids and counts may not.
        yield check("int32", f"abs(t.{column}) > {INT32_MAX}", "soft" if is_key else "hard")
    if f.primary_key:
        copies = (
            f"SELECT row, row_number() OVER (PARTITION BY {column} ORDER BY row) AS copy "
            f"FROM cdm.{f.table} WHERE {column} IS NOT NULL"
        )
        yield replace(check("primary_key", "copy > 1"), relation=_whole(copies))
    if f.foreign_table:
        yield from _foreign_checks(f)


def _foreign_checks(f: cdm.Field) -> Iterator[Check]:
    target, key = f"cdm.{f.foreign_table}", f.foreign_column
    found = f"c.{key} IS NOT NULL AND t.{f.column} <> 0"

    def check(name: str, condition: str, severity: Severity = "hard") -> Check:
        return Check(
            name=name,
            severity=severity,
            table=f.table,
            column=f.column,
            relation=f"cdm.{f.table} t LEFT JOIN {target} c ON c.{key} = t.{f.column}",
            condition=condition,
        )

    yield check("foreign_key", f"t.{f.column} IS NOT NULL AND c.{key} IS NULL")
    if f.foreign_table != "concept":
        return
    if f.domains:
        listed = ", ".join(f"'{domain}'" for domain in f.domains)
        yield check("fk_domain", f"{found} AND c.domain_id NOT IN ({listed})")
    if f.concept_class:
        yield check("fk_class", f"{found} AND c.concept_class_id <> '{f.concept_class}'")
    if "source" not in f.column and f.table in cdm.CLINICAL_TABLES:
        local = f"t.{f.column} >= {FIRST_LOCAL_CONCEPT}"
        nonstandard = "c.standard_concept IS DISTINCT FROM 'S'"
        yield check("standard_concept", f"{found} AND {nonstandard} AND NOT {local}")
        yield check("local_concept", f"{found} AND {local}", "soft")


def time_rules(db: CdmDatabase) -> Iterator[Check]:
    """Everything happens in a life, in an observation period, and in order."""
    for table, column in (*_dated(), ("death", "death_date")):
        if not db.has(table, column):
            continue

        def check(name: str, relation: str, condition: str) -> Check:
            return Check(
                name=name,
                severity="hard",
                table=table,  # noqa: B023 - used at once
                column=column,  # noqa: B023
                relation=relation,
                condition=condition,
            )

        lives = f"cdm.{table} t JOIN cdm.person p USING (person_id)"
        released = f"cdm.{table} t, (SELECT max(source_release_date) AS day FROM cdm.cdm_source)"
        yield check("before_birth", lives, f"t.{column} < {BIRTH}")
        yield check("age", lives, f"t.{column} >= {BIRTH} + INTERVAL {MAX_AGE_YEARS + 1} YEAR")
        yield check("future", released, f"t.{column} > day")
        if table not in ("death", "observation_period"):
            deaths = (
                f"cdm.{table} t JOIN (SELECT person_id, min(death_date) AS died FROM cdm.death "
                "GROUP BY person_id) USING (person_id)"
            )
            yield check("after_death", deaths, f"t.{column} > died")
        if table in cdm.RECORDS:
            outside = (
                f"SELECT row FROM cdm.{table} e WHERE e.{column} IS NOT NULL "
                "AND EXISTS (SELECT 1 FROM cdm.observation_period o "
                "WHERE o.person_id = e.person_id) "
                "AND NOT EXISTS (SELECT 1 FROM cdm.observation_period o "
                f"WHERE o.person_id = e.person_id AND e.{column} BETWEEN "
                "o.observation_period_start_date AND o.observation_period_end_date)"
            )
            yield check("outside_period", _whole(outside), "true")
    yield from _order_checks(db)


def _order_checks(db: CdmDatabase) -> Iterator[Check]:
    for table, start, end in _spans():
        pairs = [(start, end)] if end else []
        if end and start.replace("_date", "_datetime") in {f.column for f in cdm.fields(table)}:
            pairs.append((start.replace("_date", "_datetime"), end.replace("_date", "_datetime")))
        for first, last in pairs:
            yield Check(
                name="start_after_end",
                severity="hard",
                table=table,
                column=last,
                relation=f"cdm.{table} t",
                condition=f"t.{first} > t.{last}",
            )
    for table in ("death", *cdm.RECORDS):
        for f in cdm.fields(table):
            if f.type == "datetime" and db.has(table, f.column):
                date = f.column.replace("_datetime", "_date")
                yield Check(
                    name="datetime_mismatch",
                    severity="hard",
                    table=table,
                    column=f.column,
                    relation=f"cdm.{table} t",
                    condition=f"CAST(t.{f.column} AS DATE) <> t.{date}",
                )


def person_rules(_db: CdmDatabase) -> Iterator[Check]:
    """One life, one death, observation periods that cover it without overlap."""

    def check(name: str, table: str, column: str, relation: str, condition: str) -> Check:
        return Check(
            name=name,
            severity="hard",
            table=table,
            column=column,
            relation=relation,
            condition=condition,
        )

    unseen = (
        "SELECT row FROM cdm.person p WHERE NOT EXISTS "
        "(SELECT 1 FROM cdm.observation_period o WHERE o.person_id = p.person_id)"
    )
    yield check("no_period", "person", "person_id", _whole(unseen), "true")
    earlier = (
        "SELECT row, observation_period_start_date AS first_day, "
        "max(observation_period_end_date) OVER (PARTITION BY person_id "
        "ORDER BY observation_period_start_date, row "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS earlier_end "
        "FROM cdm.observation_period"
    )
    yield check(
        "period_overlap",
        "observation_period",
        "observation_period_start_date",
        _whole(earlier),
        "first_day <= earlier_end",
    )
    copies = (
        "SELECT row, row_number() OVER (PARTITION BY person_id ORDER BY row) AS copy FROM cdm.death"
    )
    yield check("death_rows", "death", "person_id", _whole(copies), "copy > 1")
    yield check(
        "birth_mismatch",
        "person",
        "birth_datetime",
        "cdm.person t",
        "year(birth_datetime) <> year_of_birth OR month(birth_datetime) <> month_of_birth "
        "OR day(birth_datetime) <> day_of_birth",
    )


def visit_rules(db: CdmDatabase) -> Iterator[Check]:
    """Visits contain their events, belong to the same person, and stays do not overlap."""
    for table, record in cdm.RECORDS.items():
        if not record.in_visit or not db.has(table, "visit_occurrence_id"):
            continue
        joined = f"cdm.{table} t JOIN cdm.visit_occurrence v USING (visit_occurrence_id)"
        yield Check(
            name="visit_person",
            severity="hard",
            table=table,
            column="visit_occurrence_id",
            relation=joined,
            condition="t.person_id <> v.person_id",
        )
        ends = [record.start]
        if table == "visit_detail":
            ends.append("visit_detail_end_date")
        for date in ends:
            time = date.replace("_date", "_datetime")
            yield Check(
                name="outside_visit",
                severity="hard",
                table=table,
                column=date,
                relation=joined,
                condition=f"t.person_id = v.person_id AND (t.{date} < v.visit_start_date "
                f"OR t.{date} > v.visit_end_date OR t.{time} < v.visit_start_datetime "
                f"OR t.{time} > v.visit_end_datetime)",
            )
    listed = ", ".join(str(concept) for concept in INPATIENT_VISITS)
    begin = "COALESCE(visit_start_datetime, visit_start_date)"
    finish = "COALESCE(visit_end_datetime, visit_end_date)"
    stays = (
        f"SELECT row, {begin} AS begun, max({finish}) OVER (PARTITION BY "
        f"person_id ORDER BY {begin}, {finish}, row "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS earlier FROM cdm.visit_occurrence "
        f"WHERE visit_concept_id IN ({listed})"
    )
    yield Check(
        name="stay_overlap",
        severity="hard",
        table="visit_occurrence",
        column="visit_start_date",
        relation=_whole(stays),
        condition="begun < earlier",
    )


def _facts(name: str) -> list[dict[str, str]]:
    text = (files(__package__) / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def plausibility(_db: CdmDatabase) -> Iterator[Check]:
    """Values a body can have, counts that are not negative, codes that fit the sex."""

    def check(name: str, table: str, column: str, relation: str, condition: str) -> Check:
        return Check(
            name=name,
            severity="soft" if name == "unmapped" else "hard",
            table=table,
            column=column,
            relation=relation,
            condition=condition,
        )

    facts = cdm.sex_specific_concepts()
    listed = {sex: ", ".join(str(c) for c, own in facts.items() if own == sex) for sex in "FM"}
    for table, record in cdm.RECORDS.items():
        code = f"t.{record.concept}"
        yield check(
            "sex_specific",
            table,
            record.concept,
            f"cdm.{table} t JOIN cdm.person p USING (person_id)",
            f"(p.gender_concept_id = 8507 AND {code} IN ({listed['F']})) "
            f"OR (p.gender_concept_id = 8532 AND {code} IN ({listed['M']}))",
        )
        yield check("unmapped", table, record.concept, f"cdm.{table} t", f"{code} = 0")
    for table, columns in COUNTS.items():
        for column in columns:
            yield check("negative_count", table, column, f"cdm.{table} t", f"t.{column} < 0")
    for table in ("measurement", "observation"):
        yield check(
            "not_finite",
            table,
            "value_as_number",
            f"cdm.{table} t",
            "NOT isfinite(t.value_as_number)",
        )
    yield _value_range()


def _value_range() -> Check:
    ranges = ", ".join(
        f"({row['concept_id']}, {row['unit_concept_id']}, {row['low']}, {row['high']})"
        for row in _facts("plausible_values.csv")
    )
    return Check(
        name="value_range",
        severity="soft",
        table="measurement",
        column="value_as_number",
        relation=f"cdm.measurement t JOIN (VALUES {ranges}) AS plausible(concept, unit, low, high) "
        "ON t.measurement_concept_id = concept AND t.unit_concept_id = unit",
        condition="isfinite(value_as_number) AND (value_as_number < low OR value_as_number > high)",
    )


def era_rules(db: CdmDatabase) -> Iterator[Check]:
    """The era tables are what OHDSI's 30-day rule makes of the exposures in the same database."""
    if db.has("condition_era"):
        written = (
            "SELECT row, person_id, condition_concept_id AS concept_id, "
            "condition_era_start_date AS start_date, condition_era_end_date AS end_date, "
            "condition_occurrence_count AS n FROM cdm.condition_era"
        )
        yield _era_check("condition_era", written, eras.CONDITION_ERAS, "")
    if db.has("drug_era"):
        ingredient = (
            "SELECT concept_id AS drug_concept_id, concept_id AS ingredient_id FROM cdm.concept "
            "WHERE concept_class_id = 'Ingredient' AND concept_id <> 0"
        )
        if db.rows.get("concept_ancestor"):
            ingredient += (
                " UNION SELECT descendant_concept_id, ancestor_concept_id "
                "FROM cdm.concept_ancestor JOIN cdm.concept ON concept_id = ancestor_concept_id "
                "WHERE concept_class_id = 'Ingredient' AND vocabulary_id = 'RxNorm'"
            )
        written = (
            "SELECT row, person_id, drug_concept_id AS concept_id, "
            "drug_era_start_date AS start_date, drug_era_end_date AS end_date, "
            "drug_exposure_count AS n, gap_days FROM cdm.drug_era"
        )
        rebuilt = eras.DRUG_ERAS.format(ingredient=ingredient)
        yield _era_check("drug_era", written, rebuilt, " AND w.gap_days = r.gap_days")


def _era_check(table: str, written: str, rebuilt: str, also: str) -> Check:
    differing = (
        f"SELECT w.row FROM ({written}) w FULL JOIN ({rebuilt}) r ON w.person_id = r.person_id "
        "AND w.concept_id = r.concept_id AND w.start_date = r.start_date "
        f"AND w.end_date = r.end_date AND w.n = r.n{also} "
        "WHERE w.person_id IS NULL OR r.person_id IS NULL"
    )
    return Check(
        name="era",
        severity="hard",
        table=table,
        column="",
        relation=_whole(differing),
        condition="true",
    )


def all_checks(db: CdmDatabase) -> Iterator[Check]:
    """Every check by query that applies to this database."""
    for group in (conformance, time_rules, person_rules, visit_rules, plausibility, era_rules):
        yield from group(db)
