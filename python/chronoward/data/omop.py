"""An OMOP source into a workspace: the order in which its tables are read and mended.

Deaths need visits (a discharge may say died), records need deaths, visit ends need records: hence
the order of `load_omop`. Each step is a few named tables; nothing is held in Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from chronoward.data import (
    cdm,
    concepts,
    events,
    ledger,
    links,
    omop_subjects,
    records,
    values,
    visits,
)
from chronoward.data.omop_tables import (
    CLINICAL,
    DICTIONARIES,
    NOT_USED,
    TABLES,
    Columns,
    check_keys,
    check_times,
    key_expression,
    stage_clinical,
    table_number,
)
from chronoward.data.rules import Rule
from chronoward.data.workspace import changed, changed_if, quote_name, quote_text, removed
from chronoward.errors import DataError
from chronoward.schema import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from chronoward.data.config import IngestConfig
    from chronoward.data.source import OmopSource, SourceTable
    from chronoward.data.workspace import Workspace

FAR_FUTURE = "2100-01-01"
# of CDM 5.3, renamed or dropped in 5.4
_OLDER_COLUMNS = frozenset(
    (
        *("admitting_source_concept_id", "admitting_source_value", "discharge_to_concept_id"),
        *("discharge_to_source_value", "visit_detail_parent_id"),
    )
)


@dataclass
class Loaded:
    """What a reader says about its source beside the tables it left in the workspace."""

    tables: tuple[str, ...]
    has_visits: bool
    calendar: str
    extract_date: str | None
    warnings: list[str]
    not_read: list[str]
    extra_columns: dict[str, list[str]]
    """Columns that no version of the source's form knows, by table; they are not read."""


def load_omop(
    work: Workspace,
    source: OmopSource,
    config: IngestConfig,
    *,
    excluded: bool,
    say: Callable[[str], None],
) -> Loaded:
    """Fills `event`, `visit`, `visit_number`, `subject`, `period`, `ledger` and `concept_dim`.

    Args:
        work: an empty workspace, but for the table `excluded` when `excluded` is true.
        source: the tables.
        config: the dials.
        excluded: whether subjects are left out.
        say: receives a line a step.

    Raises:
        DataError: a structural fault (see chronoward.data.source and the stage functions).
    """
    for sql in source.setup:
        work.run(sql)
    warnings = [
        f"table {name} has no rows"
        for name in sorted(set(source.tables) & {*CLINICAL, "visit_occurrence", "death"})
        if not work.rows(f"SELECT 1 FROM {source.tables[name].scan} LIMIT 1")
    ]
    person = _stage(work, source, config, excluded, say)
    calendar, extract_date = decide_calendar(work, source, config)
    say("rules on records")
    future = "false"
    if extract_date and calendar == "real":
        future = f"date_trunc('day', %s.start) > DATE {quote_text(extract_date)}"
    visits.find_discharge_deaths(work, future.replace("%s", "r"))
    omop_subjects.settle_deaths(work, config, future.replace("%s", "s"), excluded)
    periods = source.tables.get("observation_period")
    omop_subjects.stage_periods(work, periods, person, excluded)
    visits.settle_after_death(work, future.replace("%s", "r"))
    records.find_midnight_types(work, config)
    records.find_duplicates(work)
    records.find_multiple_targets(work)
    records.make_records(work, config, future.replace("%s", "s"), excluded)
    say("visits")
    visits.extend_visits(work, config)
    visits.merge_visits(work, config)
    visits.absorb_visits(work, config)
    visits.finish_visits(work, config)
    has_visits = bool(work.value("SELECT count(*) FROM visit"))
    links.link_records(work)
    links.place_details(work, config, omop_subjects.subject_gone(excluded))
    _add_emergency_details(work)
    links.number_visits(work)
    say("codes and values")
    concepts.collect_used_concepts(work)
    concepts.make_concepts(work, source, config)
    _name_visits(work)
    _code_records(work, config)
    _check_no_nul(work, source)
    values.convert_units(work)
    values.find_dominant_units(work)
    values.find_text_categories(work, config)
    events.make_events(work)
    values.add_code_events(work)
    events.add_visit_events(work, table_number("visit_occurrence"), table_number("visit_detail"))
    _add_person_events(work)
    say("ledger")
    _fill_ledger(work, source)
    not_read = sorted(set(source.tables) - {*TABLES, "concept", "concept_ancestor", "cdm_source"})
    return Loaded(
        tables=TABLES,
        has_visits=has_visits,
        calendar=calendar,
        extract_date=extract_date,
        warnings=warnings,
        not_read=not_read,
        extra_columns=extra_columns(source),
    )


