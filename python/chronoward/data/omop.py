"""An OMOP source into a workspace: the order in which its tables are read and mended.

Deaths need visits (a discharge may say died), records need deaths, visit ends need records: hence
the order of `load_omop`. Each step is a few named tables; nothing is held in Python.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward.data import (
    cdm,
    concepts,
    events,
    ledger,
    links,
    omop_subjects,
    omop_visits,
    record_ledger,
    visits,
)
from chronoward.data.meds_facts import register_facts
from chronoward.data.meds_tables import DAY_US
from chronoward.data.omop_describe import describe_omop
from chronoward.data.omop_tables import (
    CLINICAL,
    DICTIONARIES,
    NOT_USED,
    TABLES,
    Columns,
    key_expression,
    table_number,
)
from chronoward.data.record_mend import RecordMender
from chronoward.data.record_read import RecordReader, expected_rows
from chronoward.data.record_text import IrregularTextError, is_plain
from chronoward.data.rules import Rule
from chronoward.data.workspace import changed_if, quote_name, quote_text, removed
from chronoward.errors import DataError
from chronoward.schema import Role

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from chronoward.data.config import IngestConfig
    from chronoward.data.source import OmopSource
    from chronoward.data.workspace import Workspace

    Facts = dict[str, NDArray[Any]]

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


@dataclass(frozen=True, eq=False)
class OmopLoaded:
    """What an OMOP source is, beside the tables in the workspace and the files that were written.

    Attributes:
        loaded: as of any source.
        described: what its codes mean (`chronoward.data.omop_describe`).
        tables: the ledger's counts.
        n_subjects, n_events: of the event table.
    """

    loaded: Loaded
    described: pa.Table
    tables: dict[str, dict[str, int]]
    n_subjects: int
    n_events: int


def load_omop(
    work: Workspace,
    source: OmopSource,
    config: IngestConfig,
    *,
    excluded: bool,
    threads: int,
    say: Callable[[str], None],
) -> OmopLoaded:
    """Writes events and ledger beside the workspace, and makes `subject`, `period` and the tables
    of `chronoward.data.meds_facts.register_facts`.

    Args:
        work: an empty workspace, but for the table `excluded` when `excluded` is true.
        source: the tables.
        config: the dials.
        excluded: whether subjects are left out.
        threads: that take pieces side by side; the result does not depend on them.
        say: receives a line a step.

    Raises:
        DataError: a structural fault (see chronoward.data.source and the stage functions).
    """
    scratch = work.path.parent / "spool"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    try:
        return _load(work, source, config, excluded, threads, say, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _load(
    work: Workspace,
    source: OmopSource,
    config: IngestConfig,
    excluded: bool,
    threads: int,
    say: Callable[[str], None],
    scratch: Path,
) -> OmopLoaded:
    for sql in source.setup:
        work.run(sql)
    extract_date = _extract_date(work, source, config)
    person, reader = _stage(work, source, config, excluded, extract_date, scratch, threads, say)
    empty = [f"table {name} has no rows" for name in _empty_tables(work, source, reader)]
    calendar = _calendar(work, config, extract_date, reader)
    say("rules on records")
    future = "false"
    if extract_date and calendar == "real":
        future = f"date_trunc('day', %s.start) > DATE {quote_text(extract_date)}"
    _settle_lives(work, source, config, person, excluded, future)
    concepts.collect_used_concepts(work, reader.concepts())
    concepts.make_concepts(work, source, config, reader.drugs())
    future_us = None if future == "false" else _day_us(str(extract_date)) + DAY_US
    mender = RecordMender(
        work, reader, config, future_us=future_us, scratch=scratch, threads=threads
    )
    mender.survey()
    say("visits")
    has_visits = _mend_visits(work, config, omop_subjects.subject_gone(excluded))
    say("codes and values")
    events.make_events(work)
    events.add_visit_events(work, table_number("visit_occurrence"), table_number("visit_detail"))
    _add_person_events(work)
    mender.decide_values(has_visits=has_visits)
    say("events")
    folder = work.path.parent
    n_subjects, n_events = events.write_parts(folder / "events", mender.pieces(), threads, say)
    facts = _register(work, config, mender)
    _check_no_nul(work, source, mender.unit_names.texts)
    work.add_rows("code_origin", mender.code_origins(facts))
    described = describe_omop(work, source)
    say("ledger")
    _fill_ledger(work, source)
    record_ledger.enter_text_keys(work, reader, mender.fates)
    tables = ledger.count(work)
    tables |= record_ledger.write_ledger(work, reader, mender.fates, folder / "ledger")
    not_read = sorted(set(source.tables) - {*TABLES, "concept", "concept_ancestor", "cdm_source"})
    loaded = Loaded(
        tables=TABLES,
        has_visits=has_visits,
        calendar=calendar,
        extract_date=extract_date,
        warnings=empty,
        not_read=not_read,
        extra_columns=extra_columns(source),
    )
    return OmopLoaded(loaded, described, dict(sorted(tables.items())), n_subjects, n_events)


def _settle_lives(
    work: Workspace,
    source: OmopSource,
    config: IngestConfig,
    person: str,
    excluded: bool,
    future: str,
) -> None:
    """Deaths, periods, and visits as far as they need no records."""
    visits.find_discharge_deaths(work, future.replace("%s", "r"))
    omop_subjects.settle_deaths(work, config, future.replace("%s", "s"), excluded)
    periods = source.tables.get("observation_period")
    omop_subjects.stage_periods(work, periods, person, excluded)
    visits.settle_after_death(work, future.replace("%s", "r"))


def _mend_visits(work: Workspace, config: IngestConfig, subject_gone: str) -> bool:
    """Makes `visit`, `visit_place`, `visit_map` and `detail`; whether there is a visit."""
    visits.extend_visits(work, config)
    visits.merge_visits(work, config)
    visits.absorb_visits(work, config)
    visits.finish_visits(work, config)
    links.place_visits(work)
    links.place_details(work, config, subject_gone)
    _add_emergency_details(work)
    _name_visits(work)
    return bool(work.value("SELECT count(*) FROM visit"))


def _register(work: Workspace, config: IngestConfig, mender: RecordMender) -> Facts:
    """Facts about the events as tables."""
    facts = mender.facts()
    inpatient = work.rows(f"SELECT DISTINCT code FROM visit WHERE class = {visits.INPATIENT}")
    register_facts(
        work,
        facts,
        mender.texts["code"].values,
        min_subjects=config.sex_specific_min_subjects,
        inpatient=[code for (code,) in inpatient],
    )
    return facts


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
    extract_date: str | None,
    scratch: Path,
    threads: int,
    say: Callable[[str], None],
) -> tuple[str, RecordReader]:
    """Reads the tables of records; places visits as far as deaths need them.

    Returns:
        SQL of the subject's id in any table, and what has read the clinical records.
    """
    person = omop_subjects.person_expression(work, source)
    say("persons and visits")
    omop_subjects.stage_persons(work, source, person, config, excluded)
    omop_subjects.stage_deaths(work, source.tables.get("death"), person)
    omop_visits.stage_visits(work, source.tables.get("visit_occurrence"), person)
    omop_visits.stage_details(work, source.tables.get("visit_detail"), person)
    visits.place_visits(work, config, omop_subjects.subject_gone(excluded))
    omop_visits.check_visit_keys(work, source)
    say("records")
    reader = _read_records(work, source, config, person, excluded, extract_date, scratch, threads)
    return person, reader


def _empty_tables(work: Workspace, source: OmopSource, reader: RecordReader) -> list[str]:
    """Tables of the source that have no rows, once `_stage` has read all of them."""
    n_rows = {table.name: table.n_rows for table in reader.tables}
    for name, stage in (("visit_occurrence", "visit_raw"), ("death", "death_stage")):
        if name in source.tables:
            n_rows[name] = work.value(f"SELECT count(*) FROM {stage}")
    return sorted(name for name, n in n_rows.items() if not n)


def _read_records(
    work: Workspace,
    source: OmopSource,
    config: IngestConfig,
    person: str,
    excluded: bool,
    extract_date: str | None,
    scratch: Path,
    threads: int,
) -> RecordReader:
    """Reads the clinical tables: as text where they are plain, else, from the start, by SQL."""
    tables = [source.tables[name] for name in CLINICAL if name in source.tables]
    left_out = "SELECT subject_id FROM excluded" if excluded else "SELECT 0::BIGINT LIMIT 0"
    given = {
        "subjects": work.ids("SELECT subject_id FROM subject WHERE gone = 0 ORDER BY subject_id"),
        "excluded": work.ids(left_out),
    }
    plain = {table.name for table in tables if is_plain(table, person)}
    while True:
        reader = RecordReader(
            work,
            config,
            scratch,
            **given,
            border_us=_day_us(extract_date or FAR_FUTURE),
            n_rows=expected_rows(work, tables),
        )
        try:
            for table in tables:
                reader.read(table, person, as_text=table.name in plain, threads=threads)
        except IrregularTextError:
            shutil.rmtree(scratch)
            plain.remove(reader.tables[-1].name)
            continue
        reader.finish()
        return reader


def _extract_date(work: Workspace, source: OmopSource, config: IngestConfig) -> str | None:
    """The day of extraction, None when it is unknown."""
    table = source.tables.get("cdm_source")
    if config.extract_date is not None or table is None:
        return config.extract_date
    if "source_release_date" not in table.columns:
        return None
    day = Columns(table).day("source_release_date")
    found = work.value(f"SELECT max({day})::DATE::VARCHAR FROM {table.scan}")
    return None if found is None else str(found)


def _calendar(
    work: Workspace, config: IngestConfig, extract_date: str | None, reader: RecordReader
) -> str:
    """`shifted` when more than half of the starts, sentinel years aside, lie after the border."""
    if config.calendar != "auto":
        return config.calendar
    border = quote_text(extract_date or FAR_FUTURE)
    n, n_late = work.rows(
        f"""SELECT count(*), count(*) FILTER (start > DATE {border}) FROM visit_raw
        WHERE year(start) NOT IN ({", ".join(str(y) for y in config.sentinel_years)})"""
    )[0]
    n, n_late = n + reader.census.n_dated, n_late + reader.census.n_late
    return "shifted" if n_late > 0.5 * n else "real"


def _day_us(day: str) -> int:
    return int(np.datetime64(day, "us").astype(np.int64))


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


def _check_no_nul(work: Workspace, source: OmopSource, units: list[str]) -> None:
    """Refuses codes and units with a NUL byte: a file of two-byte characters, or a damaged one.

    Raises:
        DataError: there is one; the message names its file, column and row.
    """
    bad_codes = work.value("SELECT count(*) FROM event_kind WHERE contains(code, chr(0))")
    if not bad_codes and not any("\0" in unit for unit in units):
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


def _add_person_events(work: Workspace) -> None:
    """BIRTH, SEX, RACE, ethnicity and DEATH events."""
    person, death = table_number("person"), table_number("death")
    static = f"""INSERT INTO event SELECT p.subject_id, NULL, %s, {person}, %s,
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
        birth, NULL, NULL FROM subject WHERE gone = 0 AND birth IS NOT NULL"""
    )
    work.run(
        f"""INSERT INTO event SELECT subject_id, death, {int(Role.DEATH)}, {death}, 'MEDS_DEATH',
        death, NULL, NULL FROM subject WHERE gone = 0 AND death IS NOT NULL"""
    )


def _fill_ledger(work: Workspace, source: OmopSource) -> None:
    """Enters every record of every table but the clinical ones and the dictionaries."""
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
