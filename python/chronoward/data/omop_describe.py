"""What OMOP codes mean: names, vocabularies and ancestors for the code table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.data import concepts
from chronoward.data.links import ARTIFICIAL_CODE
from chronoward.data.omop_tables import table_number

if TYPE_CHECKING:
    import pyarrow as pa

    from chronoward.data.source import OmopSource
    from chronoward.data.workspace import Workspace


def describe_omop(work: Workspace, source: OmopSource) -> pa.Table:
    """Rows (tbl, code, concept_id, description, …, parent_codes) for every event code.

    Args:
        work: holds `code_origin`, `visit`, `detail`, `subject` and `concept_dim`.
        source: for the ancestors.
    """
    person, visit = table_number("person"), table_number("visit_occurrence")
    race = concepts.plain_code("Race", "p.race", "c.known_code")
    ethnicity = concepts.plain_code("Ethnicity", "p.ethnicity", "c.known_code")
    work.run(
        f"""CREATE OR REPLACE TABLE code_concept AS SELECT tbl, code, concept_id FROM code_origin
        UNION SELECT {visit}, code, min(concept) FROM visit GROUP BY code
        UNION SELECT {visit}, '{ARTIFICIAL_CODE}', 0 FROM visit_count WHERE n_made > 0
        UNION SELECT {visit}, discharge_code, min(discharge) FROM visit
          WHERE discharge_code IS NOT NULL GROUP BY discharge_code
        UNION SELECT {table_number("visit_detail")}, code, min(concept) FROM detail GROUP BY code
        UNION SELECT {person}, CASE gender WHEN {concepts.FEMALE} THEN 'Gender/F'
            WHEN {concepts.MALE} THEN 'Gender/M' END, gender FROM subject
          WHERE gender IN ({concepts.FEMALE}, {concepts.MALE})
        UNION SELECT {person}, {race}, min(p.race) FROM subject p
          LEFT JOIN concept_dim c ON p.race = c.concept_id WHERE p.race > 0 GROUP BY 2
        UNION SELECT {person}, {ethnicity}, min(p.ethnicity) FROM subject p
          LEFT JOIN concept_dim c ON p.ethnicity = c.concept_id WHERE p.ethnicity > 0 GROUP BY 2"""
    )
    work.connection.register("parents", concepts.make_parents(work, source))
    described = work.table(
        """SELECT o.tbl::USMALLINT AS tbl, o.code, COALESCE(c.concept_name, s.description)
            AS description, o.concept_id, c.vocabulary_id, c.domain_id, c.concept_class_id,
          p.parent_codes
        FROM code_concept o LEFT JOIN concept_dim c ON o.concept_id = c.concept_id
        LEFT JOIN parents p ON o.concept_id = p.concept_id
        LEFT JOIN (SELECT DISTINCT code, NULL::VARCHAR AS description FROM code_origin) s
          ON o.code = s.code"""
    )
    work.connection.unregister("parents")
    return described