def extra_columns(source: OmopSource) -> dict[str, list[str]]:
    """Columns of tables that are read which the CDM does not have, in order."""
    found = {
        name: sorted(set(table.columns) - {f.column for f in cdm.fields(name)} - _OLDER_COLUMNS)
        for name, table in sorted(source.tables.items())
        if name in TABLES
    }
    return {name: columns for name, columns in found.items() if columns}


def _stage(
    work: Workspace,
    source: OmopSource,
    config: IngestConfig,
    excluded: bool,
    say: Callable[[str], None],
) -> str:
    """Reads the tables of records; places visits as far as deaths need them.

    Returns:
        SQL of the subject's id in any table.
    """
    person = omop_subjects.person_expression(work, source)
    say("persons and visits")
    omop_subjects.stage_persons(work, source, person, config, excluded)
    omop_subjects.stage_deaths(work, source.tables.get("death"), person)
    stage_visits(work, source.tables.get("visit_occurrence"), person)
    stage_details(work, source.tables.get("visit_detail"), person)
    visits.place_visits(work, config, omop_subjects.subject_gone(excluded))
    check_visit_keys(work, source)
    records.make_stage(work)
    for name in CLINICAL:
        if name in source.tables:
            say(f"table {name}")
            stage_clinical(work, source.tables[name], person)
    return person


def stage_visits(work: Workspace, table: SourceTable | None, person: str) -> None:
    """Makes `visit_stage` from visit_occurrence (empty without one)."""
    work.run(f"CREATE TABLE visit_stage ({visits.VISIT_COLUMNS})")
    if table is None:
        return
    table.require("person_id", "visit_occurrence_id", "visit_concept_id")
    day, at, end_day, end_at = (
        f"visit_{part}" for part in ("start_date", "start_datetime", "end_date", "end_datetime")
    )
    if day not in table.columns and at not in table.columns:
        table.require(day)
    check_times(work, table, (day, at, end_day, end_at))
    c = Columns(table)
    discharge = (
        "discharged_to_concept_id"
        if c.has("discharged_to_concept_id")
        else "discharge_to_concept_id"
    )
    work.run(
        f"""INSERT INTO visit_stage SELECT {table_number("visit_occurrence")},
        {key_expression(table, "visit_occurrence_id")}, {c.reference("visit_occurrence_id")},
        {person}, {c.integer("visit_concept_id")}, NULL, {c.time(at)}, {c.day(day)},
        {c.start_bad(day, at)}, {c.time(end_at)}, {c.day(end_day)},
        {c.failed(end_day, c.time(end_day))} OR {c.failed(end_at, c.time(end_at))},
        {c.integer("visit_type_concept_id")}, {c.integer(discharge)}, NULL FROM {table.scan}"""
    )
    check_keys(work, "visit_stage", table, "visit_occurrence_id")


def check_visit_keys(work: Workspace, source: OmopSource) -> None:
    """Checks that visits that are not exact copies have keys of their own.

    Raises:
        DataError: a visit_occurrence_id names two visits.
    """
    n_repeated = work.value(
        f"SELECT count(*) - count(DISTINCT ref) FROM visit_raw "
        f"WHERE gone <> {removed(Rule.EXACT_DUPLICATE)}"
    )
    if n_repeated:
        origin = source.tables["visit_occurrence"].origin
        message = f"{origin}: {n_repeated} rows repeat a visit_occurrence_id of another visit"
        raise DataError(message)


