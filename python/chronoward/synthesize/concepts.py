"""From the codes a model can emit to the columns and concept rows that OMOP wants for them.

A code goes to the table of its concept's domain, as OHDSI demands; where the domain is not known,
to the table it was read from. A concept that is not standard (a site's own, above 2,000,000,000, or
of a source vocabulary such as ICD10CM) goes to the source column and leaves 0 in the standard one.
What the tokenizer does not know of a concept is filled so that foreign keys resolve and reading the
folder again gives the same codes: vocabulary `OMOP` with the concept id as its code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from chronoward.data import cdm

FIRST_LOCAL_CONCEPT = 2_000_000_000
SOURCE_VOCABULARIES = frozenset(
    {"ICD9CM", "ICD10CM", "ICD10", "ICD10GM", "ICD10CN", "NDC", "Read", "OXMIS", "SPL", "Multum"}
)
DOMAIN_TABLES = {
    "Condition": "condition_occurrence",
    "Drug": "drug_exposure",
    "Procedure": "procedure_occurrence",
    "Device": "device_exposure",
    "Measurement": "measurement",
    "Observation": "observation",
}
TABLE_DOMAINS = {table: domain for domain, table in DOMAIN_TABLES.items()} | {
    "visit_occurrence": "Visit",
    "visit_detail": "Visit",
    "person": "Race",
}
UNMAPPED = "Source/"  # what reading puts before the source value of a record without a concept
# Concept ids of visit codes, for sources that had no OMOP ids (MEDS).
VISIT_CONCEPTS = {
    "Visit/IP": 9201,
    "Visit/OP": 9202,
    "Visit/ER": 9203,
    "Visit/ERIP": 262,
    "Visit/ICU": 32037,
    "Visit/OfficeVisit": 581477,
    "Visit/HomeVisit": 581476,
}

TYPE_EHR = 32817
TYPE_ADMINISTRATION = 32818
TYPE_BILLING = 32821
TYPE_DISPENSING = 32825
TYPE_ENCOUNTER = 32827
TYPE_PRESCRIPTION = 32838
TYPE_PERIOD = 32882
MALE, FEMALE = 8507, 8532
POSITIVE, NEGATIVE = 9191, 9189

# (concept_id, name, domain, vocabulary, class, code): what every written database refers to.
_TYPES = {
    TYPE_EHR: ("EHR", "OMOP4976890"),
    TYPE_ADMINISTRATION: ("EHR administration record", "OMOP4976891"),
    TYPE_BILLING: ("EHR billing record", "OMOP4976894"),
    TYPE_DISPENSING: ("EHR dispensing record", "OMOP4976898"),
    TYPE_ENCOUNTER: ("EHR encounter record", "OMOP4976900"),
    TYPE_PRESCRIPTION: ("EHR prescription", "OMOP4976911"),
    TYPE_PERIOD: ("Standard algorithm from EHR", "OMOP4976955"),
}
_FIXED = (
    (MALE, "MALE", "Gender", "Gender", "Gender", "M"),
    (FEMALE, "FEMALE", "Gender", "Gender", "Gender", "F"),
    *(
        (key, name, "Type Concept", "Type Concept", "Type Concept", code)
        for key, (name, code) in _TYPES.items()
    ),
    (POSITIVE, "Positive", "Meas Value", "SNOMED", "Qualifier Value", "10828004"),
    (NEGATIVE, "Negative", "Meas Value", "SNOMED", "Qualifier Value", "260385009"),
    (cdm.VERSION_CONCEPT_ID, "OMOP CDM Version 5.4.0", "Metadata", "CDM", "CDM", "CDM v5.4.0"),
)


@dataclass(frozen=True, kw_only=True)
class Code:
    """One code a model can emit, as far as its tokenizer knows it."""

    table: str
    """OMOP table it was read from, "" for MEDS."""
    code: str
    description: str | None = None
    concept_id: int = 0
    vocabulary_id: str | None = None
    domain_id: str | None = None
    concept_class_id: str | None = None
    is_inpatient: bool = False
    has_values: bool = False


@dataclass(frozen=True, kw_only=True)
class CodeMap:
    """Where each code goes, and the vocabulary tables that explain it."""

    codes: pa.Table
    """table, code, target, standard_id, source_id, source_value, is_inpatient, domain, class."""
    units: pa.Table
    """unit, concept_id."""
    vocabulary: dict[str, pa.Table] = field(default_factory=dict)
    """concept, vocabulary, domain, concept_class: all columns of CDM 5.4."""


def _is_standard(code: Code, concept_id: int) -> bool:
    return 0 < concept_id < FIRST_LOCAL_CONCEPT and code.vocabulary_id not in SOURCE_VOCABULARIES


def _concept_id(code: Code) -> int:
    return code.concept_id or VISIT_CONCEPTS.get(code.code, 0)


def _target(code: Code, standard_id: int, domain: str | None) -> str:
    """The table a CODE event is written to."""
    if standard_id and domain is not None:
        return DOMAIN_TABLES.get(domain, "observation")
    if code.table in cdm.RECORDS:
        return code.table
    return "measurement" if code.has_values else "observation"


def _domains(codes: list[Code]) -> dict[int, str]:
    """One domain a concept: what the tokenizer knows, else by the first table it occurs in."""
    known: dict[int, str] = {}
    assumed: dict[int, str] = {}
    for code in sorted(codes, key=lambda c: (c.table, c.code)):
        concept_id = _concept_id(code)
        if code.domain_id:
            known.setdefault(concept_id, code.domain_id)
        assumed.setdefault(concept_id, TABLE_DOMAINS.get(code.table, "Observation"))
    return assumed | known


def _concept_row(code: Code, concept_id: int, domain: str, standard: bool) -> dict[str, Any]:
    vocabulary = code.vocabulary_id or ("Visit" if domain == "Visit" else "OMOP")
    prefix = f"{vocabulary}/"
    plain = code.code.removeprefix(prefix) if code.vocabulary_id else str(concept_id)
    if domain in ("Visit", "Race") and "/" in code.code:
        plain = code.code.split("/", 1)[1]
        vocabulary = code.vocabulary_id or domain
    return {
        "concept_id": concept_id,
        "concept_name": (code.description or code.code)[:255],
        "domain_id": domain[:20],
        "vocabulary_id": vocabulary[:20],
        "concept_class_id": (code.concept_class_id or "Undefined")[:20],
        "standard_concept": "S" if standard else None,
        "concept_code": plain[:50],
    }


def _fixed_rows() -> list[dict[str, Any]]:
    rows = [
        {
            "concept_id": row[0],
            "concept_name": row[1],
            "domain_id": row[2],
            "vocabulary_id": row[3],
            "concept_class_id": row[4],
            "standard_concept": "S",
            "concept_code": row[5],
        }
        for row in _FIXED
    ]
    nothing = {
        "concept_id": 0,
        "concept_name": "No matching concept",
        "domain_id": "Metadata",
        "vocabulary_id": "None",
        "concept_class_id": "Undefined",
        "standard_concept": None,
        "concept_code": "No matching concept",
    }
    return [*rows, nothing]


def _unit_rows(units: dict[str, int]) -> list[dict[str, Any]]:
    return [
        {
            "concept_id": concept_id,
            "concept_name": unit[:255],
            "domain_id": "Unit",
            "vocabulary_id": "UCUM",
            "concept_class_id": "Unit",
            "standard_concept": "S",
            "concept_code": unit[:50],
        }
        for unit, concept_id in sorted(units.items())
    ]


def cdm_table(table: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as an Arrow table with all columns of a CDM table, in order; what is missing is null."""
    types = {
        "integer": pa.int32(),
        "float": pa.float64(),
        "date": pa.date32(),
        "datetime": pa.timestamp("us"),
    }
    columns = cdm.fields(table)
    return pa.table(
        {
            f.column: pa.array([row.get(f.column) for row in rows], types.get(f.type, pa.string()))
            for f in columns
        }
    )


