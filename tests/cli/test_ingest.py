from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from chronoward import cli
from chronoward.errors import DataError, StateError

if TYPE_CHECKING:
    from pathlib import Path

RUN = CliRunner()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "omop"
    folder.mkdir()
    (folder / "person.csv").write_text(
        "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth\n1,8532,1950,1,2\n"
    )
    (folder / "condition_occurrence.csv").write_text(
        "condition_occurrence_id,person_id,condition_concept_id,condition_start_date,"
        "condition_start_datetime\n5,1,316139,2020-01-01,2020-01-01 10:00:00\n"
        "6,1,316139,9999-12-31,\n"
    )
    return folder


def test_ingest_writes_meds_with_report_and_ledger(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "meds"
    result = RUN.invoke(cli.app, ["ingest", str(source), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "1 subjects, 3 events" in result.output
    report = json.loads((out / "ingest_report.json").read_text())
    assert report["rules"] == {"sentinel_time": 1}
    assert sorted(path.name for path in out.iterdir()) == [
        "data",
        "ingest_report.json",
        "ledger",
        "metadata",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meds", "omop"]


def test_strict_refuses_faulty_records_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "meds"
    result = RUN.invoke(cli.app, ["ingest", str(source), "--out", str(out), "--strict"])
    assert isinstance(result.exception, DataError)
    assert "sentinel_time 1" in str(result.exception)
    assert list(out.iterdir()) == []


def test_a_folder_with_content_is_refused(source: Path) -> None:
    result = RUN.invoke(cli.app, ["ingest", str(source), "--out", str(source)])
    assert isinstance(result.exception, StateError)


def test_inspect_says_what_a_source_holds(source: Path) -> None:
    result = RUN.invoke(cli.app, ["inspect", str(source)])
    assert result.exit_code == 0, result.output
    for words in ("condition_occurrence  2     5", "a year that means unknown", "real", "about"):
        assert words in result.output
    assert "sentinel_time" not in result.output


def test_inspect_applies_every_rule_when_asked(source: Path) -> None:
    result = RUN.invoke(cli.app, ["inspect", str(source), "--rules"])
    assert result.exit_code == 0, result.output
    for words in ("condition_occurrence  2        1", "sentinel_time"):
        assert words in result.output
