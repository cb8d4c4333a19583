"""Concept ids to codes: `VOCABULARY/CONCEPT_CODE` where the concept table has them.

Only concepts that occur are looked up, so a full Athena vocabulary costs one scan. Visits of the
well-known types have the same codes with and without a concept table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from chronoward.data.omop_tables import Columns
from chronoward.data.workspace import quote_text, text_list

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chronoward.data.config import IngestConfig
    from chronoward.data.source import OmopSource
    from chronoward.data.workspace import Workspace

VISIT_CODES: dict[int, str] = {
    0: "Visit/0",
    262: "Visit/ERIP",
    581458: "Visit/Pharmacy",
    581476: "Visit/HomeVisit",
    581477: "Visit/OfficeVisit",
    5083: "Visit/Telehealth",
    9201: "Visit/IP",
    9202: "Visit/OP",
    9203: "Visit/ER",
    32036: "Visit/Lab",
    32037: "Visit/ICU",
    42898160: "Visit/LTCP",
}
FEMALE, MALE = 8532, 8507
LOCAL_CONCEPT = 2_000_000_000
INGREDIENT_VOCABULARIES = ("RxNorm", "RxNorm Extension")


def collect_used_concepts(work: Workspace, of_records: Iterable[int]) -> None:
    """Makes `used_concept`: every concept id that records, persons and visits mention."""
    work.add_rows(
        "record_concept", pa.table({"concept_id": pa.array(sorted(of_records), pa.int64())})
    )
    parts = ["SELECT concept_id FROM record_concept"]
    parts += [f"SELECT {column} FROM subject" for column in ("gender", "race", "ethnicity")]
    parts += ["SELECT concept FROM visit_lived", "SELECT discharge FROM visit_lived"]
    parts += ["SELECT concept FROM detail_stage"]
    work.run(
        "CREATE TABLE used_concept AS SELECT DISTINCT concept_id FROM ("
        + " UNION ALL ".join(parts)
        + ") WHERE concept_id IS NOT NULL"
    )
    work.drop("record_concept")


def make_concepts(
    work: Workspace, source: OmopSource, config: IngestConfig, drugs: Iterable[int]
) -> None:
    """Makes `ingredient` and `concept_dim` (concept_id, code, name and the rest of its row).

    Args:
        work: holds `used_concept`.
        source: for the vocabulary.
        config: the dials.
        drugs: standard concepts of drug records.
    """
    _make_ingredients(work, source, config, drugs)
    work.run(
        "INSERT INTO used_concept SELECT DISTINCT ingredient FROM ingredient "
        "WHERE ingredient NOT IN (SELECT concept_id FROM used_concept)"
    )
    table = source.tables.get("concept")
    if table is None:
        work.run(
            "CREATE TABLE known_concept (concept_id BIGINT, code VARCHAR, concept_name VARCHAR, "
            "vocabulary_id VARCHAR, domain_id VARCHAR, concept_class_id VARCHAR)"
        )
    else:
        table.require("concept_id", "concept_code", "vocabulary_id")
        c = Columns(table)
        vocabulary, code = c.text("vocabulary_id"), c.text("concept_code")
        work.run(
            f"""CREATE TABLE known_concept AS SELECT concept_id, min(code) AS code,
              min(concept_name) AS concept_name, min(vocabulary_id) AS vocabulary_id,
              min(domain_id) AS domain_id, min(concept_class_id) AS concept_class_id FROM (
            SELECT {c.integer("concept_id")} AS concept_id, {vocabulary} || '/' || {code} AS code,
              {c.text("concept_name")} AS concept_name, {vocabulary} AS vocabulary_id,
              {c.text("domain_id")} AS domain_id, {c.text("concept_class_id")} AS concept_class_id
            FROM {table.scan}) WHERE concept_id IN (SELECT concept_id FROM used_concept)
            GROUP BY concept_id"""
        )
    work.run(
        """CREATE TABLE concept_dim AS SELECT u.concept_id,
          COALESCE(k.code, 'OMOP/' || u.concept_id) AS code, k.code AS known_code, k.concept_name,
          k.vocabulary_id, k.domain_id, k.concept_class_id
        FROM used_concept u LEFT JOIN known_concept k USING (concept_id)"""
    )
    work.drop("known_concept")


def _make_ingredients(
    work: Workspace, source: OmopSource, config: IngestConfig, drugs: Iterable[int]
) -> None:
    """`ingredient` (drug, ingredient): drugs that are not ingredients themselves."""
    concept, ancestor = source.tables.get("concept"), source.tables.get("concept_ancestor")
    if concept is None or ancestor is None or config.concept_policy == "source":
        work.run("CREATE TABLE ingredient (drug BIGINT, ingredient BIGINT)")
        return
    concept.require("concept_id", "concept_class_id", "vocabulary_id")
    ancestor.require("ancestor_concept_id", "descendant_concept_id")
    c, a = Columns(concept), Columns(ancestor)
    positive = sorted(drug for drug in drugs if drug > 0)
    work.add_rows("drug_concept", pa.table({"concept_id": pa.array(positive, pa.int64())}))
    work.run(
        f"""CREATE TABLE ingredient AS WITH substances AS (
          SELECT {c.integer("concept_id")} AS id FROM {concept.scan}
          WHERE {c.text("concept_class_id")} = 'Ingredient'
            AND {c.text("vocabulary_id")} IN {text_list(INGREDIENT_VOCABULARIES)}),
        drugs AS (SELECT concept_id AS id FROM drug_concept
          WHERE concept_id NOT IN (SELECT id FROM substances WHERE id IS NOT NULL))
        SELECT DISTINCT d.id AS drug, s.id AS ingredient FROM (
          SELECT {a.integer("ancestor_concept_id")} AS up,
            {a.integer("descendant_concept_id")} AS down FROM {ancestor.scan}) a
        JOIN drugs d ON a.down = d.id JOIN substances s ON a.up = s.id"""
    )


def make_parents(work: Workspace, source: OmopSource) -> pa.Table:
    """Ancestors of the used concepts as (concept_id, parent_codes), nearest first."""
    concept, ancestor = source.tables.get("concept"), source.tables.get("concept_ancestor")
    if concept is None or ancestor is None:
        return pa.table(
            {
                "concept_id": pa.array([], pa.int64()),
                "parent_codes": pa.array([], pa.list_(pa.string())),
            }
        )
    c, a = Columns(concept), Columns(ancestor)
    levels = a.integer("min_levels_of_separation")
    return work.table(
        f"""WITH pairs AS (SELECT {a.integer("descendant_concept_id")} AS down,
            {a.integer("ancestor_concept_id")} AS up, COALESCE({levels}, 1) AS levels
          FROM {ancestor.scan}),
        named AS (SELECT {c.integer("concept_id")} AS id,
            {c.text("vocabulary_id")} || '/' || {c.text("concept_code")} AS code
          FROM {concept.scan})
        SELECT down AS concept_id, list(code ORDER BY levels, code) AS parent_codes FROM (
          SELECT p.down, n.code, min(p.levels) AS levels FROM pairs p
          JOIN used_concept u ON p.down = u.concept_id JOIN named n ON p.up = n.id
          WHERE p.up <> p.down GROUP BY p.down, n.code)
        GROUP BY down"""
    )


def visit_code(column: str, code: str) -> str:
    """SQL of a visit type's code from its concept and the concept table's code (`VOC/CODE`)."""
    cases = " ".join(f"WHEN {id_} THEN {quote_text(name)}" for id_, name in VISIT_CODES.items())
    return (
        f"CASE COALESCE({column}, 0) {cases} ELSE 'Visit/' || "
        f"COALESCE(regexp_replace({code}, '^[^/]*/', ''), {column}::VARCHAR) END"
    )


def plain_code(prefix: str, column: str, code: str) -> str:
    """SQL of `prefix/CONCEPT_CODE`, with the concept id where the concept is not known."""
    return f"'{prefix}/' || COALESCE(regexp_replace({code}, '^[^/]*/', ''), {column}::VARCHAR)"
