"""Each check of an OMOP folder fires on one planted violation, and on nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from tests.evaluation.omop_database import Tables, concept, valid_tables, write

from chronoward.cli import main
from chronoward.data import cdm
from chronoward.errors import DataError
from chronoward.evaluation.omop import evaluate_omop, run_checks
from chronoward.evaluation.omop.database import open_cdm
from chronoward.files import read_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _set(table: str, index: int = 0, **values: Any) -> Callable[[Tables], None]:
    def plant(tables: Tables) -> None:
        tables[table][index].update(values)

    return plant


def _again(table: str, index: int = 0, **values: Any) -> Callable[[Tables], None]:
    def plant(tables: Tables) -> None:
        tables[table].append({**tables[table][index], **values})

    return plant


def _drop(table: str) -> Callable[[Tables], None]:
    def plant(tables: Tables) -> None:
        del tables[table]

    return plant


def _nobody(tables: Tables) -> None:
    for table in cdm.CLINICAL_TABLES:
        tables[table].clear()


# check -> (severity, how to break a valid database, violations, table of the example row)
PLANTS: dict[str, tuple[str, Callable[[Tables], None], int]] = {
    "table_missing": ("hard", _drop("device_exposure"), 1),
    "no_persons": ("hard", _nobody, 1),
    "required": ("hard", _set("measurement", measurement_type_concept_id=""), 1),
    "type": ("hard", _set("measurement", value_as_number="high"), 1),
    "length": ("hard", _set("measurement", value_source_value="x" * 51), 1),
    "int32": ("hard", _set("procedure_occurrence", quantity=2**31), 1),
    "primary_key": ("hard", _again("measurement"), 1),
    "foreign_key": ("hard", _set("measurement", unit_concept_id=777), 1),
    "fk_domain": ("hard", _set("procedure_occurrence", procedure_concept_id=4015149), 1),
    "fk_class": ("hard", lambda _tables: None, 1),
    "standard_concept": ("hard", _set("concept", 13, standard_concept=""), 1),
    "before_birth": (
        "hard",
        _set(
            "person",
            1,
            year_of_birth=2010,
            month_of_birth=1,
            day_of_birth=2,
            birth_datetime="2010-01-02 00:00:00",
        ),
        1,
    ),
    "age": ("hard", _set("person", 1, year_of_birth=1880, birth_datetime="1880-06-15"), 5),
    "after_death": ("hard", _again("death", person_id=1, death_date="2010-05-01"), 2),
    "future": ("hard", _set("cdm_source", source_release_date="2010-12-30"), 3),
    "outside_period": (
        "hard",
        _set("observation_period", 1, observation_period_start_date="2010-04-21"),
        2,
    ),
    "start_after_end": (
        "hard",
        _set(
            "visit_occurrence",
            2,
            visit_start_datetime="2010-04-20 17:00:01",
        ),
        1,
    ),
    "datetime_mismatch": (
        "hard",
        _set("measurement", measurement_datetime="2010-03-04 08:00:00"),
        1,
    ),
    "no_period": ("hard", lambda tables: tables["observation_period"].__delitem__(1), 1),
    "period_overlap": ("hard", _again("observation_period", observation_period_id=3), 1),
    "death_rows": ("hard", _again("death"), 1),
    "birth_mismatch": ("hard", _set("person", birth_datetime="1950-06-16"), 1),
    "visit_person": ("hard", _set("observation", visit_occurrence_id=3), 1),
    "outside_visit": ("hard", _set("observation", visit_occurrence_id=2), 1),
    "stay_overlap": (
        "hard",
        _again(
            "visit_occurrence",
            visit_occurrence_id=4,
            visit_start_date="2010-03-02",
            visit_start_datetime="2010-03-02 07:00:00",
        ),
        1,
    ),
    "sex_specific": (
        "hard",
        _again("observation", observation_id=2, observation_concept_id=35810312),
        1,
    ),
    "negative_count": ("hard", _set("procedure_occurrence", quantity=-1), 1),
    "not_finite": ("hard", _set("measurement", value_as_number="nan"), 1),
    "era": ("hard", _set("drug_era", gap_days=19), 2),
    "column_order": ("soft", lambda _tables: None, 1),
    "column_unknown": ("soft", lambda _tables: None, 1),
    "column_missing": ("hard", lambda _tables: None, 1),
    "local_concept": ("soft", _again("concept", 14, concept_id=2_000_000_001), 1),
    "unmapped": ("soft", _set("observation", observation_concept_id=0), 1),
    "value_range": ("soft", _set("measurement", value_as_number=900), 1),
}


def _planted(name: str, tables: Tables) -> dict[str, list[str]]:
    """Breaks `tables`; returns the columns of tables whose header is broken."""
    PLANTS[name][1](tables)
    if name == "sex_specific":
        tables["observation"][-1].update(person_id=2, visit_occurrence_id=3)
        tables["observation"][-1]["observation_date"] = "2010-04-20"
        tables["concept"].append(concept(35810312, "Observation", "SNOMED"))
    if name == "after_death":
        tables["death"][-1]["death_datetime"] = ""
    if name == "local_concept":
        tables["measurement"][0]["measurement_concept_id"] = 2_000_000_001
    if name == "fk_class":
        tables["concept"].append(concept(40162522, "Drug", "RxNorm", "Clinical Drug"))
        tables["concept_class"].append(
            {
                "concept_class_id": "Clinical Drug",
                "concept_class_name": "Clinical Drug",
                "concept_class_concept_id": 0,
            }
        )
        tables["dose_era"] = [
            {
                "dose_era_id": 1,
                "person_id": 1,
                "drug_concept_id": 40162522,
                "unit_concept_id": 8876,
                "dose_value": 5,
                "dose_era_start_date": "2010-03-02",
                "dose_era_end_date": "2010-03-02",
            }
        ]
    columns = [f.column for f in cdm.fields("measurement")]
    if name == "column_order":
        return {"measurement": columns[::-1]}
    if name == "column_unknown":
        return {"measurement": [*columns, "mood"]}
    if name == "column_missing":
        return {"measurement": [c for c in columns if c != "range_low"]}
    return {}


def test_a_valid_database_has_no_violation(tmp_path: Path) -> None:
    result = evaluate_omop(write(valid_tables(), tmp_path / "omop"))
    assert result["failed"] == []
    assert result["hard_violations"] == result["soft_violations"] == 0
    assert result["n_checks"] > 700
    assert result["rows"]["concept"] == 19
    assert result["rows"]["person"] == "<11"  # small cells are not published


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_a_planted_violation_fires_its_check_and_no_other(name: str, tmp_path: Path) -> None:
    tables = valid_tables()
    columns = _planted(name, tables)
    result = evaluate_omop(write(tables, tmp_path / "omop", columns))
    severity, _, violations = PLANTS[name]
    assert {row["name"] for row in result["failed"]} == {name}, result["failed"]
    assert {row["severity"] for row in result["failed"]} == {severity}
    assert result["by_name"] == {name: violations}
    assert result[f"{severity}_violations"] == violations


def test_every_check_has_a_plant(tmp_path: Path) -> None:
    with open_cdm(write(valid_tables(), tmp_path / "omop")) as database:
        assert {finding.name for finding in run_checks(database)} == set(PLANTS)


def test_a_violation_is_found_by_its_row_and_says_no_id(tmp_path: Path) -> None:
    tables = valid_tables()
    tables["condition_occurrence"][1]["condition_concept_id"] = 987654321
    tables["condition_era"].pop()
    result = evaluate_omop(write(tables, tmp_path / "omop"))
    row = next(row for row in result["failed"] if row["name"] == "foreign_key")
    assert (row["table"], row["column"], row["example_row"]) == (
        "condition_occurrence",
        "condition_concept_id",
        2,
    )
    assert "987654321" not in str(result)


def test_parquet_and_duckdb_files_give_the_same_answers(tmp_path: Path) -> None:
    tables = valid_tables()
    tables["drug_era"][0]["gap_days"] = 19
    folder = write(tables, tmp_path / "omop")
    parquet = tmp_path / "parquet"
    parquet.mkdir()
    connection = duckdb.connect(str(tmp_path / "cdm.duckdb"))
    for path in sorted(folder.iterdir()):
        (parquet / path.stem).mkdir()
        read = f"SELECT * FROM read_csv('{path}')"
        connection.execute(f"COPY ({read}) TO '{parquet / path.stem / 'part-0.parquet'}'")
        connection.execute(f"CREATE TABLE {path.stem.upper()} AS {read}")
    connection.close()
    expected = evaluate_omop(folder)
    assert evaluate_omop(parquet) == expected
    assert evaluate_omop(tmp_path / "cdm.duckdb") == expected


def test_a_folder_that_is_no_omop_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="no table of the OMOP CDM"):
        evaluate_omop(tmp_path)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    folder = write(valid_tables(), tmp_path / "omop")
    (folder / "measurement.csv").unlink()
    (folder / "measurement.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match=r"measurement\.parquet: cannot be read"):
        evaluate_omop(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        evaluate_omop(tmp_path / "nowhere")


def test_the_command_writes_the_section_and_names_the_faults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = valid_tables()
    tables["drug_era"][0]["gap_days"] = 19
    folder = write(tables, tmp_path / "omop")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "omop", str(folder), "--out", str(tmp_path / "evaluation")])
    assert ended.value.code in (0, None)
    assert "hard  era  drug_era: 2, first in row 1" in capsys.readouterr().out
    metrics = read_json(tmp_path / "evaluation" / "metrics.json")
    assert metrics["omop"]["hard_violations"] == 2
