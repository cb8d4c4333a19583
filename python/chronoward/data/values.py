"""Values after their codes are known: units converted or assumed, rare text removed.

Works on `coded`, one row an event-to-be (a record of several ingredients has several), and writes
the CODE events. What depends on other records (dominant units, text categories) comes from small
tables of counts and exact quantiles, so the result does not depend on the order of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from chronoward.data.rules import Rule
from chronoward.data.units import conversion, unit_name
from chronoward.data.workspace import changed, changed_if
from chronoward.schema import Role

if TYPE_CHECKING:
    from chronoward.data.config import IngestConfig
    from chronoward.data.workspace import Workspace


def make_unit_names(work: Workspace) -> None:
    """Makes `unit_dim` (unit, unit_text, name) for every pair that kept records have."""
    rows = work.rows(
        """SELECT DISTINCT r.unit, r.unit_text, c.known_code FROM record r
        LEFT JOIN concept_dim c ON r.unit = c.concept_id WHERE r.gone = 0
          AND (r.unit IS NOT NULL OR r.unit_text IS NOT NULL)"""
    )
    names = [
        (unit, text, unit_name(unit, code.split("/", 1)[1] if code else None, text))
        for unit, text, code in rows
    ]
    work.add_rows(
        "unit_dim",
        pa.table(
            {
                "unit": pa.array([row[0] for row in names], pa.int64()),
                "unit_text": pa.array([row[1] for row in names], pa.string()),
                "name": pa.array([row[2] for row in names], pa.string()),
            }
        ),
    )


def convert_units(work: Workspace) -> None:
    """Makes `conversion_dim` (code, unit, target, factor, shift) from the pairs in `coded`."""
    rows = work.rows(
        "SELECT DISTINCT code, unit FROM coded WHERE number IS NOT NULL AND unit IS NOT NULL"
    )
    found = [(code, unit, conversion(code, unit)) for code, unit in rows]
    kept = [(code, unit, how) for code, unit, how in found if how is not None]
    work.add_rows(
        "conversion_dim",
        pa.table(
            {
                "code": pa.array([code for code, _, _ in kept], pa.string()),
                "unit": pa.array([unit for _, unit, _ in kept], pa.string()),
                "target": pa.array([how.unit for _, _, how in kept], pa.string()),
                "factor": pa.array([how.factor for _, _, how in kept], pa.float64()),
                "shift": pa.array([how.offset for _, _, how in kept], pa.float64()),
            }
        ),
    )
    work.run(
        """CREATE TABLE measured AS SELECT c.* EXCLUDE (number, unit),
          CASE WHEN d.code IS NULL THEN c.number ELSE c.number * d.factor + d.shift END AS number,
          COALESCE(d.target, c.unit) AS unit, d.code IS NOT NULL AS is_converted
        FROM coded c LEFT JOIN conversion_dim d
          ON c.code = d.code AND c.unit = d.unit AND c.number IS NOT NULL"""
    )
    work.drop("coded", "conversion_dim")


def find_dominant_units(work: Workspace) -> None:
    """Makes `unit_assumption` (tbl, code, unit): null unit where the quantiles disagree.

    They agree when the values without unit have their median between the 10th and 90th percentile
    of the dominant unit's values, and their quartiles between its 1st and 99th.
    """
    work.run(
        """CREATE TABLE unit_assumption AS WITH counted AS (
          SELECT tbl, code, unit, count(*) AS n,
            quantile_disc(number, [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]) AS q
          FROM measured WHERE number IS NOT NULL AND (tbl, code) IN (
            SELECT (tbl, code) FROM measured WHERE number IS NOT NULL AND unit IS NULL)
          GROUP BY tbl, code, unit),
        dominant AS (SELECT tbl, code, arg_max(unit, (n, unit)) AS unit,
            arg_max(q, (n, unit)) AS q FROM counted WHERE unit IS NOT NULL GROUP BY tbl, code)
        SELECT d.tbl, d.code, CASE WHEN m.q[4] BETWEEN d.q[2] AND d.q[6] AND m.q[3] >= d.q[1]
          AND m.q[5] <= d.q[7] THEN d.unit END AS unit
        FROM dominant d JOIN counted m ON d.tbl = m.tbl AND d.code = m.code AND m.unit IS NULL"""
    )


def find_text_categories(work: Workspace, config: IngestConfig) -> None:
    """Makes `text_category` (tbl, code, text): the top k with enough subjects."""
    work.run(
        f"""CREATE TABLE text_category AS SELECT tbl, code, text FROM (
          SELECT tbl, code, text, count(*) AS n, count(DISTINCT subject_id) AS subjects,
            row_number() OVER (PARTITION BY tbl, code ORDER BY count(*) DESC, text) AS place
          FROM measured WHERE text IS NOT NULL AND NOT fixed_text GROUP BY tbl, code, text)
        WHERE place <= {config.text_top_k} AND subjects >= {config.text_min_subjects}"""
    )


def add_code_events(work: Workspace) -> None:
    """Adds CODE events from `measured`; makes `value_change` (rid, changes)."""
    work.run(
        f"""INSERT INTO event SELECT m.subject_id, m.available, {int(Role.CODE)}, m.tbl, m.code,
          COALESCE(m.unit, a.unit), (m.number + 0.0)::FLOAT,
          CASE WHEN m.fixed_text OR t.text IS NOT NULL THEN m.text END, m.time, m.vid, NULL
        FROM measured m
        LEFT JOIN unit_assumption a ON m.tbl = a.tbl AND m.code = a.code AND m.unit IS NULL
          AND m.number IS NOT NULL
        LEFT JOIN text_category t ON m.tbl = t.tbl AND m.code = t.code AND m.text = t.text"""
    )
    work.run(
        f"""CREATE TABLE value_change AS SELECT rid, bit_or(changes) AS changes FROM (
          SELECT m.rid, {changed_if("m.is_converted", Rule.UNIT_CONVERTED)}
            | CASE WHEN a.code IS NULL THEN 0::UBIGINT
                WHEN a.unit IS NULL THEN {changed(Rule.UNIT_MISSING)}
                ELSE {changed(Rule.UNIT_ASSUMED)} END
            | {
            changed_if("m.text IS NOT NULL AND NOT m.fixed_text AND t.text IS NULL", Rule.TEXT_RARE)
        } AS changes
          FROM measured m
          LEFT JOIN unit_assumption a ON m.tbl = a.tbl AND m.code = a.code AND m.unit IS NULL
            AND m.number IS NOT NULL
          LEFT JOIN text_category t ON m.tbl = t.tbl AND m.code = t.code AND m.text = t.text)
        WHERE changes <> 0 GROUP BY rid"""
    )
    work.drop("measured", "unit_assumption", "text_category")
