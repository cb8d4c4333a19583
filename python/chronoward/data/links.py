"""What belongs to a visit beside records: its details; and what types of records say.

Records are linked to visits by the core (`chronoward.data.record_mend`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.data.omop_tables import in_calendar
from chronoward.data.rules import Rule
from chronoward.data.workspace import changed_if, number_list, removed

if TYPE_CHECKING:
    from chronoward.data.config import IngestConfig
    from chronoward.data.workspace import Workspace

ARTIFICIAL_CODE = "Visit/0"
DRUG_TYPES = {
    "order": (32838, 32833, 38000177, 581373, 32837, 38000180),
    "dispense": (32825, 38000175, 38000176, 581452, 44787730),
    "administration": (32818, 38000179, 38000180, 43542356),
}
"""Type concepts of drug records; a concept of two kinds is of the first."""


def drug_type(concept: int) -> str | None:
    """What a drug's type concept says: order, dispense or administration; None for others."""
    return next((kind for kind, concepts in DRUG_TYPES.items() if concept in concepts), None)


def place_visits(work: Workspace) -> None:
    """Makes `visit_place`: the place of each visit (0..) among its subject's, in order of start."""
    work.run(
        """CREATE TABLE visit_place AS SELECT vid, (row_number() OVER (PARTITION BY subject_id
          ORDER BY vid) - 1)::INTEGER AS place FROM visit"""
    )


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
          (SELECT * FROM visit) n
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
