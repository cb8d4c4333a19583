"""A MEDS folder into a workspace: records, visits from columns or code patterns, events, ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from chronoward.data import events, ledger, links, records, values, visits
from chronoward.data.meds import (
    data_files,
    read_code_metadata,
    read_observation,
    role_expression,
    stage_meds,
    static_code,
)
from chronoward.data.meds_visits import pattern_visits, read_visits
from chronoward.data.omop import FAR_FUTURE, Loaded
from chronoward.data.omop_subjects import day_end
from chronoward.data.rules import Rule
from chronoward.data.workspace import changed_if, number_list, quote_text, removed
from chronoward.schema import Role

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from chronoward.data.config import IngestConfig
    from chronoward.data.workspace import Workspace

LEDGER_TABLE = "data"
METADATA_TABLE = "metadata/codes"
_FIXED_TEXT = ("POS", "NEG", "not_done", "order", "dispense", "administration", "stop")
_VISIBLE = f"r.role = {int(Role.CODE)} AND r.rid NOT IN (SELECT rid FROM silent)"
_CONTENT = """subject_id, role, event_code, time, number, text, unit, end_time, available,
        visit_ref, source_table"""


def load_meds(
    work: Workspace,
    root: Path,
    config: IngestConfig,
    *,
    excluded: bool,
    say: Callable[[str], None],
) -> Loaded:
    """Fills `event`, `visit`, `visit_number`, `subject`, `period` and `ledger` from MEDS shards.

    Args:
        work: an empty workspace, but for the table `excluded` when `excluded` is true.
        root: the MEDS folder.
        config: the dials.
        excluded: whether subjects are left out.
        say: receives a line a step.

    Raises:
        DataError: a structural fault (see chronoward.data.meds).
        FormatError: a damaged file.
    """
    files = data_files(root)
    say(f"{len(files)} shards")
    stage_meds(work, root, files)
    names = [
        name for (name,) in work.rows("SELECT DISTINCT COALESCE(source_table, '') FROM meds_stage")
    ]
    tables = tuple(sorted({"", "visit_occurrence", "visit_detail", *names}))
    say("rules on records")
    calendar, extract = _decide_calendar(work, config)
    future = (
        f"date_trunc('day', s.time) > DATE {quote_text(extract)}"
        if extract and calendar == "real"
        else "false"
    )
    _judge(work, config, tables, future, excluded)
    say("visits")
    metadata, lost = read_code_metadata(root)
    work.add_rows("meds_code", metadata)
    explicit = bool(work.value(f"SELECT count(*) FROM record WHERE role = {int(Role.VISIT)}"))
    if explicit:
        read_visits(work, config)
    else:
        pattern_visits(work, config)
    has_visits = bool(work.value("SELECT count(*) FROM visit"))
    links.link_records(work, f"r.gone = 0 AND {_VISIBLE}")
    links.number_visits(work)
    say("codes and values")
    make_meds_units(work)
    _make_coded(work, explicit)
    values.convert_units(work)
    values.find_dominant_units(work)
    values.find_text_categories(work, config)
    events.make_events(work)
    values.add_code_events(work)
    number = {name: i for i, name in enumerate(tables)}
    events.add_visit_events(work, number["visit_occurrence"], number["visit_detail"])
    _add_static_events(work)
    work.add_rows("meds_period", read_observation(root))
    work.run(
        """CREATE TABLE period AS SELECT o.subject_id, o.start_time AS start,
          LEAST(o.end_time, p.death) AS finish FROM meds_period o JOIN subject p
        ON o.subject_id = p.subject_id WHERE p.death IS NULL OR o.start_time <= p.death"""
    )
    say("ledger")
    _fill_ledger(work)
    _enter_metadata(work, lost)
    n_rows = work.value("SELECT count(*) FROM ledger")
    warnings = [] if n_rows else ["the source has no events"]
    return Loaded(tables, has_visits, calendar, extract, warnings, [])


def _enter_metadata(work: Workspace, lost: NDArray[np.bool_]) -> None:
    """Enters the rows of codes.parquet where a column of it could not be read."""
    if not lost.any():
        return
    keys = [f"{METADATA_TABLE}.parquet:{row}" for row in range(len(lost))]
    work.add_rows("lost_metadata", pa.table({"key": keys, "lost": pa.array(lost)}))
    work.run(
        f"""INSERT INTO ledger SELECT {quote_text(METADATA_TABLE)}, key, 0,
        {changed_if("lost", Rule.METADATA_NULLED)} FROM lost_metadata"""
    )
    work.drop("lost_metadata")


def _decide_calendar(work: Workspace, config: IngestConfig) -> tuple[str, str | None]:
    if config.calendar != "auto":
        return config.calendar, config.extract_date
    border = quote_text(config.extract_date or FAR_FUTURE)
    share = work.value(
        f"SELECT avg((time > DATE {border})::INTEGER) FROM meds_stage "
        f"WHERE year(time) NOT IN {number_list(config.sentinel_years)}"
    )
    return ("shifted" if (share or 0.0) > 0.5 else "real"), config.extract_date


def _judge(
    work: Workspace, config: IngestConfig, tables: tuple[str, ...], future: str, excluded: bool
) -> None:
    """Makes `subject` and `record` from `meds_stage`."""
    numbers = " ".join(f"WHEN {quote_text(name)} THEN {i}" for i, name in enumerate(tables))
    work.run(
        f"""CREATE TABLE meds_role AS SELECT rowid AS rid, *, {static_code()} AS event_code,
          COALESCE(CASE source_table {numbers} END, {tables.index("")})::USMALLINT AS tbl
        FROM (SELECT rowid, *, {role_expression()}::UTINYINT AS role FROM meds_stage)"""
    )
    work.drop("meds_stage")
    sentinel = number_list(config.sentinel_years)
    usable = f"time IS NOT NULL AND year(time) NOT IN {sentinel}"
    midnight = f"available IS NULL AND {visits.is_midnight('time')}"
    ends = f"CASE WHEN {midnight} THEN {day_end('time')} ELSE time END"
    out = "AND subject_id NOT IN (SELECT subject_id FROM excluded)" if excluded else ""
    work.run(
        f"""CREATE TABLE subject AS WITH born AS (SELECT subject_id, min(time) FILTER (
            role = {int(Role.BIRTH)} AND {usable}) AS birth FROM meds_role
          WHERE subject_id IS NOT NULL {out} GROUP BY subject_id)
        SELECT b.subject_id, b.birth, d.death, 0::UTINYINT AS gone FROM born b LEFT JOIN (
          SELECT m.subject_id, min({ends}) AS death FROM meds_role m
          JOIN born USING (subject_id) WHERE m.role = {int(Role.DEATH)}
            AND {usable.replace("time", "m.time")} AND (born.birth IS NULL OR
              date_trunc('day', m.time) >= date_trunc('day', born.birth))
          GROUP BY m.subject_id) d ON b.subject_id = d.subject_id"""
    )
    _find_meds_duplicates(work)
    _make_meds_records(work, config, future, excluded)
    _remove_surplus(work)
    work.drop("meds_role", "duplicate")


def _find_meds_duplicates(work: Workspace) -> None:
    """Makes `duplicate` (rid): copies, but for the first by file and row."""
    work.run(
        f"""CREATE TABLE duplicate AS WITH hashed AS (
          SELECT rid, hash({_CONTENT}) AS h FROM meds_role),
        several AS (SELECT h FROM hashed GROUP BY h HAVING count(*) > 1)
        SELECT rid FROM (SELECT rid, row_number() OVER (PARTITION BY {_CONTENT} ORDER BY
            length(key), key) AS copy FROM meds_role
          WHERE rid IN (SELECT rid FROM hashed JOIN several USING (h))) WHERE copy > 1"""
    )


def _make_meds_records(work: Workspace, config: IngestConfig, future: str, excluded: bool) -> None:
    keep_days = config.prenatal_days if config.prenatal_policy == "keep" else 0
    birth, death, sex, race = (int(role) for role in (Role.BIRTH, Role.DEATH, Role.SEX, Role.RACE))
    out = (
        f"WHEN s.subject_id IN (SELECT subject_id FROM excluded) "
        f"THEN {removed(Rule.EXCLUDED_SUBJECT)}"
        if excluded
        else ""
    )
    gone = f"""(CASE WHEN s.subject_id IS NULL THEN {removed(Rule.MISSING_SUBJECT)} {out}
      WHEN s.code IS NULL THEN {removed(Rule.MISSING_CODE)}
      WHEN d.rid IS NOT NULL THEN {removed(Rule.EXACT_DUPLICATE)}
      WHEN s.time IS NULL AND s.role IN ({birth}, {death}) THEN {removed(Rule.MISSING_TIME)}
      WHEN s.role IN ({sex}, {race}, {int(Role.STATIC)}) THEN 0::UTINYINT
      WHEN year(s.time) IN {number_list(config.sentinel_years)} THEN {removed(Rule.SENTINEL_TIME)}
      WHEN s.role = {birth} THEN 0::UTINYINT
      WHEN date_trunc('day', s.time) < date_trunc('day', p.birth) - to_days(
        CASE WHEN s.role = {death} THEN 0 ELSE {keep_days} END) THEN {removed(Rule.BEFORE_BIRTH)}
      WHEN {future} THEN {removed(Rule.FUTURE_DATE)}
      WHEN s.role <> {death} AND s.time > p.death THEN {removed(Rule.AFTER_DEATH)}
      ELSE 0::UTINYINT END)::UTINYINT"""
    blank = "NULL::BIGINT AS value_concept, NULL::BIGINT AS operator, false AS number_bad"
    work.run(
        f"""CREATE TABLE record AS WITH judged AS (
          SELECT s.*, p.birth, p.death, {gone} AS gone, {blank}, s.time AS start,
            false AS date_only, s.end_time AS end_raw, false AS end_bad, false AS is_further
          FROM meds_role s LEFT JOIN subject p ON s.subject_id = p.subject_id
          LEFT JOIN duplicate d ON s.rid = d.rid),
        valued AS (SELECT *, {records.value_kind()} AS kind, {records.end_kind(config)} AS end_kind
          FROM judged)
        SELECT rid, tbl, key, subject_id, role, event_code AS code, time, date_only,
          CASE WHEN end_kind = 0 THEN end_raw END AS end_time, available, visit_ref, death,
          unit, {records.number()} AS number, {records.text()} AS text, gone,
          CASE WHEN gone <> 0 THEN 0::UBIGINT ELSE {records.changes()} | {
            changed_if(
                f"role = {death} AND available IS NULL AND {visits.is_midnight('time')}",
                Rule.DEATH_DATE_ONLY,
            )
        } END AS changes FROM valued"""
    )


def _remove_surplus(work: Workspace) -> None:
    """A subject has one birth, death, sex and race: the earliest, or first in the alphabet."""
    birth, death, sex, race = (int(role) for role in (Role.BIRTH, Role.DEATH, Role.SEX, Role.RACE))
    work.run(
        f"""CREATE TABLE surplus AS SELECT rid, CASE role
            WHEN {birth} THEN {removed(Rule.BIRTH_DUPLICATE)}
            WHEN {death} THEN {removed(Rule.DEATH_DUPLICATE)}
            ELSE {removed(Rule.STATIC_DUPLICATE)} END AS gone
        FROM record WHERE gone = 0 AND role IN ({birth}, {death}, {sex}, {race})
        QUALIFY row_number() OVER (PARTITION BY subject_id, role ORDER BY
          CASE WHEN role IN ({birth}, {death}) THEN time END, code, length(key), key) > 1"""
    )
    work.run("UPDATE record SET gone = s.gone, changes = 0 FROM surplus s WHERE record.rid = s.rid")
    work.drop("surplus")


def _make_coded(work: Workspace, explicit: bool) -> None:
    """Makes `coded` from the records that are CODE events of their own."""
    link_bits = links.link_changes("false") if explicit else links.artificial_change()
    fixed = ", ".join(quote_text(text) for text in _FIXED_TEXT)
    available = """LEAST(r.death, CASE WHEN l.how < 3
      THEN LEAST(GREATEST(COALESCE(r.available, r.time), v.start), v.finish)
      ELSE COALESCE(r.available, r.time) END)"""
    work.run(
        f"""CREATE TABLE coded AS SELECT r.rid, r.tbl, r.subject_id, l.vid, r.time, r.end_time,
          {available} AS available, r.number, u.name AS unit, r.text,
          COALESCE(r.text IN ({fixed}), false) AS fixed_text, r.code, {link_bits} AS more
        FROM record r JOIN link l ON r.rid = l.rid LEFT JOIN visit v ON l.vid = v.vid
        LEFT JOIN unit_dim u ON r.unit = u.unit_text WHERE {_VISIBLE}"""
    )
    work.run("CREATE TABLE record_change AS SELECT rid, more FROM coded WHERE more <> 0")


def make_meds_units(work: Workspace) -> None:
    """Makes `unit_dim` (unit_text, name) for the units of the kept records."""
    from chronoward.data.units import unit_name

    texts = [
        text
        for (text,) in work.rows(
            "SELECT DISTINCT unit FROM record WHERE gone = 0 AND unit IS NOT NULL"
        )
    ]
    work.add_rows(
        "unit_dim",
        pa.table(
            {
                "unit_text": pa.array(texts, pa.string()),
                "name": pa.array([unit_name(None, None, text) for text in texts], pa.string()),
            }
        ),
    )


def _add_static_events(work: Workspace) -> None:
    birth, death = int(Role.BIRTH), int(Role.DEATH)
    work.run(
        f"""INSERT INTO event SELECT r.subject_id,
          CASE r.role WHEN {birth} THEN p.birth WHEN {death} THEN p.death END, r.role, r.tbl,
          r.code, NULL, NULL, NULL,
          CASE r.role WHEN {birth} THEN p.birth WHEN {death} THEN p.death END, NULL, NULL
        FROM record r JOIN subject p ON r.subject_id = p.subject_id WHERE r.gone = 0
          AND r.role IN ({birth}, {death}, {int(Role.SEX)}, {int(Role.RACE)}, {int(Role.STATIC)})"""
    )


def _fill_ledger(work: Workspace) -> None:
    ledger.make_ledger(work)
    work.run(
        f"""INSERT INTO ledger SELECT {quote_text(LEDGER_TABLE)}, r.key,
          CASE WHEN r.gone = 0 THEN COALESCE(s.gone, 0) ELSE r.gone END,
          CASE WHEN COALESCE(s.gone, 0) <> 0 THEN 0::UBIGINT ELSE r.changes
            | COALESCE(c.more, 0::UBIGINT) | COALESCE(v.changes, 0::UBIGINT)
            | COALESCE(s.changes, 0::UBIGINT) END
        FROM record r LEFT JOIN record_change c ON r.rid = c.rid
        LEFT JOIN value_change v ON r.rid = v.rid
        LEFT JOIN visit_settled s ON r.rid = s.rid"""
    )
