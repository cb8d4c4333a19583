from __future__ import annotations

import json
from typing import TYPE_CHECKING

import meds
import pyarrow.parquet as pq
import pytest

from chronoward.data import PreparedEvents, prepare, write_meds
from chronoward.errors import StateError

from .omop_rows import condition, events_of, measurement, person, visit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Ingest = Callable[..., PreparedEvents]


@pytest.fixture
def prepared(ingest: Ingest) -> PreparedEvents:
    people = [person(i, gender_concept_id=8507 + 25 * (i % 2)) for i in range(1, 31)]
    visits, conditions, labs, deaths = [], [], [], []
    for i in range(1, 31):
        visits += [
            visit(10 * i, "2020-01-05 10:00:00", "2020-01-09 11:00:00", 9201, person_id=i),
            visit(10 * i + 1, "2020-01-04 22:00:00", "2020-01-05 10:00:00", 9203, person_id=i),
            visit(10 * i + 2, "2020-03-04", "2020-03-04", person_id=i),
        ]
        conditions += [
            condition(10 * i, "2020-01-05 10:00:00", 10 * i, person_id=i)
            | {"condition_type_concept_id": 32821},
            condition(10 * i + 1, "2020-03-04", 10 * i + 2, person_id=i),
            condition(10 * i + 2, "2020-06-04", None, person_id=i),
        ]
        labs.append(
            measurement(i, "2020-01-06 08:00:00", 10 * i, person_id=i)
            | {"value_as_number": 5.5, "unit_source_value": "mmol/L"}
        )
    deaths = [{"person_id": 3, "death_date": "2021-01-01"}]
    return ingest(
        {
            "person": people,
            "visit_occurrence": visits,
            "condition_occurrence": conditions,
            "measurement": labs,
            "death": deaths,
        }
    )


def test_what_is_written_is_strict_meds(prepared: PreparedEvents, tmp_path: Path) -> None:
    out = tmp_path / "meds"
    counts = write_meds(prepared.batches(), out, codes=prepared.codes, name="clinic")
    files = sorted((out / "data").rglob("*.parquet"))
    assert sum(counts.values()) == prepared.n_events
    codes = pq.read_table(out / "metadata" / "codes.parquet")
    meds.CodeMetadataSchema.validate(codes)
    for file in files:
        table = pq.read_table(file)
        meds.DataSchema.validate(table)
        assert set(table["code"].to_pylist()) <= set(codes["code"].to_pylist())
    splits = pq.read_table(out / "metadata" / "subject_splits.parquet")
    meds.SubjectSplitSchema.validate(splits)
    assert splits.num_rows == prepared.n_subjects
    meds.DatasetMetadataSchema.validate(json.loads((out / "metadata" / "dataset.json").read_text()))


def test_written_meds_is_prepared_into_the_same_events(
    prepared: PreparedEvents, tmp_path: Path
) -> None:
    out = tmp_path / "meds"
    write_meds(prepared.batches(), out, codes=prepared.codes, observation=prepared.observation)
    again = prepare(out, tmp_path / "again")
    assert events_of(again).equals(events_of(prepared))
    assert again.observation.equals(prepared.observation)
    keep = ["table", "code", "concept_id", "is_inpatient", "parent_codes"]
    assert again.codes.select(keep).equals(prepared.codes.select(keep))


def test_shards_hold_whole_subjects(prepared: PreparedEvents, tmp_path: Path) -> None:
    out = tmp_path / "meds"
    write_meds(prepared.batches(40), out, codes=prepared.codes, splits="train", shard_events=50)
    files = sorted((out / "data" / "train").glob("*.parquet"))
    assert len(files) > 3
    subjects = [set(pq.read_table(file)["subject_id"].to_pylist()) for file in files]
    assert sum(len(part) for part in subjects) == len(set.union(*subjects)) == 30


def test_a_folder_with_content_is_refused(prepared: PreparedEvents, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="not empty"):
        write_meds(prepared.batches(), prepared.path, codes=prepared.codes)
