"""Visits and their details from OMOP's tables: what is read of them, and their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.data import visits
from chronoward.data.omop_tables import (
    Columns,
    check_keys,
    check_times,
    key_expression,
    table_number,
)
from chronoward.data.rules import Rule
from chronoward.data.workspace import removed
from chronoward.errors import DataError

if TYPE_CHECKING:
    from chronoward.data.source import OmopSource, SourceTable
    from chronoward.data.workspace import Workspace


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