def stage_details(work: Workspace, table: SourceTable | None, person: str) -> None:
    """Makes `detail_stage` from visit_detail (empty without one)."""
    work.run(
        """CREATE TABLE detail_stage (tbl USMALLINT, key VARCHAR, subject_id BIGINT,
        concept BIGINT, code VARCHAR, moment TIMESTAMP, day TIMESTAMP, start_bad BOOLEAN,
        end_at TIMESTAMP, end_day TIMESTAMP, visit_ref BIGINT)"""
    )
    if table is None:
        return
    table.require("person_id", "visit_detail_concept_id")
    day, at, end_day, end_at = (
        f"visit_detail_{part}"
        for part in ("start_date", "start_datetime", "end_date", "end_datetime")
    )
    check_times(work, table, (day, at, end_day, end_at))
    c = Columns(table)
    work.run(
        f"""INSERT INTO detail_stage SELECT {table_number("visit_detail")},
        {key_expression(table, "visit_detail_id")}, {person},
        {c.integer("visit_detail_concept_id")}, NULL, {c.time(at)}, {c.day(day)},
        {c.start_bad(day, at)}, {c.time(end_at)}, {c.day(end_day)},
        {c.reference("visit_occurrence_id")} FROM {table.scan}"""
    )
    check_keys(work, "detail_stage", table, "visit_detail_id")


def decide_calendar(
    work: Workspace, source: OmopSource, config: IngestConfig
) -> tuple[str, str | None]:
    """Calendar (`real` or `shifted`) and extract date (None when unknown)."""
    extract = config.extract_date
    table = source.tables.get("cdm_source")
    if extract is None and table is not None and "source_release_date" in table.columns:
        day = Columns(table).day("source_release_date")
        found = work.value(f"SELECT max({day})::DATE::VARCHAR FROM {table.scan}")
        extract = None if found is None else str(found)
    if config.calendar != "auto":
        return config.calendar, extract
    border = quote_text(extract or FAR_FUTURE)
    share = work.value(
        f"""SELECT avg((start > DATE {border})::INTEGER) FROM (
          SELECT COALESCE(moment, day) AS start FROM stage UNION ALL SELECT start FROM visit_raw)
        WHERE year(start) NOT IN ({", ".join(str(y) for y in config.sentinel_years)})"""
    )
    return ("shifted" if (share or 0.0) > 0.5 else "real"), extract


def _add_emergency_details(work: Workspace) -> None:
    """An emergency visit linked to a stay stays visible as a detail of it."""
    work.run(
        """INSERT INTO detail SELECT e.subject_id, v.vid, GREATEST(e.start, v.start),
          GREATEST(LEAST(e.finish, v.finish), e.start, v.start), e.concept, e.code
        FROM visit_emergency e JOIN visit v ON v.head = e.home"""
    )


def _name_visits(work: Workspace) -> None:
    """Sets the codes of `visit` and `detail` from their concepts."""
    type_code = concepts.visit_code("v.concept", "c.known_code")
    work.run(
        f"""UPDATE visit SET code = n.code, discharge_code = n.discharge_code,
          concept = n.concept FROM (
          SELECT v.vid, CASE WHEN v.by_length THEN 9201 ELSE v.concept END AS concept,
            CASE WHEN v.by_length THEN 'Visit/IP' ELSE {type_code} END AS code,
            CASE WHEN v.discharge > 0 THEN
              {concepts.plain_code("Discharge", "v.discharge", "d.known_code")} END
              AS discharge_code
          FROM visit v LEFT JOIN concept_dim c ON v.concept = c.concept_id
          LEFT JOIN concept_dim d ON v.discharge = d.concept_id) n WHERE visit.vid = n.vid"""
    )
    detail_code = concepts.visit_code("d.concept", "c.known_code")
    work.run(
        f"""CREATE OR REPLACE TABLE detail AS SELECT d.* EXCLUDE (code), {detail_code} AS code
        FROM detail d LEFT JOIN concept_dim c ON d.concept = c.concept_id"""
    )


