"""Visits made disjoint: ends mended, overlaps merged, emergency visits linked, the rest clamped.

Input is `visit_stage`, one row a source visit; the same code serves OMOP and MEDS. Steps, each a
small table: `visit_raw` (times, class) → `visit_group` (merged within class) → `visit_home` (which
visit absorbs a group) → `visit` (disjoint per subject) and `visit_map` (source visit → visit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.data.omop_subjects import day_end
from chronoward.data.omop_tables import in_calendar
from chronoward.data.rules import Rule
from chronoward.data.workspace import changed, changed_if, number_list, removed, text_list

if TYPE_CHECKING:
    from chronoward.data.config import IngestConfig
    from chronoward.data.workspace import Workspace

INPATIENT, EMERGENCY, OTHER = 1, 2, 3
INPATIENT_CODES = (
    "VISIT/IP", "VISIT/ERIP", "VISIT/ICU", "VISIT/INPATIENT", "VISIT/IMP", "VISIT/ACUTE",
    "VISIT/NONAC",
)  # fmt: skip
EMERGENCY_CODES = ("VISIT/ER", "VISIT/ED", "VISIT/EMER", "VISIT/EMERGENCY")
"""Visit codes (upper case) of sources without concepts, by class."""
DIED = (4216643, 44814686)
"""Discharge concepts that say the person died."""

VISIT_COLUMNS = """
    tbl USMALLINT, key VARCHAR, ref BIGINT, subject_id BIGINT, concept BIGINT, code VARCHAR,
    moment TIMESTAMP, day TIMESTAMP, start_bad BOOLEAN, end_at TIMESTAMP, end_day TIMESTAMP,
    end_bad BOOLEAN, type BIGINT, discharge BIGINT, discharge_code VARCHAR"""

_SAME = (
    "subject_id, concept, code, moment, day, end_at, end_day, start_bad, end_bad, type, discharge"
)


def is_midnight(column: str) -> str:
    """Whether a timestamp lies at 00:00:00."""
    return f"({column} = date_trunc('day', {column}))"


def place_visits(work: Workspace, config: IngestConfig, subject_gone: str) -> None:
    """Makes `visit_raw` from `visit_stage`: start, finish, date-only flags, `gone`, `changes`.

    Deaths are not yet known here; `settle_after_death` applies them.
    """
    sentinel = number_list(config.sentinel_years)
    start = "COALESCE(s.moment, s.day)"
    work.run(
        f"""CREATE TABLE visit_midnight AS SELECT type FROM visit_stage WHERE moment IS NOT NULL
        GROUP BY type HAVING avg({is_midnight("moment")}::INTEGER) >= {config.midnight_share}"""
    )
    midnight = "m.found IS NOT NULL"
    work.run(
        f"""CREATE TABLE visit_raw AS WITH copies AS (
          SELECT *, row_number() OVER (PARTITION BY {_SAME} ORDER BY ref, key) AS copy,
            min(ref) OVER (PARTITION BY {_SAME}) AS same_as FROM visit_stage),
        flagged AS (SELECT s.*, CASE WHEN {in_calendar(start)} THEN {start} END AS start, p.birth,
          s.moment IS NULL OR ({is_midnight("s.moment")} AND {midnight}) AS start_only,
          s.end_at IS NULL OR ({is_midnight("s.end_at")} AND {midnight}) AS end_only,
          COALESCE(s.end_at, s.end_day) AS end_raw,
          (CASE {subject_gone} WHEN s.copy > 1 THEN {removed(Rule.EXACT_DUPLICATE)}
            WHEN s.start_bad OR NOT {in_calendar(start)} THEN {removed(Rule.UNPARSABLE_TIME)}
            WHEN {start} IS NULL THEN {removed(Rule.MISSING_TIME)}
            WHEN year({start}) IN {sentinel} THEN {removed(Rule.SENTINEL_TIME)}
            WHEN date_trunc('day', {start}) < date_trunc('day', p.birth) - to_days(
              {config.prenatal_days if config.prenatal_policy == "keep" else 0})
              THEN {removed(Rule.BEFORE_BIRTH)}
            ELSE 0::UTINYINT END)::UTINYINT AS gone
          FROM copies s LEFT JOIN subject p ON s.subject_id = p.subject_id
          LEFT JOIN (SELECT type, true AS found FROM visit_midnight) m
            ON s.type IS NOT DISTINCT FROM m.type),
        ended AS (SELECT *,
            year(end_raw) IN {sentinel} OR NOT {in_calendar("end_raw")} AS end_sentinel,
          CASE WHEN start_only OR end_only
               THEN date_trunc('day', end_raw) < date_trunc('day', start)
               ELSE end_raw < start END AS end_early FROM flagged)
        SELECT tbl, key, ref, same_as, subject_id, concept, code, type, discharge, discharge_code,
          start_only, gone,
          CASE WHEN start_only THEN date_trunc('day', start) ELSE start END AS start,
          CASE WHEN end_raw IS NULL OR end_sentinel OR end_early THEN NULL
               WHEN end_only THEN {
            day_end("date_trunc('day', end_raw)")
        } ELSE end_raw END AS finish,
          end_raw IS NOT NULL AND end_only AND NOT end_sentinel AND NOT end_early AS end_only,
          {_end_changes()} | {
            changed_if(
                "date_trunc('day', start) < date_trunc('day', birth)",
                Rule.PRENATAL,
            )
        } AS changes FROM ended"""
    )
    work.drop("visit_midnight", "visit_stage")


def _end_changes() -> str:
    return f"""CASE WHEN end_bad AND end_raw IS NULL THEN {changed(Rule.UNPARSABLE_END)}
        WHEN end_raw IS NULL THEN {changed(Rule.MISSING_VISIT_END)}
        WHEN end_sentinel THEN {changed(Rule.SENTINEL_END)}
        WHEN end_early THEN {changed(Rule.END_BEFORE_START)} ELSE 0::UBIGINT END"""


def find_discharge_deaths(work: Workspace, future: str = "false") -> None:
    """Makes `discharge_death`: the earliest visit end whose discharge says died, per subject.

    Args:
        work: the database.
        future: SQL condition on `r.start` that says the visit lies after the extract date.
    """
    died = number_list(DIED)
    work.run(
        f"""CREATE TABLE discharge_death AS SELECT subject_id, min(finish) AS finish,
        arg_min(key, (finish, key)) AS key FROM visit_raw r WHERE gone = 0
          AND discharge IN {died} AND finish IS NOT NULL AND NOT ({future}) GROUP BY subject_id"""
    )


def settle_after_death(work: Workspace, future: str) -> None:
    """Applies deaths and the extract date to `visit_raw`.

    Args:
        work: the database.
        future: SQL condition on `r.start` that says the visit lies after the extract date.
    """
    late = (
        "CASE WHEN r.start_only THEN r.start > date_trunc('day', p.death) "
        "ELSE r.start > p.death END"
    )
    cut = (
        "CASE WHEN r.end_only THEN date_trunc('day', r.finish) > date_trunc('day', p.death) "
        "ELSE r.finish > p.death END"
    )
    work.run(
        f"""CREATE TABLE visit_lived AS SELECT r.* EXCLUDE (gone, finish, changes), p.death,
        CASE WHEN r.gone = 0 AND {future} THEN {removed(Rule.FUTURE_DATE)}
             WHEN r.gone = 0 AND {late} THEN {removed(Rule.AFTER_DEATH)} ELSE r.gone END AS gone,
        CASE WHEN r.finish > p.death THEN p.death ELSE r.finish END AS finish,
        r.changes | {changed_if(cut, Rule.VISIT_END_AFTER_DEATH)} | {
            changed_if(
                "d.key = r.key AND d.finish = p.death AND NOT EXISTS (SELECT 1 FROM death_record x "
                "WHERE x.subject_id = r.subject_id AND x.gone = 0 AND x.time <= d.finish)",
                Rule.DEATH_FROM_DISCHARGE,
            )
        } AS changes
        FROM visit_raw r LEFT JOIN subject p ON r.subject_id = p.subject_id
        LEFT JOIN discharge_death d ON r.subject_id = d.subject_id"""
    )
    work.run("UPDATE visit_lived SET changes = 0 WHERE gone <> 0")
    work.drop("visit_raw")


def extend_visits(work: Workspace, config: IngestConfig) -> None:
    """Gives missing ends, extends visits to linked records of their last date, sets the class.

    `visit_extent` (ref, last_any, last_same_day) holds the last times of each visit's records, of a
    date its end: of those on other days than its start, and of those after its end, on its day.
    Makes `visit_ended`.
    """
    missing = "v.finish IS NULL"
    first_end = f"CASE WHEN v.start_only THEN {day_end('v.start')} ELSE v.start END"
    finish = f"""LEAST(v.death, CASE WHEN {missing}
        THEN GREATEST({first_end}, COALESCE(e.last_any, v.start))
        ELSE GREATEST(v.finish, COALESCE(e.last_same_day, v.finish)) END)"""
    hours = f"INTERVAL {config.inpatient_hours} HOUR"
    length = "CASE WHEN end_only THEN date_trunc('day', finish) ELSE finish END - start"
    inpatient = (
        f"COALESCE(concept IN {number_list(config.inpatient_concepts)} "
        f"OR upper(code) IN {text_list(INPATIENT_CODES)}, false)"
    )
    emergency = (
        f"COALESCE(concept IN {number_list(config.emergency_concepts)} "
        f"OR upper(code) IN {text_list(EMERGENCY_CODES)}, false)"
    )
    work.run(
        f"""CREATE TABLE visit_ended AS WITH ended AS (
          SELECT v.* EXCLUDE (finish, end_only), {finish} AS finish,
            v.end_only OR ({missing} AND v.start_only) AS end_only,
            NOT {missing} AND e.last_same_day IS NOT NULL AS is_extended
          FROM visit_lived v LEFT JOIN visit_extent e ON v.ref = e.ref AND v.gone = 0)
        SELECT * EXCLUDE (changes, is_extended), NOT (start_only AND end_only) AS timed,
          CASE WHEN {inpatient} OR {length} >= {hours} THEN {INPATIENT}
               WHEN {emergency} THEN {EMERGENCY}
               ELSE {OTHER} END AS class,
          NOT {inpatient} AND {length} >= {hours} AS by_length,
          CASE WHEN gone <> 0 THEN 0 ELSE changes
            | {changed_if("is_extended", Rule.VISIT_EXTENDED)}
            | {
            changed_if(
                f"NOT {inpatient} AND {length} >= {hours}",
                Rule.VISIT_INPATIENT_BY_LENGTH,
            )
        } END AS changes FROM ended"""
    )
    work.drop("visit_lived", "visit_extent")


def merge_visits(work: Workspace, config: IngestConfig) -> None:
    """Merges overlapping visits of a class; makes `visit_member` and `visit_group`."""
    order = "start, finish DESC, ref, key"
    opens = "reach IS NULL OR start > reach OR (start = reach AND previous < start)"
    if not config.merge_visits:
        opens = "true"
    work.run(
        f"""CREATE TABLE visit_member AS WITH reached AS (
          SELECT *, max(finish) OVER before AS reach, lag(start) OVER whole AS previous
          FROM visit_ended WHERE gone = 0
          WINDOW whole AS (PARTITION BY subject_id, class ORDER BY {order}),
            before AS (PARTITION BY subject_id, class ORDER BY {order}
                       ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)),
        opened AS (SELECT *, {opens} AS opens FROM reached),
        numbered AS (SELECT *, count(*) FILTER (opens) OVER whole AS part,
            row_number() OVER whole AS place FROM opened
          WINDOW whole AS (PARTITION BY subject_id, class ORDER BY {order}))
        SELECT *, first_value(ref) OVER (
            PARTITION BY subject_id, class, part ORDER BY {order}) AS vid FROM numbered"""
    )
    work.run(
        """CREATE TABLE visit_group AS SELECT vid, subject_id, class, min(start) AS start,
          max(finish) AS finish, bool_or(timed) AS timed, bool_or(by_length) AS by_length,
          arg_min(concept, place) AS concept, arg_min(code, place) AS code,
          arg_max(discharge, (finish, ref)) FILTER (discharge > 0) AS discharge,
          arg_max(discharge_code, (finish, ref)) FILTER (discharge_code IS NOT NULL)
            AS discharge_code
        FROM visit_member GROUP BY vid, subject_id, class"""
    )


def absorb_visits(work: Workspace, config: IngestConfig) -> None:
    """Links emergency visits to stays and puts visits inside a stay into it: `visit_home`.

    A stay linked to an emergency visit starts with it; the emergency visit becomes a detail.
    """
    hours = f"INTERVAL {config.ed_link_hours} HOUR"
    days = -(-config.ed_link_hours // 24)
    compared = "CASE WHEN e.timed THEN e.finish ELSE date_trunc('day', e.finish) END"
    near = f"""CASE WHEN e.timed THEN e.finish >= s.start - {hours} ELSE
        date_trunc('day', e.finish) >= date_trunc('day', s.start) - to_days({days}) END"""
    # of stays with one end the one that starts first, of those with one start the one that had
    # it before emergency visits moved others there: ASOF would take any
    first = "row_number() OVER (PARTITION BY subject_id, finish ORDER BY start) = 1"
    last = "row_number() OVER (PARTITION BY subject_id, start ORDER BY own_start DESC) = 1"
    work.run(
        f"""CREATE TABLE visit_emergency AS SELECT e.vid, s.vid AS home, e.subject_id, e.start,
          e.finish, e.concept, e.code FROM (SELECT *, {compared} AS compared FROM visit_group e
            WHERE class = {EMERGENCY}) e
        ASOF JOIN (SELECT * FROM visit_group WHERE class = {INPATIENT} QUALIFY {first}) s
          ON e.subject_id = s.subject_id AND e.compared <= s.finish
        WHERE {config.merge_visits} AND {near}"""
    )
    work.run(
        """CREATE TABLE visit_stay AS SELECT g.* EXCLUDE (start, timed),
          LEAST(g.start, COALESCE(e.start, g.start)) AS start, g.start AS own_start, g.timed
        FROM visit_group g LEFT JOIN (SELECT home, min(start) AS start FROM visit_emergency
          GROUP BY home) e ON g.vid = e.home
        WHERE g.vid NOT IN (SELECT vid FROM visit_emergency)"""
    )
    inside = """CASE WHEN o.timed THEN o.finish <= s.finish AND o.start >= s.start
        ELSE date_trunc('day', o.start) >= date_trunc('day', s.start)
         AND date_trunc('day', o.finish) <= date_trunc('day', s.finish) END"""
    latest = "CASE WHEN o.timed THEN o.start ELSE o.finish END"
    work.run(
        f"""CREATE TABLE visit_inside AS SELECT o.vid, s.vid AS home FROM
          (SELECT *, {latest} AS compared FROM visit_stay o WHERE class = {OTHER}) o
        ASOF JOIN (SELECT * FROM visit_stay WHERE class = {INPATIENT} QUALIFY {last}) s
          ON o.subject_id = s.subject_id AND o.compared >= s.start
        WHERE {config.merge_visits} AND {inside}"""
    )
    work.run(
        """CREATE TABLE visit_home AS SELECT vid, home FROM visit_emergency
        UNION ALL SELECT vid, home FROM visit_inside"""
    )


def finish_visits(work: Workspace, config: IngestConfig) -> None:
    """Makes `visit` (disjoint), `visit_map` and `visit_record` (the ledger's view)."""
    order = "start, class, finish DESC, vid"
    if not config.merge_visits:
        order = f"start, class = {INPATIENT}, vid"
    work.run(
        f"""CREATE TABLE visit AS WITH reached AS (
          SELECT *, max(finish) OVER (PARTITION BY subject_id ORDER BY {order}
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reach
          FROM visit_stay WHERE vid NOT IN (SELECT vid FROM visit_inside))
        SELECT vid AS head, row_number() OVER (ORDER BY subject_id, {order}) AS vid, subject_id,
          class, timed, by_length, concept, code, discharge, discharge_code,
          GREATEST(start, COALESCE(reach, start)) AS start,
          GREATEST(finish, COALESCE(reach, finish)) AS finish,
          COALESCE(start < reach, false) AS is_clamped, false AS is_artificial FROM reached"""
    )
    work.run(
        """CREATE TABLE visit_map AS SELECT m.ref, m.subject_id, v.vid
        FROM visit_member m LEFT JOIN visit_home h ON m.vid = h.vid
        JOIN visit v ON v.head = COALESCE(h.home, m.vid)"""
    )
    work.run(
        f"""INSERT INTO visit_map SELECT e.ref, e.subject_id, m.vid FROM visit_ended e
        JOIN visit_map m ON e.same_as = m.ref AND e.subject_id = m.subject_id
        WHERE e.gone = {removed(Rule.EXACT_DUPLICATE)} AND e.ref <> e.same_as"""
    )
    work.run(
        f"""CREATE TABLE visit_record AS SELECT e.tbl, e.key, CASE WHEN e.gone <> 0 THEN e.gone
          WHEN NOT m.opens THEN {removed(Rule.VISIT_MERGED)}
          WHEN x.vid IS NOT NULL THEN {removed(Rule.ED_LINKED)}
          WHEN i.vid IS NOT NULL THEN {removed(Rule.OUTPATIENT_IN_STAY)}
          ELSE 0 END::UTINYINT AS gone, e.changes | {
            changed_if("v.is_clamped", Rule.VISIT_OVERLAP_CLAMPED)
        } AS changes
        FROM visit_ended e LEFT JOIN visit_member m ON e.gone = 0 AND e.ref = m.ref
          AND e.key = m.key
        LEFT JOIN visit_emergency x ON m.vid = x.vid LEFT JOIN visit_inside i ON m.vid = i.vid
        LEFT JOIN visit v ON m.vid = v.head"""
    )
    work.run("UPDATE visit_record SET changes = 0 WHERE gone <> 0")
    work.drop("visit_ended", "visit_member", "visit_group", "visit_stay", "visit_inside")
