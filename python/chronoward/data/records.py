"""Clinical records from `stage` to `record`: which stay, at what time, with what value.

One pass over the stage decides the removing rules in their order and parses values; what needs
other records (duplicates, several targets of one source code, midnight as "no time") is found first
and kept in small tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.data.omop_subjects import subject_gone
from chronoward.data.omop_tables import STAGE_COLUMNS, in_calendar
from chronoward.data.rules import Rule
from chronoward.data.visits import is_midnight
from chronoward.data.workspace import changed_if, number_list, removed, text_list

if TYPE_CHECKING:
    from chronoward.data.config import IngestConfig
    from chronoward.data.workspace import Workspace

NOT_DONE = (
    "NOT DONE", "NOT_DONE", "NOT PERFORMED", "TEST NOT DONE", "TEST NOT PERFORMED", "REFUSED",
    "PATIENT REFUSED", "CANCELLED", "CANCELED", "TEST CANCELLED", "HEMOLYZED", "HAEMOLYSED",
    "HEMOLYSED", "HAEMOLYZED", "GROSSLY HEMOLYZED", "CLOTTED", "SPECIMEN CLOTTED", "QNS",
    "QUANTITY NOT SUFFICIENT", "UNABLE TO REPORT", "UNABLE TO ASSESS", "NOT ASSESSED",
)  # fmt: skip
POSITIVE = ("POS", "POSITIVE", "POS.", "REACTIVE", "DETECTED")
NEGATIVE = ("NEG", "NEGATIVE", "NEG.", "NONREACTIVE", "NON-REACTIVE", "NOT DETECTED")
POSITIVE_CONCEPTS = (9191, 45884084, 4126681, 45877985)
NEGATIVE_CONCEPTS = (9189, 45878583, 4126673, 45880296)
BOUND_OPERATORS = (4171756, 4171754, 4172704, 4171755)
"""Operator concepts <, <=, >, >=."""
TEXT_LENGTH = 64
_FLOAT32_MAX = 3.4e38
_NUMBER = r"'^[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]{1,2})?$'"
_BOUND = r"'^(<=|>=|<|>|≤|≥) *([-+]?[0-9]+(\.[0-9]*)?)$'"


def make_stage(work: Workspace) -> None:
    """Creates the empty `stage`."""
    work.run(f"CREATE TABLE stage ({STAGE_COLUMNS})")


def find_midnight_types(work: Workspace, config: IngestConfig) -> None:
    """Makes `midnight_type`: (tbl, type) whose datetimes at 00:00:00 mean "date only"."""
    work.run(
        f"""CREATE TABLE midnight_type AS SELECT tbl, type, true AS found FROM stage
        WHERE moment IS NOT NULL GROUP BY tbl, type
        HAVING avg({is_midnight("moment")}::INTEGER) >= {config.midnight_share}"""
    )


def find_duplicates(work: Workspace) -> None:
    """Makes `duplicate` (rid): copies of a record with a smaller key."""
    columns = ", ".join(
        line.split()[0]
        for line in STAGE_COLUMNS.replace("\n", " ").split(",")
        if line.split()[0] != "key"
    )
    work.run(
        f"""CREATE TABLE duplicate AS WITH hashed AS (
          SELECT rowid AS rid, hash({columns}) AS h FROM stage),
        several AS (SELECT h FROM hashed GROUP BY h HAVING count(*) > 1)
        SELECT rid FROM (SELECT s.rowid AS rid, row_number() OVER (
            PARTITION BY {columns} ORDER BY TRY_CAST(key AS HUGEINT) NULLS LAST, key) AS copy
          FROM stage s WHERE s.rowid IN (
            SELECT rid FROM hashed JOIN several USING (h))) WHERE copy > 1"""
    )


def find_multiple_targets(work: Workspace) -> None:
    """Makes `further_target` (rid): one source code, another standard concept, the same record."""
    same = """tbl, subject_id, moment, day, visit_ref, type, source_value, source_concept, number,
        text, value_concept"""
    work.run(
        f"""CREATE TABLE further_target AS WITH coded AS (
          SELECT rowid AS rid, *, hash({same}) AS h FROM stage WHERE concept > 0
            AND (source_concept > 0 OR source_value IS NOT NULL)
            AND rowid NOT IN (SELECT rid FROM duplicate)),
        several AS (SELECT h FROM coded GROUP BY h HAVING min(concept) < max(concept))
        SELECT rid FROM (SELECT rid, concept, min(concept) OVER (PARTITION BY {same}) AS smallest
          FROM coded WHERE h IN (SELECT h FROM several)) WHERE concept > smallest"""
    )


def make_records(work: Workspace, config: IngestConfig, future: str, excluded: bool) -> None:
    """Makes `record` from `stage`; a record that is removed keeps its row, with `gone` > 0.

    Args:
        work: the database.
        config: the dials.
        future: SQL condition on `s.start` that says the record lies after the extract date.
        excluded: whether a table `excluded` is there.
    """
    work.run(
        f"""CREATE TABLE record AS WITH timed AS (
          SELECT s.rowid AS rid, s.*, COALESCE(s.moment, s.day) AS start,
            s.moment IS NULL OR ({is_midnight("s.moment")} AND m.found IS NOT NULL) AS date_only,
            COALESCE(s.end_at, s.end_day) AS end_raw,
            d.rid IS NOT NULL AS is_copy, f.rid IS NOT NULL AS is_further
          FROM stage s LEFT JOIN duplicate d ON s.rowid = d.rid
          LEFT JOIN further_target f ON s.rowid = f.rid
          LEFT JOIN midnight_type m ON s.tbl = m.tbl AND s.type IS NOT DISTINCT FROM m.type),
        judged AS (SELECT s.*, p.birth, p.death, {_gone(config, future, excluded)} AS gone
          FROM timed s LEFT JOIN subject p ON s.subject_id = p.subject_id),
        valued AS (SELECT *, {value_kind()} AS kind, {end_kind(config)} AS end_kind FROM judged)
        SELECT rid, tbl, key, subject_id, concept, source_concept, source_value,
          CASE WHEN date_only THEN date_trunc('day', start) ELSE start END AS time, date_only,
          CASE WHEN end_kind = 0 THEN end_raw END AS end_time, type, status, visit_ref, death, unit,
          unit_text, {number()} AS number, {text()} AS text,
          CASE WHEN kind = 0 AND value_concept > 0 THEN value_concept END AS value_concept,
          gone, CASE WHEN gone <> 0 THEN 0::UBIGINT ELSE {changes()} END AS changes FROM valued"""
    )
    work.drop("stage", "duplicate", "further_target", "midnight_type")


def _gone(config: IngestConfig, future: str, excluded: bool) -> str:
    keep_days = config.prenatal_days if config.prenatal_policy == "keep" else 0
    unmapped = (
        f"WHEN COALESCE(s.concept, 0) = 0 THEN {removed(Rule.UNMAPPED_DROPPED)}"
        if config.concept_policy == "standard"
        else ""
    )
    targets = (
        f"WHEN s.is_further THEN {removed(Rule.MULTIPLE_TARGETS_MERGED)}"
        if config.concept_policy == "source"
        else ""
    )
    return f"""(CASE {subject_gone(excluded)}
      WHEN s.is_copy THEN {removed(Rule.EXACT_DUPLICATE)}
      WHEN s.start_bad OR NOT {in_calendar("s.start")} THEN {removed(Rule.UNPARSABLE_TIME)}
      WHEN s.start IS NULL THEN {removed(Rule.MISSING_TIME)}
      WHEN year(s.start) IN {number_list(config.sentinel_years)} THEN {removed(Rule.SENTINEL_TIME)}
      WHEN date_trunc('day', s.start) < date_trunc('day', p.birth) - to_days({keep_days})
        THEN {removed(Rule.BEFORE_BIRTH)}
      WHEN {future} THEN {removed(Rule.FUTURE_DATE)}
      WHEN CASE WHEN s.date_only THEN date_trunc('day', s.start) > date_trunc('day', p.death)
           ELSE s.start > p.death END THEN {removed(Rule.AFTER_DEATH)}
      {unmapped} {targets} ELSE 0::UTINYINT END)::UTINYINT"""


def _is_finite(column: str) -> str:
    return f"(isfinite({column}) AND abs({column}) <= {_FLOAT32_MAX})"


def value_kind() -> str:
    """1 a number, 2 a number in text, 3 a bound in text, 4 not done, 5 POS/NEG, 6 too long, 0."""
    upper = "upper(text)"
    return f"""CASE WHEN number IS NOT NULL AND {_is_finite("number")} THEN 1
      WHEN text IS NULL THEN 0
      WHEN regexp_matches(text, {_NUMBER}) AND {_is_finite("TRY_CAST(text AS DOUBLE)")} THEN 2
      WHEN regexp_matches(text, {_BOUND}) THEN 3
      WHEN {upper} IN {text_list(NOT_DONE)} THEN 4
      WHEN {upper} IN {text_list(POSITIVE)} OR {upper} IN {text_list(NEGATIVE)} THEN 5
      WHEN length(text) > {TEXT_LENGTH} THEN 6 ELSE 0 END"""


def number() -> str:
    """SQL of the parsed number, by `kind`."""
    return f"""CASE kind WHEN 1 THEN number WHEN 2 THEN TRY_CAST(text AS DOUBLE)
      WHEN 3 THEN TRY_CAST(regexp_extract(text, {_BOUND}, 2) AS DOUBLE) END"""


def text() -> str:
    """SQL of the parsed category, by `kind`."""
    return f"""CASE kind WHEN 4 THEN 'not_done'
      WHEN 5 THEN CASE WHEN upper(text) IN {text_list(POSITIVE)} THEN 'POS' ELSE 'NEG' END
      WHEN 0 THEN CASE WHEN value_concept IN {number_list(POSITIVE_CONCEPTS)} THEN 'POS'
        WHEN value_concept IN {number_list(NEGATIVE_CONCEPTS)} THEN 'NEG'
        WHEN value_concept > 0 THEN NULL ELSE text END END"""


def end_kind(config: IngestConfig) -> str:
    """0 an end or none, 1 unreadable, 2 sentinel, 3 before the start."""
    return f"""CASE WHEN end_bad AND end_raw IS NULL THEN 1 WHEN end_raw IS NULL THEN 0
      WHEN NOT {in_calendar("end_raw")} THEN 1
      WHEN year(end_raw) IN {number_list(config.sentinel_years)} THEN 2
      WHEN date_trunc('day', end_raw) < date_trunc('day', start) THEN 3
      WHEN end_raw < start AND NOT date_only AND NOT {is_midnight("end_raw")} THEN 3
      ELSE 0 END"""


def changes() -> str:
    """SQL of the bits of the rules that change a record by itself."""
    rules = {
        Rule.PRENATAL: "date_trunc('day', start) < date_trunc('day', birth)",
        Rule.UNPARSABLE_END: "end_kind = 1",
        Rule.SENTINEL_END: "end_kind = 2",
        Rule.END_BEFORE_START: "end_kind = 3",
        Rule.VALUE_NOT_FINITE: f"number IS NOT NULL AND NOT {_is_finite('number')}",
        Rule.VALUE_UNPARSABLE: "number_bad",
        Rule.VALUE_FROM_TEXT: "kind = 2",
        Rule.VALUE_BOUNDED: "kind = 3 OR (kind IN (1, 2) AND operator IN "
        f"{number_list(BOUND_OPERATORS)})",
        Rule.VALUE_NOT_DONE: "kind = 4",
        Rule.VALUE_CATEGORY: "kind = 5",
        Rule.TEXT_FREE: "kind = 6",
        Rule.MULTIPLE_TARGETS: "is_further",
    }
    bits = " | ".join(changed_if(condition, rule) for rule, condition in rules.items())
    return f"({bits} | 0::UBIGINT)"