def _code_records(work: Workspace, config: IngestConfig) -> None:
    """Makes `coded`: records with visit, available time, code, unit name, one row an ingredient."""
    values.make_unit_names(work)
    drug = table_number("drug_exposure")
    condition = table_number("condition_occurrence")
    drgs = ", ".join(quote_text(name) for name in config.drg_vocabularies) or "NULL"
    drg = f"(SELECT concept_id FROM concept_dim WHERE vocabulary_id IN ({drgs}))"
    billed = links.billed_condition(config, condition, drg)
    standard, source = "NULLIF(r.concept, 0)", "NULLIF(r.source_concept, 0)"
    if config.concept_policy == "source":
        used = f"COALESCE({source}, CASE WHEN r.source_value IS NULL THEN {standard} END)"
        unmapped = f"{source} IS NULL"
    else:
        used, unmapped = f"COALESCE({standard}, {source})", f"{standard} IS NULL"
    drug_types = work.value(
        f"SELECT count(DISTINCT {_drug_type('type')}) FROM record WHERE gone = 0 AND tbl = {drug}"
    )
    drug_text = _drug_type("r.type") if drug_types > 1 else "NULL"
    work.run(
        f"""CREATE TABLE coded AS WITH named AS (
          SELECT r.*, l.vid, {used} AS used, {links.available_time(billed)} AS available,
            {links.link_changes(billed)} | {changed_if(unmapped, Rule.UNMAPPED)}
            | {changed_if(f"{used} > {concepts.LOCAL_CONCEPT}", Rule.LOCAL_CONCEPT)} AS more,
            CASE WHEN r.tbl = {drug} THEN {drug_text} END AS drug_text
          FROM record r JOIN link l ON r.rid = l.rid LEFT JOIN visit v ON l.vid = v.vid
          WHERE r.gone = 0),
        parts AS (SELECT drug, count(*) AS n FROM ingredient GROUP BY drug)
        SELECT n.rid, n.tbl, n.subject_id, n.vid, n.time, n.end_time, n.available, n.number,
          u.name AS unit, COALESCE(n.drug_text, n.text, a.code) AS text,
          n.drug_text IS NOT NULL OR COALESCE(n.text IN ('POS', 'NEG', 'not_done'), false)
            AS fixed_text,
          COALESCE(c.code, 'Source/' || n.source_value, 'OMOP/0') AS code, c.concept_id,
          n.source_value,
          n.more | CASE WHEN p.n > 1 THEN {changed(Rule.MULTI_INGREDIENT)}
            WHEN p.n = 1 THEN {changed(Rule.INGREDIENT_ROLLUP)} ELSE 0::UBIGINT END AS more
        FROM named n
        LEFT JOIN parts p ON n.tbl = {drug} AND n.used = p.drug
        LEFT JOIN ingredient i ON n.tbl = {drug} AND n.used = i.drug
        LEFT JOIN concept_dim c ON c.concept_id = COALESCE(i.ingredient, n.used)
        LEFT JOIN concept_dim a ON n.value_concept = a.concept_id
        LEFT JOIN unit_dim u ON n.unit IS NOT DISTINCT FROM u.unit
          AND n.unit_text IS NOT DISTINCT FROM u.unit_text"""
    )
    work.run(
        """CREATE TABLE record_change AS SELECT rid, any_value(more) AS more FROM coded
        GROUP BY rid"""
    )
    work.run(
        """CREATE TABLE code_origin AS SELECT tbl, code, min(concept_id) AS concept_id
        FROM coded GROUP BY tbl, code"""
    )
    if config.drug_stop:
        work.run(
            f"""INSERT INTO coded SELECT rid, tbl, subject_id, vid, end_time, NULL,
            GREATEST(available, end_time), NULL, NULL, 'stop', true, code, concept_id,
            source_value, more FROM coded WHERE tbl = {drug} AND end_time IS NOT NULL"""
        )


def _check_no_nul(work: Workspace, source: OmopSource) -> None:
    """Refuses codes and units with a NUL byte: a file of two-byte characters, or a damaged one.

    Raises:
        DataError: there is one; the message names its file, column and row.
    """
    found = "SELECT (SELECT count(*) FROM code_origin WHERE contains(code, chr(0))) + "
    if not work.value(f"{found} (SELECT count(*) FROM unit_dim WHERE contains(name, chr(0)))"):
        return
    work.run("SET preserve_insertion_order = true")
    for table in (source.tables[name] for name in CLINICAL if name in source.tables):
        for column in (c for c, kind in table.columns.items() if kind == "VARCHAR"):
            row = work.value(
                f"SELECT min(row) FROM (SELECT row_number() OVER () AS row, {quote_name(column)} "
                f"AS text FROM {table.scan}) WHERE contains(text, chr(0))"
            )
            if row is not None:
                message = f"{table.origin}: column {column}, row {row}: a NUL byte"
                raise DataError(message)