def _vocabulary_tables(concepts: list[dict[str, Any]]) -> dict[str, pa.Table]:
    """The concept table and the rows it points to; their own concepts are 0, as Athena has them."""
    from datetime import date

    valid = {"valid_start_date": date(1970, 1, 1), "valid_end_date": date(2099, 12, 31)}
    tables = {"concept": cdm_table("concept", [{**row, **valid} for row in concepts])}
    for table in ("vocabulary", "domain", "concept_class"):
        names = sorted({str(row[f"{table}_id"]) for row in concepts})
        rows = [
            {f"{table}_id": name, f"{table}_name": name, f"{table}_concept_id": 0} for name in names
        ]
        tables[table] = cdm_table(table, rows)
    return tables


def map_codes(codes: list[Code], units: dict[str, int]) -> CodeMap:
    """Plans where each code is written and which concept rows explain it.

    Args:
        codes: every code the model can emit; (table, code) occurs once.
        units: UCUM unit to concept id, of the units the model can emit.
    """
    domains = _domains(codes)
    concepts = {row["concept_id"]: row for row in (*_fixed_rows(), *_unit_rows(units))}
    rows = []
    for code in sorted(codes, key=lambda c: (c.table, c.code)):
        concept_id = _concept_id(code)
        domain = concepts[concept_id]["domain_id"] if concept_id in concepts else None
        domain = domain if concept_id else None
        domain = domain or domains.get(concept_id)
        standard = _is_standard(code, concept_id)
        if concept_id and concept_id not in concepts:
            concepts[concept_id] = _concept_row(code, concept_id, domain or "Observation", standard)
        rows.append(
            {
                "table": code.table,
                "code": code.code,
                "target": _target(code, concept_id if standard else 0, domain),
                "standard_id": concept_id if standard else 0,
                "source_id": 0 if standard else concept_id,
                "source_value": code.code.removeprefix(UNMAPPED)[:50],
                "domain": domain if concept_id else None,
                "is_inpatient": code.is_inpatient,
                "is_ingredient": code.concept_class_id == "Ingredient",
            }
        )
    schema = pa.schema(
        {
            "table": pa.string(),
            "code": pa.string(),
            "target": pa.string(),
            "standard_id": pa.int64(),
            "source_id": pa.int64(),
            "source_value": pa.string(),
            "domain": pa.string(),
            "is_inpatient": pa.bool_(),
            "is_ingredient": pa.bool_(),
        }
    )
    return CodeMap(
        codes=pa.Table.from_pylist(rows, schema=schema),
        units=pa.table(
            {
                "unit": pa.array(sorted(units), pa.string()),
                "concept_id": pa.array([units[unit] for unit in sorted(units)], pa.int64()),
            }
        ),
        vocabulary=_vocabulary_tables([concepts[key] for key in sorted(concepts)]),
    )
