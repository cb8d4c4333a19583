"""The code table: what each (table, code) of the events means and where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from chronoward.data.visits import INPATIENT
from chronoward.schema import Role, code_schema

if TYPE_CHECKING:
    from chronoward.data.config import IngestConfig
    from chronoward.data.workspace import Workspace


def describe_events(work: Workspace, config: IngestConfig) -> None:
    """Makes what the code table, the observation periods and the report ask of all events.

    `event_kind` (tbl, code, role); `code_sex` (tbl, code, sex): codes of many subjects, all of one
    sex; `inpatient_code` (code); `code_count` (code, n_events, n_subjects) of CODE events; `times`
    (subject_id, first, last): first timed event other than birth (birth, when there is no other)
    and last known moment; `visit_count` (n_visits, n_made, n_code, n_artificial).
    """
    code = int(Role.CODE)
    work.run("CREATE TABLE event_kind AS SELECT DISTINCT tbl, code, role FROM event")
    work.run(
        f"CREATE TABLE inpatient_code AS SELECT DISTINCT code FROM visit WHERE class = {INPATIENT}"
    )
    work.run(
        f"""CREATE TABLE code_count AS SELECT code, count(*) AS n_events,
        count(DISTINCT subject_id) AS n_subjects FROM event WHERE role = {code} GROUP BY code"""
    )
    work.run(
        """CREATE TABLE times AS SELECT subject_id,
        COALESCE(min(time) FILTER (role <> 0), min(time)) AS first,
        max(GREATEST(available, time, end_time)) AS last
        FROM event WHERE time IS NOT NULL GROUP BY subject_id"""
    )
    work.run(
        f"""CREATE TABLE visit_count AS SELECT (SELECT count(*) FROM visit) AS n_visits,
        (SELECT count(*) FROM visit WHERE is_artificial) AS n_made,
        (SELECT count(*) FROM event WHERE role = {code}) AS n_code,
        (SELECT count(*) FROM event e JOIN visit v ON e.vid = v.vid
          WHERE e.role = {code} AND v.is_artificial) AS n_artificial"""
    )
    work.run(
        f"""CREATE TABLE code_sex AS WITH sexes AS (
          SELECT subject_id, right(code, 1) AS sex FROM event
          WHERE role = {int(Role.SEX)} AND code IN ('Gender/F', 'Gender/M')),
        seen AS (SELECT DISTINCT tbl, code, subject_id FROM event WHERE role = {int(Role.CODE)})
        SELECT s.tbl, s.code, min(x.sex) AS sex FROM seen s JOIN sexes x USING (subject_id)
        GROUP BY s.tbl, s.code HAVING min(x.sex) = max(x.sex)
          AND count(*) >= {config.sex_specific_min_subjects}"""
    )


def make_codes(work: Workspace, tables: tuple[str, ...], described: pa.Table) -> pa.Table:
    """The code table (code_schema), one row a (table, code) of `event`.

    Args:
        work: holds what `describe_events` makes.
        tables: table names by number.
        described: columns tbl (uint16 or null for any), code, description, concept_id,
            vocabulary_id, domain_id, concept_class_id, parent_codes.
    """
    work.connection.register("described", described)
    found = work.table(
        f"""SELECT e.tbl, e.code, min(d.description) AS description,
          COALESCE(min(d.concept_id), 0) AS concept_id, min(d.vocabulary_id) AS vocabulary_id,
          min(d.domain_id) AS domain_id, min(d.concept_class_id) AS concept_class_id,
          COALESCE(min(d.parent_codes), []::VARCHAR[]) AS parent_codes, min(s.sex) AS sex_specific,
          bool_or(e.role = {_VISIT} AND i.code IS NOT NULL) AS is_inpatient
        FROM event_kind e
        LEFT JOIN described d ON e.code = d.code AND (d.tbl IS NULL OR d.tbl = e.tbl)
        LEFT JOIN code_sex s ON e.tbl = s.tbl AND e.code = s.code
        LEFT JOIN inpatient_code i ON e.code = i.code
        GROUP BY e.tbl, e.code ORDER BY e.tbl, e.code"""
    )
    work.connection.unregister("described")
    names = pa.array(tables, pa.string()).take(found["tbl"].combine_chunks())
    columns = {"table": names} | {name: found[name] for name in found.column_names if name != "tbl"}
    return pa.table(
        [columns[field.name].cast(field.type) for field in code_schema()], schema=code_schema()
    )


_VISIT = int(Role.VISIT)
