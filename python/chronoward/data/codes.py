"""The code table: what each (table, code) of the events means and where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from chronoward.schema import Role, code_schema

if TYPE_CHECKING:
    from chronoward.data.workspace import Workspace


def make_codes(work: Workspace, tables: tuple[str, ...], described: pa.Table) -> pa.Table:
    """The code table (code_schema), one row a (table, code) of `event`.

    Args:
        work: holds what `chronoward.data.meds_facts.register_facts` makes.
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
