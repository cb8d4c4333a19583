"""A faulty structure raises its class, and nothing is left that looks finished."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronoward.data import PreparedEvents, prepare
from chronoward.errors import DataError, FormatError, StateError

from .omop_rows import condition, measurement, person, visit, write_omop

if TYPE_CHECKING:
    from pathlib import Path

GOOD: dict[str, Any] = {"condition_occurrence": [condition(1, "2020-01-05 10:00:00")]}


def _prepare(folder: Path, tables: dict[str, Any]) -> PreparedEvents:
    return prepare(write_omop(folder / "source", tables), folder / "work")


def _refused(folder: Path, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        prepare(folder / "source", folder / "work")
    left = [p for p in (folder / "work").rglob("*") if p.is_file()]
    assert left == []


@pytest.mark.parametrize(
    ("tables", "match"),
    [
        ({"person": [dict.fromkeys(person())]}, "person.csv: table person has no rows"),
        ({"person": [person(1), person(1)]}, r"person.csv: 1 rows repeat a person_id \(row 2"),
        ({"person": [{"person_id": 1}]}, "required column gender_concept_id is missing"),
        ({"person": [person(1), person(None)]}, "1 rows without person_id"),
        ({"person": [person("1.5")]}, "1 fractional ids"),
        (
            {"condition_occurrence": [{"condition_occurrence_id": 1, "person_id": 1}]},
            "condition_occurrence.csv: required column condition_concept_id is missing",
        ),
        (
            {"condition_occurrence": [condition(1, "2020-01-05T10:00:00+02:00")]},
            "column condition_start_datetime has a time zone",
        ),
        (
            {
                "condition_occurrence": [
                    condition(i, "2020-01-05") | {"condition_start_date": i} for i in range(1, 13)
                ]
            },
            "column condition_start_date holds no dates",
        ),
        ({"condition_occurrence": [condition(None, "2020-01-05")]}, "1 rows have no condition_occ"),
        (
            {"visit_occurrence": [visit(1, "2020-01-05", None), visit(1, "2020-01-06", None)]},
            "1 rows repeat a visit_occurrence_id",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_faulty_omop_structure_is_a_data_error(
    tmp_path: Path, tables: dict[str, Any], match: str
) -> None:
    write_omop(tmp_path / "source", {"person": [person()]} | GOOD | tables)
    _refused(tmp_path, DataError, match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "the file is empty"),
        (b"person_id,person_id,gender_concept_id,year_of_birth\n1,1,2,3\n", "is there twice"),
        (
            b'person_id,gender_concept_id,year_of_birth\n1,"8507,1950\n2,8507,1950\n',
            r"person.csv: line 2: a quoted field does not end$",
        ),
        (
            b"person_id,gender_concept_id,year_of_birth\n1,8507,1950,7\n",
            "person.csv: line 2: expected number of columns: 3 found: 4$",
        ),
        (b"person_id,gender_concept_id,year_of_birth\n1,\xff\xfe,1950\n", "person.csv"),
    ],
    ids=["empty", "two-columns", "open-quote", "ragged", "not-utf8"],
)
def test_a_faulty_csv_file_is_a_data_error(tmp_path: Path, content: bytes, match: str) -> None:
    (write_omop(tmp_path / "source", GOOD) / "person.csv").write_bytes(content)
    _refused(tmp_path, DataError, match)


def test_a_header_alone_is_no_error_but_a_warning(tmp_path: Path) -> None:
    prepared = _prepare(
        tmp_path, {"person": [person()], "measurement": [dict.fromkeys(measurement(1, ""))]}
    )
    assert prepared.report["warnings"] == ["table measurement has no rows"]


def test_damaged_files_are_format_errors(tmp_path: Path) -> None:
    source = write_omop(tmp_path / "source", {"person": [person()]})
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"condition_occurrence_id": range(1000)}), whole)
    (source / "condition_occurrence.parquet").write_bytes(whole.read_bytes()[:-50])
    _refused(tmp_path, FormatError, "condition_occurrence.parquet is not a readable Parquet file")
    (source / "condition_occurrence.parquet").unlink()
    packed = gzip.compress(b"measurement_id\n" + b"1\n" * 99999)
    (source / "measurement.csv.gz").write_bytes(packed[:9])
    _refused(tmp_path, FormatError, "damaged gzip")


def test_a_table_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    source = write_omop(tmp_path / "source", {"person": [person()]})
    (source / "PERSON.tsv").write_text("person_id\n1\n")
    _refused(tmp_path, DataError, "table person is there twice")


def test_codes_that_look_like_something_else_stay_strings(tmp_path: Path) -> None:
    odd = ["001", "NA", "null", "1E10", "=A1", "ä;,\n|"]
    rows = [
        condition(i, f"2020-01-05 10:0{i}:00", condition_concept_id=0, condition_source_value=code)
        for i, code in enumerate(odd)
    ]
    prepared = _prepare(tmp_path, {"person": [person()], "condition_occurrence": rows})
    (table,) = prepared.batches()
    codes = [c for c in table["code"].to_pylist() if c.startswith("Source/")]
    assert codes == [f"Source/{code}" for code in odd]


def test_ids_that_are_text_are_mapped_and_the_map_is_kept(tmp_path: Path) -> None:
    prepared = _prepare(
        tmp_path,
        {
            "person": [person("P-01"), person("P-02")],
            "condition_occurrence": [condition(1, "2020-01-05 10:00:00", person_id="P-02")],
        },
    )
    mapping = pq.read_table(prepared.path / "subject_ids.parquet").to_pylist()
    assert {row["person_id"] for row in mapping} == {"P-01", "P-02"}
    (table,) = prepared.batches()
    assert set(table["subject_id"].to_pylist()) == {row["subject_id"] for row in mapping}


def test_ids_of_64_bits_are_taken_as_they_are(tmp_path: Path) -> None:
    ids = [-(2**63), -7671795861352464589, 2**63 - 1]
    prepared = _prepare(tmp_path, {"person": [person(subject) for subject in ids]})
    (table,) = prepared.batches()
    assert sorted(set(table["subject_id"].to_pylist())) == ids
    assert not (prepared.path / "subject_ids.parquet").exists()


def test_a_number_among_ids_that_are_text_can_be_excluded(tmp_path: Path) -> None:
    source = write_omop(tmp_path / "source", {"person": [person("A1"), person("17"), person("18")]})
    prepared = prepare(source, tmp_path / "work", exclude_subjects=[17])
    assert prepared.n_subjects == 2
    assert prepared.report["rules"]["excluded_subject"] == 1


def _meds(folder: Path, name: str = "data/train/0.parquet", **columns: Any) -> Path:
    rows: dict[str, Any] = {
        "subject_id": [1, 1, 2],
        "time": pa.array([None, datetime(2020, 1, 1), datetime(2020, 1, 2)], pa.timestamp("us")),
        "code": ["GENDER//F", "A", "B"],
    } | columns
    file = folder / "source" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({k: v for k, v in rows.items() if v is not None}), file)
    return file


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"code": None}, "0.parquet: required column code is missing"),
        ({"subject_id": [1, 2, 1]}, r"0.parquet: .* not contiguous: seen again at row 2"),
        ({"subject_id": ["1", "1", "2"]}, "column subject_id has type VARCHAR"),
        ({"time": pa.array([1, 2, 3])}, "column time has type INTEGER"),
        (
            {"time": pa.array([datetime(2020, 1, 1, tzinfo=UTC)] * 3, pa.timestamp("us", "UTC"))},
            "column time has a time zone",
        ),
    ],
)
def test_a_faulty_meds_structure_is_a_data_error(
    tmp_path: Path, columns: dict[str, Any], match: str
) -> None:
    _meds(tmp_path, **columns)
    _refused(tmp_path, DataError, match)


def test_a_subject_in_two_files_is_refused(tmp_path: Path) -> None:
    _meds(tmp_path)
    _meds(tmp_path, "data/train/1.parquet")
    _refused(tmp_path, DataError, "1.parquet: a subject of this file is in an earlier file")


def test_a_subject_in_two_splits_is_refused(tmp_path: Path) -> None:
    _meds(tmp_path)
    _meds(tmp_path, "data/tuning/0.parquet")
    _refused(tmp_path, StateError, "2 subjects are in two splits")


def test_a_truncated_shard_is_a_format_error(tmp_path: Path) -> None:
    file = _meds(tmp_path)
    file.write_bytes(file.read_bytes()[:-30])
    _refused(tmp_path, FormatError, "0.parquet is not a readable Parquet file")
