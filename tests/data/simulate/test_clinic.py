from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import duckdb
import pytest

from chronoward.data.simulate import SimulationConfig, simulate
from chronoward.data.simulate.omop_fields import FIELDS, columns
from chronoward.errors import ConfigError, StateError

if TYPE_CHECKING:
    from pathlib import Path


CLEAN = SimulationConfig.from_dict({"records": {"trap_ratio": 0.0}})
FROZEN = "934978dc1ac29d63e248f6ac625d345505105c679b86b9c326e38c48920f6f70"
"""SHA-256 over the files of 60 subjects, seed 3: the same on every machine.

A change of the clinic's numbers changes it; anything else that does is a fault.
"""
TABLES = [table for table in FIELDS if table != "condition_era"]  # a planted fault


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clinic") / "omop"
    simulate(out, 200, seed=3, config=CLEAN)
    return out


def query(folder: Path, sql: str) -> int:
    with duckdb.connect() as connection:
        for table in TABLES:
            path = folder / f"{table}.csv"
            connection.execute(f"create view {table} as select * from read_csv('{path}')")
        return int(connection.execute(sql).fetchone()[0])  # type: ignore[index]


def test_every_table_has_the_columns_of_the_specification(folder: Path) -> None:
    for table in TABLES:
        text = (folder / f"{table}.csv").read_text()
        header = text.partition("\n")[0].replace('"', "").split(",")
        assert header == [name for name, _ in columns(table)], table


def test_subjects_have_an_observation_period(folder: Path) -> None:
    sql = "select count(*) from person where person_id not in (select person_id from {})"
    assert query(folder, sql.format("observation_period")) == 0


def test_visits_of_a_subject_do_not_overlap(folder: Path) -> None:
    sql = """
        select count(*) from (
            select visit_start_datetime < lag(visit_end_datetime) over (
                partition by person_id order by visit_start_datetime) as is_overlap
            from visit_occurrence) where is_overlap"""
    assert query(folder, sql) == 0


def test_the_vocabulary_has_three_thousand_codes(folder: Path) -> None:
    assert query(folder, "select count(*) from concept where concept_code like 'B%'") >= 3000


def test_concept_ids_and_codes_are_unique(folder: Path) -> None:
    sql = "select count(*) - count(distinct {}) from concept"
    assert query(folder, sql.format("concept_id")) == 0
    assert query(folder, sql.format("(vocabulary_id, concept_code)")) == 0


def test_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "again", 200, seed=3, config=CLEAN)
    for path in folder.rglob("*.*"):
        again = tmp_path / "again" / path.relative_to(folder)
        assert again.read_bytes() == path.read_bytes(), path.name


def test_the_output_is_frozen(tmp_path: Path) -> None:
    simulate(tmp_path / "frozen", 60, seed=3)
    digest = hashlib.sha256()
    for path in sorted((tmp_path / "frozen").rglob("*.*")):
        digest.update(path.name.encode() + b"\n" + path.read_bytes())
    assert digest.hexdigest() == FROZEN


def test_a_folder_with_content_is_refused(folder: Path) -> None:
    with pytest.raises(StateError, match="not empty"):
        simulate(folder, 10, seed=0)


def test_no_subjects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="n_subjects"):
        simulate(tmp_path / "none", 0, seed=0)
