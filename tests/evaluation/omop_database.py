"""A small OMOP database in which nothing is wrong, to be broken in one place."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

from chronoward.data import cdm

if TYPE_CHECKING:
    from pathlib import Path

Row = dict[str, Any]
Tables = dict[str, list[Row]]


def concept(concept_id: int, domain: str, vocabulary: str, concept_class: str = "") -> Row:
    return {
        "concept_id": concept_id,
        "concept_name": f"concept {concept_id}",
        "domain_id": domain,
        "vocabulary_id": vocabulary,
        "concept_class_id": concept_class or domain,
        "standard_concept": "S",
        "concept_code": str(concept_id),
        "valid_start_date": "1970-01-01",
        "valid_end_date": "2099-12-31",
    }


def _record(table: str, key: int, **values: Any) -> Row:
    return {f"{table}_id": key, "person_id": 1, "visit_occurrence_id": 1, **values}


def _events() -> Tables:
    def at(day: str) -> str:
        return f"{day} 08:00:00"

    return {
        "visit_detail": [
            _record(
                "visit_detail",
                1,
                visit_detail_concept_id=9201,
                visit_detail_start_date="2010-03-01",
                visit_detail_start_datetime=at("2010-03-01"),
                visit_detail_end_date="2010-03-04",
                visit_detail_end_datetime=at("2010-03-04"),
                visit_detail_type_concept_id=32827,
            )
        ],
        "condition_occurrence": [
            _record(
                "condition_occurrence",
                key,
                condition_concept_id=316139,
                condition_start_date=day,
                condition_start_datetime=at(day),
                condition_end_date=day,
                condition_type_concept_id=32817,
                visit_occurrence_id=visit,
            )
            for key, day, visit in ((1, "2010-03-02", 1), (2, "2010-04-20", 2))
        ],
        "drug_exposure": [
            _record(
                "drug_exposure",
                1,
                drug_concept_id=1332418,
                drug_exposure_start_date="2010-03-02",
                drug_exposure_end_date="2010-03-31",
                drug_type_concept_id=32838,
                quantity=30,
                days_supply=30,
            ),
            _record(
                "drug_exposure",
                2,
                drug_concept_id=1332418,
                drug_exposure_start_date="2010-04-20",
                drug_exposure_end_date="2010-05-19",
                drug_type_concept_id=32838,
                visit_occurrence_id=2,
            ),
        ],
        "procedure_occurrence": [
            _record(
                "procedure_occurrence",
                1,
                procedure_concept_id=4047494,
                procedure_date="2010-03-02",
                procedure_type_concept_id=32817,
                quantity=1,
            )
        ],
        "device_exposure": [
            _record(
                "device_exposure",
                1,
                device_concept_id=45768201,
                device_exposure_start_date="2010-03-02",
                device_type_concept_id=32817,
            )
        ],
        "measurement": [
            _record(
                "measurement",
                1,
                measurement_concept_id=3004249,
                measurement_date="2010-03-03",
                measurement_datetime=at("2010-03-03"),
                measurement_type_concept_id=32856,
                value_as_number=120.5,
                unit_concept_id=8876,
            )
        ],
        "observation": [
            _record(
                "observation",
                1,
                observation_concept_id=4015149,
                observation_date="2010-03-03",
                observation_type_concept_id=32817,
                value_as_string="yes",
            )
        ],
    }


def _persons() -> Tables:
    people = [(1, 8532, 1950), (2, 8507, 1980)]
    visits = [
        (1, 1, 9201, "2010-03-01", "2010-03-05"),
        (2, 1, 9202, "2010-04-20", "2010-04-20"),
        (3, 2, 9202, "2010-04-20", "2010-04-20"),
    ]
    return {
        "person": [
            {
                "person_id": key,
                "gender_concept_id": sex,
                "year_of_birth": year,
                "month_of_birth": 6,
                "day_of_birth": 15,
                "birth_datetime": f"{year}-06-15 00:00:00",
                "race_concept_id": 0,
                "ethnicity_concept_id": 0,
            }
            for key, sex, year in people
        ],
        "observation_period": [
            {
                "observation_period_id": key,
                "person_id": key,
                "observation_period_start_date": "2010-01-01",
                "observation_period_end_date": "2010-12-31",
                "period_type_concept_id": 32882,
            }
            for key, _, _ in people
        ],
        "visit_occurrence": [
            {
                "visit_occurrence_id": key,
                "person_id": person,
                "visit_concept_id": concept,
                "visit_start_date": start,
                "visit_start_datetime": f"{start} 07:00:00",
                "visit_end_date": end,
                "visit_end_datetime": f"{end} 17:00:00",
                "visit_type_concept_id": 32827,
            }
            for key, person, concept, start, end in visits
        ],
        "death": [
            {
                "person_id": 2,
                "death_date": "2010-12-31",
                "death_datetime": "2010-12-31 23:59:00",
                "death_type_concept_id": 32817,
            }
        ],
    }


def _vocabulary() -> Tables:
    concepts = [
        *(concept(c, "Gender", "Gender") for c in (8507, 8532)),
        *(concept(c, "Visit", "Visit") for c in (9201, 9202)),
        *(concept(c, "Type Concept", "Type Concept") for c in (32817, 32827, 32838, 32856, 32882)),
        concept(316139, "Condition", "SNOMED"),
        concept(439393, "Condition", "SNOMED"),
        concept(1332418, "Drug", "RxNorm", "Ingredient"),
        concept(4047494, "Procedure", "SNOMED"),
        concept(45768201, "Device", "SNOMED"),
        concept(3004249, "Measurement", "LOINC"),
        concept(4015149, "Observation", "SNOMED"),
        concept(8876, "Unit", "UCUM"),
        concept(756265, "Metadata", "None"),
        {**concept(0, "Metadata", "None"), "standard_concept": ""},
    ]
    tables: Tables = {"concept": concepts}
    for table in ("domain", "vocabulary", "concept_class"):
        tables[table] = [
            {f"{table}_id": name, f"{table}_name": name, f"{table}_concept_id": 0}
            for name in dict.fromkeys(str(row[f"{table}_id"]) for row in concepts)
        ]
    return tables


def valid_tables() -> Tables:
    """A small database in which nothing is wrong."""
    return {
        **_persons(),
        **_events(),
        **_vocabulary(),
        "condition_era": [
            {
                "condition_era_id": key,
                "person_id": 1,
                "condition_concept_id": 316139,
                "condition_era_start_date": day,
                "condition_era_end_date": day,
                "condition_occurrence_count": 1,
            }
            for key, day in ((1, "2010-03-02"), (2, "2010-04-20"))
        ],
        "drug_era": [
            {
                "drug_era_id": 1,
                "person_id": 1,
                "drug_concept_id": 1332418,
                "drug_era_start_date": "2010-03-02",
                "drug_era_end_date": "2010-05-19",
                "drug_exposure_count": 2,
                "gap_days": 20,
            }
        ],
        "cdm_source": [
            {
                "cdm_source_name": "test",
                "cdm_source_abbreviation": "test",
                "cdm_holder": "test",
                "source_release_date": "2010-12-31",
                "cdm_release_date": "2010-12-31",
                "cdm_version_concept_id": 756265,
                "vocabulary_version": "none",
            }
        ],
    }


def write(tables: Tables, folder: Path, columns: dict[str, list[str]] | None = None) -> Path:
    """Writes the tables as CSV with the columns of CDM 5.4."""
    folder.mkdir(exist_ok=True)
    for table, rows in tables.items():
        names = (columns or {}).get(table) or [f.column for f in cdm.fields(table)]
        with (folder / f"{table}.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    return folder
