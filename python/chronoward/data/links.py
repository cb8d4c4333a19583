"""Which visit a record belongs to, and when it could have been known.

`link` holds (rid, vid, how): how = 0 its own link holds, 1 clamped to the visit's start, 2 linked
again by date, 3 an artificial visit, 4 the source has no visits. Artificial visits join `visit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.data.omop_subjects import day_end
from chronoward.data.omop_tables import in_calendar
from chronoward.data.rules import Rule
from chronoward.data.visits import OTHER
from chronoward.data.workspace import changed, changed_if, number_list, removed

if TYPE_CHECKING:
    from chronoward.data.config import IngestConfig
    from chronoward.data.workspace import Workspace

ARTIFICIAL_CODE = "Visit/0"
EARLY_HOURS = 24
"""A record up to this long before its linked visit still belongs to it."""

_COVERS = """CASE WHEN r.date_only THEN r.time >= date_trunc('day', v.start)
        AND r.time <= date_trunc('day', v.finish)
    ELSE r.time BETWEEN v.start AND v.finish END"""


def link_records(work: Workspace, chosen: str = "r.gone = 0") -> None:
    """Makes `link` for the kept records and adds artificial visits to `visit`.

    Args:
        work: holds `record`, `visit` and `visit_map`.
        chosen: SQL condition on the records (alias `r`) that belong into visits.
    """
    if not work.value("SELECT count(*) FROM visit"):
        work.run(
            "CREATE TABLE link AS SELECT rid, NULL::BIGINT AS vid, 4::UTINYINT AS how "
            f"FROM record r WHERE {chosen}"
        )
        return
    early = f"""CASE WHEN r.date_only THEN r.time = date_trunc('day', v.start) - to_days(1)
        ELSE r.time < v.start AND r.time >= v.start - to_hours({EARLY_HOURS}) END"""
    work.run(
        f"""CREATE TABLE link AS SELECT r.rid, v.vid,
          CASE WHEN {_COVERS} THEN 0 ELSE 1 END::UTINYINT AS how
        FROM record r JOIN visit_map m ON r.visit_ref = m.ref AND r.subject_id = m.subject_id
        JOIN visit v ON m.vid = v.vid WHERE {chosen} AND ({_COVERS} OR {early})"""
    )
    work.run(
        f"""CREATE TABLE unlinked AS SELECT r.rid, r.subject_id, r.time, r.date_only,
          r.death, CASE WHEN r.date_only THEN {day_end("r.time")} ELSE r.time END AS latest
        FROM record r WHERE {chosen} AND r.rid NOT IN (SELECT rid FROM link)"""
    )
    work.run(
        f"""CREATE TABLE nearest AS SELECT r.rid, r.subject_id, r.time, r.date_only, r.death,
          r.latest, v.vid, COALESCE({_COVERS}, false) AS covers
        FROM unlinked r ASOF LEFT JOIN (SELECT * FROM visit) v
          ON r.subject_id = v.subject_id AND r.latest >= v.start"""
    )
    work.run("INSERT INTO link SELECT rid, vid, 2 FROM nearest WHERE covers")
    _add_artificial_visits(work)
    work.drop("unlinked", "nearest")


def _add_artificial_visits(work: Workspace) -> None:
    """One visit for the records of a subject and day that no visit covers, between two visits."""
    work.run(
        """CREATE TABLE alone AS SELECT rid, subject_id, LEAST(latest, death) AS known,
          dense_rank() OVER (ORDER BY subject_id, date_trunc('day', time), COALESCE(vid, 0))
          AS place FROM nearest WHERE NOT covers"""
    )
    first = work.value("SELECT max(vid) FROM visit")
    work.run(
        f"""INSERT INTO visit (vid, subject_id, class, timed, by_length, concept, code, start,
          finish, is_clamped, is_artificial)
        SELECT {first} + place, any_value(subject_id), {OTHER}, true, false, 0,
          '{ARTIFICIAL_CODE}', min(known), max(known), false, true FROM alone GROUP BY place"""
    )
    work.run(f"INSERT INTO link SELECT rid, {first} + place, 3 FROM alone")
    work.drop("alone")


def number_visits(work: Workspace) -> None:
    """Makes `visit_number`: 0.. within the subject, in order of start."""
    work.run(
        """CREATE TABLE visit_number AS SELECT vid, (row_number() OVER (PARTITION BY subject_id
          ORDER BY start, finish, is_artificial, vid) - 1)::BIGINT AS visit_id FROM visit"""
    )


def available_time(billed: str) -> str:
    """SQL of a record's available time.

    Args:
        billed: condition that says the record (alias `r`) is known when its visit is billed.
    """
    own = "l.how < 3"
    return f"""LEAST(r.death, CASE
        WHEN {own} AND {billed} THEN GREATEST(r.time, v.finish)
        WHEN {own} AND r.date_only AND v.timed THEN v.finish
        WHEN {own} AND r.date_only THEN GREATEST(v.start, LEAST({day_end("r.time")}, v.finish))
        WHEN {own} THEN LEAST(GREATEST(r.time, v.start), v.finish)
        WHEN r.date_only THEN {day_end("r.time")} ELSE r.time END)"""


def link_changes(billed: str) -> str:
    """SQL of the bits that linking and availability add to a record's changes.

    Args:
        billed: as in `available_time`.
    """
    own = "l.how < 3"
    stamped = f"({own} AND {billed} AND r.time < v.finish)"
    return f"""(CASE l.how WHEN 1 THEN {changed(Rule.CLAMPED_TO_VISIT)}
        WHEN 2 THEN {changed(Rule.RELINKED_BY_DATE)}
        WHEN 3 THEN {changed(Rule.ARTIFICIAL_VISIT)} ELSE 0::UBIGINT END
      | CASE WHEN {stamped} THEN {changed(Rule.STAMPED_DIAGNOSIS)}
        WHEN NOT r.date_only OR ({own} AND {billed}) THEN 0::UBIGINT
        WHEN {own} AND v.timed THEN {changed(Rule.DATE_ONLY_IN_VISIT)}
        ELSE {changed(Rule.DATE_ONLY_DAY)} END)"""


def artificial_change() -> str:
    """SQL of the bit for artificial visits alone: a source without links has none to mend."""
    return changed_if("l.how = 3", Rule.ARTIFICIAL_VISIT)


def billed_condition(config: IngestConfig, condition_table: int, drg_concepts: str) -> str:
    """SQL condition on record `r`: a diagnosis (or DRG) that is known when the stay is billed."""
    return f"""(r.tbl = {condition_table} AND r.type IN {number_list(config.billing_types)}
        AND COALESCE(r.status, 0) NOT IN {number_list(config.admission_statuses)}
        OR r.concept IN {drg_concepts} OR r.source_concept IN {drg_concepts})"""


def place_details(work: Workspace, config: IngestConfig, subject_gone: str) -> None:
    """Makes `detail` (events) and `detail_record` (ledger) from `detail_stage`.

    A detail is cut to its visit; one that no visit covers is dropped.
    """
    start, end = "COALESCE(s.moment, s.day)", "COALESCE(s.end_at, s.end_day)"
    finish = f"CASE WHEN {in_calendar(end)} THEN {end} END"
    work.run(
        f"""CREATE TABLE detail_placed AS WITH copies AS (
          SELECT *, row_number() OVER (PARTITION BY subject_id, concept, code, moment, day, end_at,
            end_day, visit_ref ORDER BY key) AS copy FROM detail_stage),
        timed AS (SELECT s.*, {start} AS start, {finish} AS finish, p.death,
          (CASE {subject_gone} WHEN s.copy > 1 THEN {removed(Rule.EXACT_DUPLICATE)}
          WHEN s.start_bad OR NOT {in_calendar(start)} THEN {removed(Rule.UNPARSABLE_TIME)}
          WHEN {start} IS NULL THEN {removed(Rule.MISSING_TIME)}
          WHEN year({start}) IN {number_list(config.sentinel_years)}
            THEN {removed(Rule.SENTINEL_TIME)}
          WHEN {start} > p.death THEN {removed(Rule.AFTER_DEATH)}
          ELSE 0::UTINYINT END)::UTINYINT AS gone
          FROM copies s LEFT JOIN subject p ON s.subject_id = p.subject_id),
        owned AS (SELECT t.*, m.vid AS own FROM timed t LEFT JOIN visit_map m
          ON t.visit_ref = m.ref AND t.subject_id = m.subject_id)
        SELECT o.*, n.vid AS near FROM owned o ASOF LEFT JOIN
          (SELECT * FROM visit WHERE NOT is_artificial) n
          ON o.subject_id = n.subject_id AND o.start >= n.start"""
    )
    work.run(
        f"""CREATE TABLE detail_settled AS SELECT d.tbl, d.key, d.subject_id, d.concept, d.code,
          v.vid, GREATEST(d.start, v.start) AS start,
          LEAST(COALESCE(CASE WHEN d.finish >= d.start THEN d.finish END, v.finish), v.finish)
            AS finish,
          CASE WHEN d.gone = 0 AND (v.vid IS NULL OR GREATEST(d.start, v.start) > v.finish
              OR d.finish < v.start) THEN {removed(Rule.DETAIL_WITHOUT_VISIT)}
            ELSE d.gone END::UTINYINT AS gone,
          {changed_if("d.finish IS NULL", Rule.MISSING_DETAIL_END)}
          | {changed_if("d.finish < d.start", Rule.END_BEFORE_START)}
          | {changed_if("d.own IS NULL", Rule.RELINKED_BY_DATE)} AS changes
        FROM detail_placed d LEFT JOIN visit v ON v.vid = COALESCE(d.own, d.near)"""
    )
    work.run("UPDATE detail_settled SET changes = 0 WHERE gone <> 0")
    work.run(
        """CREATE TABLE detail AS SELECT subject_id, vid, start, finish, concept, code
        FROM detail_settled WHERE gone = 0"""
    )
    work.run("""CREATE TABLE detail_record AS SELECT tbl, key, gone, changes FROM detail_settled""")
    work.drop("detail_stage", "detail_placed", "detail_settled")
