from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from chronoward.data import PreparedEvents, prepare, recognize
from chronoward.errors import DataError
from chronoward.schema import Role, code_schema, observation_schema, stored_event_schema

from .omop_rows import condition, measurement, person, visit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Ingest = Callable[..., PreparedEvents]


def test_a_plain_source_becomes_sorted_events_with_visits(ingest: Ingest) -> None:
    prepared = ingest(
        {
            "visit_occurrence": [visit(7, "2020-01-05 10:00:00", "2020-01-05 11:00:00")],
            "condition_occurrence": [condition(3, "2020-01-05 10:30:00", 7)],
        }
    )
    (table,) = prepared.batches()
    assert table.schema == stored_event_schema()
    assert prepared.codes.schema == code_schema()
    assert prepared.observation.schema == observation_schema()
    rows = table.select(["role", "table", "code", "available_time", "visit_id"]).to_pylist()
    assert [(row["role"], row["code"], row["visit_id"]) for row in rows] == [
        (Role.SEX, "Gender/F", None),
        (Role.RACE, "Race/8527", None),
        (Role.BIRTH, "MEDS_BIRTH", None),
        (Role.VISIT, "Visit/OP", 0),
        (Role.CODE, "OMOP/316139", 0),
    ]
    assert rows[-1]["available_time"] == datetime(2020, 1, 5, 10, 30)
    assert prepared.report["rules"] == {}
    assert prepared.has_visits
    assert prepared.calendar == "real"


def test_a_finished_folder_is_reused_and_another_source_is_refused(
    ingest: Ingest, tmp_path: Path
) -> None:
    first = ingest({"condition_occurrence": [condition(3, "2020-01-05 10:30:00")]})
    again = prepare(tmp_path / "source1", first.path)
    assert again.manifest == first.manifest
    assert PreparedEvents.open(first.path).n_events == first.n_events


@pytest.mark.parametrize("name", ["mimic-iv-demo-omop", "gibleed-omop", "mimic-iv-demo-meds"])
def test_real_folders_are_recognized(test_data: Path, name: str) -> None:
    assert recognize(test_data / name) == name.rsplit("-", 1)[1]


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="neither OMOP"):
        recognize(tmp_path)


def test_values_come_out_parsed(ingest: Ingest) -> None:
    prepared = ingest(
        {
            "measurement": [
                measurement(1, "2020-01-05 10:00:00", value_as_number="5.5"),
                measurement(2, "2020-01-05 10:01:00", value_source_value="<5"),
                measurement(3, "2020-01-05 10:02:00", value_source_value="7"),
                measurement(4, "2020-01-05 10:03:00", value_source_value="POSITIVE"),
                measurement(5, "2020-01-05 10:04:00", value_source_value="Hemolyzed"),
                measurement(6, "2020-01-05 10:05:00", value_as_number="NaN"),
                measurement(7, "2020-01-05 10:06:00", value_as_number="high"),
            ]
        }
    )
    (table,) = prepared.batches()
    rows = [row for row in table.to_pylist() if row["role"] == Role.CODE]
    assert [row["numeric_value"] for row in rows] == [5.5, 5.0, 7.0, None, None, None, None]
    assert [row["text_value"] for row in rows][3:5] == ["POS", "not_done"]
    assert prepared.report["rules"] == {
        "value_bounded": 1,
        "value_category": 1,
        "value_from_text": 1,
        "value_not_done": 1,
        "value_not_finite": 1,
        "value_unparsable": 1,
    }


def test_an_answer_given_as_a_concept_is_a_category(ingest: Ingest) -> None:
    answers = [
        measurement(i, "2020-01-05 10:00:00", person_id=i, value_as_concept_id=45877994)
        for i in range(1, 12)
    ]
    rare = measurement(12, "2020-01-05 10:00:00", value_as_concept_id=4181412)
    people = [person(i) for i in range(1, 12)]
    prepared = ingest({"person": people, "measurement": [*answers, rare]})
    (table,) = prepared.batches()
    texts = [row["text_value"] for row in table.to_pylist() if row["role"] == Role.CODE]
    assert sorted(texts, key=str) == [None, *["OMOP/45877994"] * 11]
    assert prepared.report["rules"]["text_rare"] == 1
