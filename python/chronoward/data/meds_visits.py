"""Visits of a MEDS source: from chronoward's own columns, else from pairs of codes.

Both end in the tables that OMOP visits end in (`visit`, `visit_map`, `detail`), and in `silent`
(rid of records that are no event of their own) and `visit_settled` (rid, gone, changes for the
ledger).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.data import visits
from chronoward.data.visits import EMERGENCY, INPATIENT, OTHER
from chronoward.data.workspace import quote_text, text_list
from chronoward.schema import Role

if TYPE_CHECKING:
    from chronoward.data.config import IngestConfig, VisitPattern
    from chronoward.data.workspace import Workspace

_EMPTY_DETAIL = """CREATE TABLE detail (subject_id BIGINT, vid BIGINT, start TIMESTAMP,
    finish TIMESTAMP, concept BIGINT, code VARCHAR)"""


def read_visits(work: Workspace, config: IngestConfig) -> None:
    """Visits from rows of table visit_occurrence with visit_id and end_time.

    Disjoint visits, as chronoward writes them, are taken as they are; others are mended.
    """
    own = f"role = {int(Role.VISIT)} AND gone = 0"
    n_overlaps = work.value(
        f"""SELECT count(*) FROM (SELECT time, max(end_time) OVER (PARTITION BY subject_id
          ORDER BY time, end_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reach
        FROM record WHERE {own}) WHERE time < reach"""
    )
    work.run(
        f"CREATE TABLE silent AS SELECT rid FROM record WHERE role IN "
        f"({int(Role.VISIT)}, {int(Role.DETAIL)}, {int(Role.DISCHARGE)})"
    )
    work.run(
        f"""CREATE TABLE visit_key AS SELECT rid, subject_id, visit_ref AS visit_id FROM record
        WHERE {own}"""
    )
    work.run(
        f"""CREATE TABLE visit_left AS SELECT subject_id, visit_ref AS visit_id, code,
          row_number() OVER (PARTITION BY subject_id, visit_ref ORDER BY code) AS copy
        FROM record WHERE role = {int(Role.DISCHARGE)} AND gone = 0"""
    )
    if n_overlaps:
        _stage_from_rows(work, own)
        _mend(work, config)
    else:
        _take_visits(work, own)
    work.run(
        """UPDATE record SET visit_ref = k.rid FROM visit_key k
        WHERE record.subject_id = k.subject_id AND record.visit_ref = k.visit_id"""
    )
    if not n_overlaps:
        work.run(_EMPTY_DETAIL)
    work.run(
        f"""INSERT INTO detail SELECT r.subject_id, v.vid, GREATEST(r.time, v.start),
          LEAST(r.end_time, v.finish), NULL, r.code FROM record r
        JOIN visit_map m ON r.visit_ref = m.ref AND r.subject_id = m.subject_id
        JOIN visit v ON m.vid = v.vid
        WHERE r.role = {int(Role.DETAIL)} AND r.gone = 0 AND r.time <= v.finish
          AND r.end_time >= v.start"""
    )


def _take_visits(work: Workspace, own: str) -> None:
    inpatient = f"""(m.is_inpatient OR upper(r.code) IN {text_list(visits.INPATIENT_CODES)})"""
    emergency = f"upper(r.code) IN {text_list(visits.EMERGENCY_CODES)}"
    work.run(
        f"""CREATE TABLE visit AS SELECT r.rid AS head, r.rid + 1 AS vid, r.subject_id,
          CASE WHEN {inpatient} THEN {INPATIENT} WHEN {emergency} THEN {EMERGENCY} ELSE {OTHER} END
            AS class, true AS timed, false AS by_length, NULL::BIGINT AS concept, r.code,
          NULL::BIGINT AS discharge, d.code AS discharge_code, r.time AS start,
          LEAST(r.end_time, r.death) AS finish, false AS is_clamped, r.code = 'Visit/0'
            AS is_artificial
        FROM record r LEFT JOIN (SELECT code, bool_or(is_inpatient) AS is_inpatient FROM meds_code
          GROUP BY code) m ON r.code = m.code
        LEFT JOIN visit_left d ON d.subject_id = r.subject_id AND d.visit_id = r.visit_ref
          AND d.copy = 1
        WHERE {own}"""
    )
    work.run("CREATE TABLE visit_map AS SELECT head AS ref, subject_id, vid FROM visit")
    work.run(
        "CREATE TABLE visit_settled AS SELECT head AS rid, 0::UTINYINT AS gone, "
        "0::UBIGINT AS changes FROM visit"
    )


def _stage_from_rows(work: Workspace, own: str) -> None:
    work.run(f"CREATE TABLE visit_stage ({visits.VISIT_COLUMNS})")
    work.run(
        f"""INSERT INTO visit_stage SELECT r.tbl, r.rid::VARCHAR, r.rid, r.subject_id, NULL, r.code,
          r.time, NULL, false, r.end_time, NULL, false, NULL, NULL, d.code
        FROM record r LEFT JOIN visit_left d ON d.subject_id = r.subject_id
          AND d.visit_id = r.visit_ref AND d.copy = 1 WHERE {own}"""
    )


def _mend(work: Workspace, config: IngestConfig) -> None:
    """The shared steps from `visit_stage` to `visit`, `visit_map`, `detail`, `visit_settled`."""
    visits.place_visits(work, config, "WHEN p.subject_id IS NULL THEN 1::UTINYINT")
    visits.find_discharge_deaths(work)
    work.run(
        "CREATE TABLE IF NOT EXISTS death_record (subject_id BIGINT, gone UTINYINT, time TIMESTAMP)"
    )
    visits.settle_after_death(work, "false")
    visits.extend_visits(work, config)
    visits.merge_visits(work)
    visits.absorb_visits(work, config)
    visits.finish_visits(work)
    work.run(_EMPTY_DETAIL)
    work.run(
        """INSERT INTO detail SELECT e.subject_id, v.vid, GREATEST(e.start, v.start),
          GREATEST(LEAST(e.finish, v.finish), e.start, v.start), e.concept, e.code
        FROM visit_emergency e JOIN visit v ON v.head = e.home"""
    )
    work.run("UPDATE visit SET code = 'Visit/IP' WHERE by_length")
    work.run(
        "CREATE TABLE visit_settled AS SELECT key::BIGINT AS rid, gone, changes FROM visit_record"
    )


def pattern_visits(work: Workspace, config: IngestConfig) -> None:
    """Visits from start and end codes (IngestConfig.visit_patterns); none when no pattern fits."""
    work.run(
        """CREATE TABLE pair (start_rid BIGINT, end_rid BIGINT, subject_id BIGINT,
        start TIMESTAMP, finish TIMESTAMP, code VARCHAR, discharge_code VARCHAR, is_detail BOOLEAN,
        is_bare BOOLEAN)"""
    )
    for pattern in config.visit_patterns:
        _find_pairs(work, pattern)
    work.run(f"CREATE TABLE visit_stage ({visits.VISIT_COLUMNS})")
    work.run(
        """INSERT INTO visit_stage SELECT 0, start_rid::VARCHAR, start_rid, subject_id, NULL, code,
        start, NULL, false, finish, NULL, false, NULL, NULL, NULL FROM pair WHERE NOT is_detail"""
    )
    work.run("UPDATE record SET visit_ref = NULL")
    _mend(work, config)
    # What the ledger says of a pattern's record is what became of the record, not of the visit.
    work.run("UPDATE visit_settled SET gone = 0, changes = 0")
    _add_pattern_details(work)
    _choose_silent(work)


def _prefix(prefix: str) -> str:
    return f"(code = {quote_text(prefix)} OR starts_with(code, {quote_text(prefix + '//')}))"


def _find_pairs(work: Workspace, pattern: VisitPattern) -> None:
    """Adds a pattern's visits to `pair`: each start with the first end before the next start."""
    kept = f"gone = 0 AND role = {int(Role.CODE)} AND time IS NOT NULL"
    rest = "split_part(s.code, '//', 2)"
    code = (
        quote_text(pattern.visit_type)
        if pattern.visit_type is not None
        else f"'Visit/' || CASE WHEN {rest} = '' THEN s.code ELSE {rest} END"
    )
    bare = "NOT contains(s.code, '//')"
    if pattern.end is None:
        work.run(
            f"""INSERT INTO pair SELECT rid, NULL, subject_id, time, end_time, {code}, NULL,
            {str(pattern.is_detail).lower()}, {bare} FROM record s
            WHERE {kept} AND {_prefix(pattern.start)} AND end_time IS NOT NULL"""
        )
        return
    gone_to = "regexp_replace(x.code, '^[^/]*/+', '')"
    work.run(
        f"""INSERT INTO pair WITH marks AS (
          SELECT rid, subject_id, time, code, {_prefix(pattern.start)} AS opens FROM record
          WHERE {kept} AND ({_prefix(pattern.start)} OR {_prefix(pattern.end)})),
        followed AS (SELECT *, lead(rid) OVER w AS next_rid, lead(opens) OVER w AS next_opens
          FROM marks WINDOW w AS (PARTITION BY subject_id ORDER BY time, opens DESC, code, rid))
        SELECT s.rid, x.rid, s.subject_id, s.time, x.time, {code},
          CASE WHEN contains(x.code, '//') THEN 'Discharge/' || {gone_to} END,
          {str(pattern.is_detail).lower()}, {bare}
        FROM followed s JOIN marks x ON s.next_rid = x.rid
        WHERE s.opens AND NOT s.next_opens"""
    )


def _add_pattern_details(work: Workspace) -> None:
    work.run(
        """INSERT INTO detail SELECT p.subject_id, v.vid, GREATEST(p.start, v.start),
          LEAST(p.finish, v.finish), NULL, p.code
        FROM (SELECT * FROM pair WHERE is_detail) p ASOF JOIN visit v
          ON p.subject_id = v.subject_id AND p.start >= v.start WHERE p.start <= v.finish"""
    )


def _choose_silent(work: Workspace) -> None:
    """Records that the visit itself says: bare starts and ends, and the discharge at its end."""
    work.run(
        """CREATE TABLE leaving AS SELECT v.vid, p.end_rid, p.discharge_code FROM pair p
        JOIN visit_map m ON p.start_rid = m.ref JOIN visit v ON m.vid = v.vid
        WHERE NOT p.is_detail AND p.discharge_code IS NOT NULL AND p.finish = v.finish
        QUALIFY row_number() OVER (PARTITION BY v.vid ORDER BY p.discharge_code, p.start) = 1"""
    )
    work.run(
        """UPDATE visit SET discharge_code = l.discharge_code FROM leaving l
        WHERE visit.vid = l.vid"""
    )
    work.run(
        """CREATE TABLE silent AS SELECT start_rid AS rid FROM pair WHERE is_bare
          AND start_rid IN (SELECT ref FROM visit_map)
        UNION SELECT end_rid FROM pair WHERE discharge_code IS NULL AND end_rid IS NOT NULL
          AND start_rid IN (SELECT ref FROM visit_map)
        UNION SELECT end_rid FROM leaving"""
    )
    work.drop("pair", "leaving")
