"""What OMOP CDM 5.4 demands of each column, as a table of facts beside this file.

`cdm54.csv` was derived from the field-level specification of OHDSI's Common Data Model 5.4
(Apache-2.0): table, column, whether it is required, its type, whether it is the primary key, the
table its values point to, and the domain and class those concepts must have. Column order is the
specification's. No prose of the specification is copied.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

VERSION = "v5.4.0"
VERSION_CONCEPT_ID = 756265

# Tables that describe persons; a written database has all of them, empty where nothing happened.
CLINICAL_TABLES = (
    "person",
    "observation_period",
    "visit_occurrence",
    "visit_detail",
    "condition_occurrence",
    "drug_exposure",
    "procedure_occurrence",
    "device_exposure",
    "measurement",
    "observation",
    "death",
    "drug_era",
    "condition_era",
)
# Tables that foreign keys of the clinical ones need.
VOCABULARY_TABLES = ("concept", "vocabulary", "domain", "concept_class")
WRITTEN_TABLES = (*CLINICAL_TABLES, "cdm_source", *VOCABULARY_TABLES)


@dataclass(frozen=True, kw_only=True)
class Field:
    """One column of a CDM table."""

    table: str
    column: str
    required: bool
    type: str
    """`integer`, `float`, `date`, `datetime` or `varchar(n)` (`varchar(max)`: no limit)."""
    primary_key: bool
    foreign_table: str
    """Table whose `<table>_id` the values must be; "" for none."""
    domains: tuple[str, ...]
    """Domains the concepts may have; empty for any."""
    concept_class: str

    @property
    def foreign_column(self) -> str:
        """Column of `foreign_table` that the values point to."""
        return f"{self.foreign_table}_id"

    @property
    def max_length(self) -> int | None:
        """Most characters a varchar may have; None where there is no limit."""
        digits = self.type.removeprefix("varchar(").removesuffix(")")
        return int(digits) if digits.isdigit() else None

    def sql_type(self, key_type: str = "INTEGER") -> str:
        """DuckDB's type; `key_type` (INTEGER or BIGINT) is that of keys and of what points to them.

        Concept ids and small integers stay INTEGER.
        """
        if self.type == "integer":
            is_key = self.primary_key or self.foreign_table not in ("", "concept")
            return key_type if is_key else "INTEGER"
        return {"float": "DOUBLE", "date": "DATE", "datetime": "TIMESTAMP"}.get(
            self.type, "VARCHAR"
        )


@cache
def tables() -> dict[str, tuple[Field, ...]]:
    """The tables of CDM 5.4 and their columns, both in the specification's order."""
    found: dict[str, list[Field]] = {}
    text = (files(__package__) / "cdm54.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        found.setdefault(row["table"], []).append(
            Field(
                table=row["table"],
                column=row["column"],
                required=row["required"] == "1",
                type=row["type"],
                primary_key=row["primary_key"] == "1",
                foreign_table=row["foreign_table"],
                domains=tuple(d for d in row["domain"].split("|") if d),
                concept_class=row["concept_class"],
            )
        )
    return {name: tuple(columns) for name, columns in found.items()}


@cache
def sex_specific_concepts() -> dict[int, str]:
    """Concepts that belong to one sex: concept id to "F" or "M"; `sex_specific.csv` beside this."""
    text = (files(__package__) / "sex_specific.csv").read_text(encoding="utf-8")
    return {int(row["concept_id"]): row["sex"] for row in csv.DictReader(text.splitlines())}


def fields(table: str) -> tuple[Field, ...]:
    """The columns of one CDM 5.4 table, in the specification's order.

    Raises:
        KeyError: no such table.
    """
    return tables()[table]


@dataclass(frozen=True, kw_only=True)
class RecordColumns:
    """Where a table of dated records keeps what the rules need."""

    start: str
    """Start date column; the datetime column is named alike."""
    end: str | None
    concept: str
    in_visit: bool
    """Whether its records may name the visit they belong to."""


RECORDS: dict[str, RecordColumns] = {
    "visit_occurrence": RecordColumns(
        start="visit_start_date", end="visit_end_date", concept="visit_concept_id", in_visit=False
    ),
    "visit_detail": RecordColumns(
        start="visit_detail_start_date",
        end="visit_detail_end_date",
        concept="visit_detail_concept_id",
        in_visit=True,
    ),
    "condition_occurrence": RecordColumns(
        start="condition_start_date",
        end="condition_end_date",
        concept="condition_concept_id",
        in_visit=True,
    ),
    "drug_exposure": RecordColumns(
        start="drug_exposure_start_date",
        end="drug_exposure_end_date",
        concept="drug_concept_id",
        in_visit=True,
    ),
    "procedure_occurrence": RecordColumns(
        start="procedure_date",
        end="procedure_end_date",
        concept="procedure_concept_id",
        in_visit=True,
    ),
    "device_exposure": RecordColumns(
        start="device_exposure_start_date",
        end="device_exposure_end_date",
        concept="device_concept_id",
        in_visit=True,
    ),
    "measurement": RecordColumns(
        start="measurement_date", end=None, concept="measurement_concept_id", in_visit=True
    ),
    "observation": RecordColumns(
        start="observation_date", end=None, concept="observation_concept_id", in_visit=True
    ),
}
