"""Persons, deaths and observation periods: what bounds a subject's record.

`subject` holds one row a person: birth (null when unknown), its date, death, and whether the death
is a date only. Everything later is compared with these two dates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.data.omop_tables import (
    Columns,
    check_keys,
    check_times,
    in_calendar,
    key_expression,
    table_number,
    whole_number,
)
from chronoward.data.rules import Rule
from chronoward.data.workspace import changed, changed_if, number_list, removed
from chronoward.errors import DataError

if TYPE_CHECKING:
    from chronoward.data.config import IngestConfig
    from chronoward.data.source import OmopSource, SourceTable
    from chronoward.data.workspace import Workspace

DAY_END_US = 86_399_000_000


def day_end(expression: str) -> str:
    """23:59:59 of the day that starts at the expression."""
    return f"({expression} + to_microseconds({DAY_END_US}))"


def person_expression(work: Workspace, source: OmopSource) -> str:
    """SQL of the subject's id in any table: person_id itself, or a hash where ids are text.

    Hashed ids are kept beside the output (`subject_ids` of the workspace).

    Raises:
        DataError: an id has a fraction or is null, or two ids fall on one hash.
    """
    person = source.tables["person"]
    person.require("person_id")
    columns = Columns(person)
    text, whole = columns.text("person_id"), columns.integer("person_id")
    is_text = columns.is_text("person_id")
    # ids with leading zeros are text, or 007 and 7 would be one person
    numeric = r"'^-?(0|[1-9][0-9]{0,18})(\.0*)?$'"
    fraction = f"regexp_matches({text}, '^[+-]?[0-9]*\\.[0-9]*[1-9][0-9]*$')"
    n_null, n_text, n_fraction, row = work.rows(
        f"SELECT count(*) FILTER (bad = 1), count(*) FILTER (bad = 3), count(*) FILTER (bad = 2), "
        f"min(row) FILTER (bad IN (1, 2)) FROM (SELECT row_number() OVER () AS row, "
        f"CASE WHEN {text} IS NULL THEN 1 WHEN {fraction if is_text else f'{whole} IS NULL'} "
        f"THEN 2 WHEN NOT regexp_matches({text}, {numeric}) OR TRY_CAST({text} AS BIGINT) IS NULL "
        f"THEN 3 ELSE 0 END AS bad "
        f"FROM {person.scan})"
    )[0]
    if n_null or n_fraction:
        bad = "fractional ids" if is_text else "ids that are no whole number within 64 bits"
        what = f"{n_null} rows without person_id" if n_null else f"{n_fraction} {bad}"
        message = f"{person.origin}: column person_id: {what} (row {row} is one)"
        raise DataError(message)
    if not is_text:
        return whole
    if not n_text:  # other tables may hold the same ids as numbers
        return whole_number("TRIM(person_id::VARCHAR)")
    hashed = "(hash(NULLIF(TRIM(person_id::VARCHAR), '')) >> 1)::BIGINT"
    work.run(
        f"CREATE TABLE subject_ids AS SELECT DISTINCT {hashed} AS subject_id, "
        f"{text} AS person_id FROM {person.scan}"
    )
    if work.value("SELECT count(*) - count(DISTINCT subject_id) FROM subject_ids"):
        message = f"{person.origin}: two person ids fall on one hash"
        raise DataError(message)
    return hashed


def stage_persons(
    work: Workspace, source: OmopSource, person: str, config: IngestConfig, excluded: bool
) -> None:
    """Makes `person_record` (one row a source row) and `subject` (kept subjects).

    Raises:
        DataError: no rows, a duplicate person_id, or a missing required column.
    """
    table = source.tables["person"]
    table.require("person_id", "gender_concept_id", "year_of_birth")
    check_times(work, table, ("birth_datetime",))
    c = Columns(table)
    year = c.integer("year_of_birth")
    month, day = c.integer("month_of_birth"), c.integer("day_of_birth")
    at = c.time("birth_datetime")
    sentinel = number_list(config.sentinel_years)
    work.run(
        f"""CREATE TABLE person_record AS SELECT {table_number("person")}::USMALLINT AS tbl,
        {key_expression(table, "person_id")} AS key, {person} AS subject_id,
        {c.integer("gender_concept_id")} AS gender, {c.integer("race_concept_id")} AS race,
        {c.integer("ethnicity_concept_id")} AS ethnicity,
        CASE WHEN year({at}) NOT IN {sentinel} AND {in_calendar(at)} THEN {at} END AS birth_at,
        CASE WHEN {year} IN {sentinel} OR {year} NOT BETWEEN 1 AND 9999 THEN NULL
             ELSE {year} END AS year,
        CASE WHEN {month} BETWEEN 1 AND 12 THEN {month} END AS month,
        CASE WHEN {day} BETWEEN 1 AND 31 THEN {day} END AS day
        FROM {table.scan}"""
    )
    n_rows, n_persons = work.rows("SELECT count(*), count(DISTINCT subject_id) FROM person_record")[
        0
    ]
    if not n_rows:
        message = f"{table.origin}: table person has no rows"
        raise DataError(message)
    if n_rows != n_persons:
        row = work.value(
            "SELECT min(row) FROM (SELECT row_number() OVER () AS row, row_number() OVER "
            f"(PARTITION BY {person}) AS copy FROM {table.scan}) WHERE copy > 1"
        )
        message = (
            f"{table.origin}: {n_rows - n_persons} rows repeat a person_id (row {row} is one); "
            "person_id must be unique"
        )
        raise DataError(message)
    _make_subjects(work, excluded)


def _make_subjects(work: Workspace, excluded: bool) -> None:
    gone = (
        f"CASE WHEN subject_id IN (SELECT subject_id FROM excluded) "
        f"THEN {removed(Rule.EXCLUDED_SUBJECT)} ELSE 0::UTINYINT END"
        if excluded
        else "0::UTINYINT"
    )
    day = "CASE WHEN month IS NULL THEN 1 ELSE d END"
    born = f"make_timestamp(year, COALESCE(month, 1), {day}, 0, 0, 0)"
    work.run(
        f"""CREATE TABLE subject AS WITH dated AS (
          SELECT *, LEAST(COALESCE(day, 1), CASE WHEN year IS NULL THEN 1 ELSE
            date_part('day', last_day(make_date(year, COALESCE(month, 1), 1))) END)::BIGINT AS d
          FROM person_record)
        SELECT tbl, key, subject_id, gender, race, ethnicity,
          COALESCE(birth_at, CASE WHEN year IS NULL THEN NULL ELSE {born} END) AS birth,
          NULL::TIMESTAMP AS death, NULL::BOOLEAN AS death_date_only, {gone} AS gone,
          CASE WHEN birth_at IS NOT NULL THEN 0::UBIGINT
               WHEN year IS NULL THEN {changed(Rule.BIRTH_UNKNOWN)}
               WHEN month IS NULL OR day IS NULL THEN {changed(Rule.BIRTH_IMPUTED)}
               ELSE 0::UBIGINT END AS changes
        FROM dated"""
    )
    work.drop("person_record")


def subject_gone(excluded: bool) -> str:
    """CASE branches, in order, for a record `s` of an unknown or excluded subject `p`."""
    branch = (
        f"WHEN s.subject_id IN (SELECT subject_id FROM excluded) "
        f"THEN {removed(Rule.EXCLUDED_SUBJECT)}"
        if excluded
        else ""
    )
    return f"""WHEN s.subject_id IS NULL THEN {removed(Rule.MISSING_SUBJECT)} {branch}
        WHEN p.subject_id IS NULL THEN {removed(Rule.UNKNOWN_PERSON)}"""


def stage_deaths(work: Workspace, table: SourceTable | None, person: str) -> None:
    """Makes `death_stage` from the death table (empty without one)."""
    work.run(
        "CREATE TABLE death_stage (tbl USMALLINT, key VARCHAR, subject_id BIGINT, "
        "moment TIMESTAMP, day TIMESTAMP, start_bad BOOLEAN)"
    )
    if table is None:
        return
    table.require("person_id")
    if "death_date" not in table.columns and "death_datetime" not in table.columns:
        table.require("death_date")
    check_times(work, table, ("death_date", "death_datetime"))
    c = Columns(table)
    key = f"COALESCE({key_expression(table, 'person_id')}, {key_expression(table, None)})"
    work.run("SET preserve_insertion_order = true")
    work.run(
        f"""INSERT INTO death_stage SELECT {table_number("death")}, {key}, {person},
        {c.time("death_datetime")}, {c.day("death_date")},
        {c.start_bad("death_date", "death_datetime")} FROM {table.scan}"""
    )
    work.run("SET preserve_insertion_order = false")


def settle_deaths(work: Workspace, config: IngestConfig, future: str, excluded: bool) -> None:
    """Makes `death_record` (with `gone`) and writes each subject's death into `subject`.

    `discharge_death` (subject_id, finish, key) holds the visits whose discharge says died; the
    earliest of all sources wins, a date-only death being the end of its day.

    Args:
        work: the database.
        config: the dials.
        future: SQL condition on `s.start` that says the death lies after the extract date.
        excluded: whether a table `excluded` is there.
    """
    date_only = "(s.moment IS NULL OR s.moment = date_trunc('day', s.moment))"
    time = "COALESCE(s.moment, s.day)"
    work.run(
        f"""CREATE TABLE death_record AS WITH placed AS (
          SELECT s.tbl, s.key, s.subject_id, {date_only} AS date_only,
          CASE WHEN {date_only} THEN {day_end(f"date_trunc('day', {time})")}
            ELSE {time} END AS time,
          (CASE {subject_gone(excluded)}
            WHEN s.start_bad OR NOT {in_calendar(time)} THEN {removed(Rule.UNPARSABLE_TIME)}
            WHEN {time} IS NULL THEN {removed(Rule.MISSING_TIME)}
            WHEN year({time}) IN {number_list(config.sentinel_years)}
              THEN {removed(Rule.SENTINEL_TIME)}
            WHEN date_trunc('day', {time}) < date_trunc('day', p.birth)
              THEN {removed(Rule.BEFORE_BIRTH)}
            WHEN {future} THEN {removed(Rule.FUTURE_DATE)}
            ELSE 0::UTINYINT END)::UTINYINT AS gone
          FROM (SELECT *, {time} AS start FROM death_stage s) s
          LEFT JOIN subject p USING (subject_id))
        SELECT tbl, key, subject_id, date_only, time, CASE WHEN gone = 0 AND row_number() OVER (
            PARTITION BY subject_id, gone ORDER BY time, date_only, key) > 1
          THEN {removed(Rule.DEATH_DUPLICATE)} ELSE gone END AS gone,
          {changed_if("date_only AND gone = 0", Rule.DEATH_DATE_ONLY)} AS changes FROM placed"""
    )
    work.run("UPDATE death_record SET changes = 0 WHERE gone <> 0")
    work.run(
        """CREATE TABLE death_settled AS SELECT subject_id, min(time) AS death,
          arg_min(date_only, (time, date_only)) AS date_only FROM (
            SELECT subject_id, time, date_only FROM death_record WHERE gone = 0
            UNION ALL SELECT subject_id, finish, false FROM discharge_death)
        GROUP BY subject_id"""
    )
    work.run(
        """UPDATE subject SET death = d.death, death_date_only = d.date_only
        FROM death_settled d WHERE subject.subject_id = d.subject_id"""
    )
    work.drop("death_stage")


def stage_periods(work: Workspace, table: SourceTable | None, person: str, excluded: bool) -> None:
    """Makes `period_record` (ledger) and `period` (disjoint, ascending, inside the life)."""
    work.run(
        "CREATE TABLE period_stage (tbl USMALLINT, key VARCHAR, subject_id BIGINT, "
        "start TIMESTAMP, finish TIMESTAMP)"
    )
    if table is not None:
        start, finish = "observation_period_start_date", "observation_period_end_date"
        table.require("person_id", start, finish)
        check_times(work, table, (start, finish))
        c = Columns(table)
        work.run(
            f"""INSERT INTO period_stage SELECT {table_number("observation_period")},
            {key_expression(table, "observation_period_id")}, {person}, {c.day(start)},
            {c.day(finish)} FROM {table.scan}"""
        )
        check_keys(work, "period_stage", table, "observation_period_id")
    low, high = "GREATEST(s.start, date_trunc('day', p.birth))", f"{day_end('s.finish')}"
    cut = f"LEAST({high}, p.death)"
    work.run(
        f"""CREATE TABLE period_placed AS SELECT s.tbl, s.key, s.subject_id, {low} AS start,
        {cut} AS finish, (CASE {subject_gone(excluded)}
          WHEN s.start IS NULL OR s.finish IS NULL OR s.finish < s.start OR {cut} < {low}
            OR NOT {in_calendar("s.start")} OR NOT {in_calendar("s.finish")}
            THEN {removed(Rule.PERIOD_INVALID)} ELSE 0::UTINYINT END)::UTINYINT AS gone,
        {
            changed_if(
                "s.start < date_trunc('day', p.birth) OR s.finish > date_trunc('day', p.death)",
                Rule.PERIOD_CLAMPED,
            )
        } AS changes
        FROM period_stage s LEFT JOIN subject p USING (subject_id)"""
    )
    work.run(
        f"""CREATE TABLE period_record AS WITH reached AS (SELECT *, max(finish) OVER (
            PARTITION BY subject_id, gone ORDER BY start, finish DESC, key
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM period_placed)
        SELECT tbl, key, subject_id, start, finish, CASE WHEN gone = 0 AND
            date_trunc('day', start) <= date_trunc('day', before) + INTERVAL 1 DAY
          THEN {removed(Rule.PERIOD_MERGED)} ELSE gone END AS gone, changes FROM reached"""
    )
    merged = removed(Rule.PERIOD_MERGED)
    work.run(
        f"""CREATE TABLE period AS SELECT subject_id, min(start) AS start, max(finish) AS finish
        FROM (SELECT subject_id, start, finish, count(*) FILTER (gone = 0) OVER (
            PARTITION BY subject_id ORDER BY start, finish DESC, key) AS part
          FROM period_record WHERE gone IN (0, {merged})) GROUP BY subject_id, part"""
    )
    work.run("UPDATE period_record SET changes = 0 WHERE gone <> 0")
    work.drop("period_stage", "period_placed")