def _drug_type(column: str) -> str:
    """order, dispense or administration by the type concept; null for others."""
    return f"""CASE WHEN {column} IN (32838, 32833, 38000177, 581373, 32837, 38000180) THEN 'order'
      WHEN {column} IN (32825, 38000175, 38000176, 581452, 44787730) THEN 'dispense'
      WHEN {column} IN (32818, 38000179, 38000180, 43542356) THEN 'administration' END"""


def _add_person_events(work: Workspace) -> None:
    """BIRTH, SEX, RACE, ethnicity and DEATH events."""
    person, death = table_number("person"), table_number("death")
    static = f"""INSERT INTO event SELECT p.subject_id, NULL, %s, {person}, %s, NULL, NULL, NULL,
        NULL, NULL, NULL FROM subject p LEFT JOIN concept_dim c ON c.concept_id = p.%s
        WHERE p.gone = 0 AND %s"""
    sex = (
        f"CASE p.gender WHEN {concepts.FEMALE} THEN 'Gender/F' WHEN {concepts.MALE} "
        "THEN 'Gender/M' ELSE 'Gender/U' END"
    )
    race = concepts.plain_code("Race", "p.race", "c.known_code")
    ethnicity = concepts.plain_code("Ethnicity", "p.ethnicity", "c.known_code")
    work.run(static % (int(Role.SEX), sex, "gender", "true"))
    work.run(static % (int(Role.RACE), race, "race", "p.race > 0"))
    work.run(static % (int(Role.STATIC), ethnicity, "ethnicity", "p.ethnicity > 0"))
    work.run(
        f"""INSERT INTO event SELECT subject_id, birth, {int(Role.BIRTH)}, {person}, 'MEDS_BIRTH',
        NULL, NULL, NULL, birth, NULL, NULL FROM subject WHERE gone = 0 AND birth IS NOT NULL"""
    )
    work.run(
        f"""INSERT INTO event SELECT subject_id, death, {int(Role.DEATH)}, {death}, 'MEDS_DEATH',
        NULL, NULL, NULL, death, NULL, NULL FROM subject WHERE gone = 0 AND death IS NOT NULL"""
    )


def _fill_ledger(work: Workspace, source: OmopSource) -> None:
    """Enters every record of every table but the dictionaries."""
    ledger.make_ledger(work)
    has_periods = "observation_period" in source.tables
    imputed = changed_if(
        "gone = 0 AND subject_id NOT IN (SELECT subject_id FROM period)", Rule.OBSERVATION_IMPUTED
    )
    people = f"""(SELECT tbl, key, gone, CASE WHEN gone <> 0 THEN 0::UBIGINT
        ELSE changes | {imputed if has_periods else "0::UBIGINT"} END AS changes FROM subject)"""
    ledger.enter(work, TABLES, people)
    for relation in ("death_record", "period_record", "visit_record", "detail_record"):
        ledger.enter(work, TABLES, relation)
    ledger.enter(
        work,
        TABLES,
        """(SELECT r.tbl, r.key, r.gone, r.changes | COALESCE(c.more, 0::UBIGINT)
          | COALESCE(v.changes, 0::UBIGINT) AS changes
        FROM record r LEFT JOIN record_change c ON r.rid = c.rid
        LEFT JOIN value_change v ON r.rid = v.rid)""",
    )
    for name, table in sorted(source.tables.items()):
        if name in TABLES or name in DICTIONARIES:
            continue
        personal = name in NOT_USED or "person_id" in table.columns
        rule = Rule.TABLE_NOT_USED if personal else Rule.NOT_ABOUT_A_PERSON
        key = key_expression(table, NOT_USED.get(name, f"{name}_id"))
        work.run("SET preserve_insertion_order = true")
        work.run(
            f"INSERT INTO ledger SELECT {quote_text(name)}, {key}, {removed(rule)}, 0 "
            f"FROM {table.scan}"
        )
        work.run("SET preserve_insertion_order = false")
