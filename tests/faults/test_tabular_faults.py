"""Cases 1 to 20: text tables (and what of it concerns MEDS)."""

from __future__ import annotations

import codecs
import csv
import gzip
import os
import socket
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.faults.sources import (
    CONDITION,
    PERSON,
    SUBJECT,
    accepted,
    codes_of,
    conditions,
    refused,
    rows_of_meds,
    write_csv,
    write_meds,
)

from chronoward.data import assemble, prepare
from chronoward.errors import DataError, FormatError, LimitError, StateError
from chronoward.synthesize.folder import inert_columns


def test_case_01_an_empty_file_is_a_data_error_in_csv_and_a_format_error_in_parquet(
    tmp_path: Path,
) -> None:
    refused(write_csv(tmp_path / "a", measurement=""), DataError, r"measurement\.csv: .* empty")
    meds = write_meds(tmp_path / "b", rows_of_meds())
    (meds / "data" / "1.parquet").write_bytes(b"")
    refused(meds, FormatError, r"1\.parquet is not a readable Parquet file")


def test_case_02_a_header_alone_is_a_warning(tmp_path: Path) -> None:
    tables = {
        "condition_occurrence": CONDITION,
        "death": "person_id,death_date\n",
        "visit_occurrence": "visit_occurrence_id,person_id,visit_concept_id,visit_start_date\n",
    }
    report = accepted(write_csv(tmp_path / "a", **tables)).report
    assert report["warnings"] == [f"table {name} has no rows" for name in tables]
    meds = accepted(write_meds(tmp_path / "b", rows_of_meds().slice(0, 0)))
    assert (meds.n_subjects, meds.n_events) == (0, 0)
    assert meds.report["warnings"] == ["the source has no events"]


def test_case_02_a_person_table_without_persons_is_a_data_error(tmp_path: Path) -> None:
    refused(write_csv(tmp_path / "a", person=PERSON), DataError, "table person has no rows")


def test_case_03_a_missing_column_is_a_data_error_that_names_it(tmp_path: Path) -> None:
    lame = "condition_occurrence_id,person_id,condition_start_date\n1,1,2020-01-01\n"
    source = write_csv(tmp_path / "a", condition_occurrence=lame)
    refused(source, DataError, r"condition_occurrence\.csv: .* condition_concept_id is missing")
    meds = write_meds(tmp_path / "b", rows_of_meds(code=None))
    refused(meds, DataError, r"0\.parquet: required column code is missing")


def test_case_04_extra_columns_are_ignored_and_listed(tmp_path: Path) -> None:
    table = CONDITION.strip() + f",Shoe_Size,note\n1,{SUBJECT},316139,2020-01-01,x,44,y\n"
    prepared = accepted(write_csv(tmp_path / "a", condition_occurrence=table))
    assert codes_of(prepared) == ["OMOP/316139"]
    assert prepared.report["columns_not_read"] == {"condition_occurrence": ["note", "shoe_size"]}
    columns = rows_of_meds(shoe_size=[1, 2, 3], Unit=[1, 2, 3])  # not the unit that we know: text
    meds = accepted(write_meds(tmp_path / "b", columns))
    assert meds.report["columns_not_read"] == {"data": ["Unit", "shoe_size"]}


def test_case_05_a_column_that_is_there_twice_is_a_data_error(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "a", measurement="person_id,PERSON_ID\n1,1\n")
    refused(source, DataError, r"measurement\.csv: column PERSON_ID is there twice")
    table = rows_of_meds()
    twice = pa.Table.from_arrays([*table.columns, table["code"]], [*table.column_names, "code"])
    refused(write_meds(tmp_path / "b", twice), DataError, r"0\.parquet: column code is there twice")


@pytest.mark.parametrize("bad", ["1.5", "2.000000001"])
def test_case_06_a_fraction_is_no_id_and_never_rounded_to_another_persons(
    tmp_path: Path, bad: str
) -> None:
    source = write_csv(tmp_path / "a", person=f"{PERSON}2,8532,1950,3,4\n{bad},8507,1950,3,4\n")
    message = refused(source, DataError, r"person\.csv: column person_id: 1 fractional ids \(row 2")
    assert bad not in message
    persons = f"{PERSON}1,8532,1950,3,4\n2,8507,1950,3,4\n"
    table = f"{CONDITION}1,{bad},316139,2020-01-01,x\n"
    prepared = accepted(write_csv(tmp_path / "b", person=persons, condition_occurrence=table))
    assert prepared.report["rules"] == {"missing_subject": 1}


def test_case_06_integral_floats_are_ids_up_to_2_to_the_53(tmp_path: Path) -> None:
    table = f"{CONDITION}1,{SUBJECT}.0,316139.0,2020-01-01,x\n"
    prepared = accepted(write_csv(tmp_path / "a", condition_occurrence=table))
    assert codes_of(prepared) == ["OMOP/316139"]
    for number, is_good in ((2.0**53, True), (2.0**53 + 2, False), (1.5, False)):
        source = tmp_path / f"p{number}"
        source.mkdir()
        columns = {"person_id": [number], "gender_concept_id": [8507], "year_of_birth": [1950]}
        pq.write_table(pa.table(columns), source / "person.parquet")
        if is_good:
            assert accepted(source).n_subjects == 1
        else:
            refused(source, DataError, r"person\.parquet: column person_id: 1 .* \(row 1 is one\)")
    refused(
        write_meds(tmp_path / "m", rows_of_meds(subject_id=pa.array([1.0, 1.0, 2.5]))),
        DataError,
        "column subject_id has type DOUBLE, expected INTEGER",
    )


def test_case_07_records_without_subject_are_counted_and_persons_without_id_refused(
    tmp_path: Path,
) -> None:
    table = f"{CONDITION}1,,316139,2020-01-01,x\n2,{SUBJECT},316139,2020-01-01,x\n"
    prepared = accepted(write_csv(tmp_path / "a", condition_occurrence=table))
    assert prepared.report["rules"]["missing_subject"] == 1
    source = write_csv(tmp_path / "b", person=f"{PERSON}1,8532,1950,3,4\n,8507,1950,3,4\n")
    refused(source, DataError, r"person\.csv: column person_id: 1 rows without person_id \(row 2")
    nulls = rows_of_meds(subject_id=pa.array([None, SUBJECT, SUBJECT], pa.int64()))
    meds = accepted(write_meds(tmp_path / "c", nulls))
    assert meds.report["rules"] == {"missing_subject": 1}


@pytest.mark.parametrize("ids", [("007", "7"), ("P-01", "P-02"), ("z" * 200, "y" * 200)])
def test_case_08_ids_that_are_text_are_kept_apart_and_mapped(
    tmp_path: Path, ids: tuple[str, str]
) -> None:
    persons = PERSON + "".join(f"{i},8532,1950,3,4\n" for i in ids)
    table = f"{CONDITION}1,{ids[0]},316139,2020-01-01,x\n"
    prepared = accepted(write_csv(tmp_path / "a", person=persons, condition_occurrence=table))
    mapping = pq.read_table(prepared.path / "subject_ids.parquet").to_pylist()
    assert {row["person_id"] for row in mapping} == set(ids)
    assert prepared.n_subjects == 2
    assert codes_of(prepared) == ["OMOP/316139"]


def test_case_09_codes_that_look_like_numbers_or_nulls_stay_strings(tmp_path: Path) -> None:
    odd = ["001", "NA", "null", "1E10"]
    table = conditions(*(f"0,2020-01-0{i},{code}" for i, code in enumerate(odd, 1)))
    prepared = accepted(write_csv(tmp_path / "a", condition_occurrence=table))
    assert codes_of(prepared) == [f"Source/{code}" for code in odd]
    meds = accepted(write_meds(tmp_path / "b", rows_of_meds(code=pa.array(["NA", "001", "null"]))))
    assert sorted(codes_of(meds)) == ["001", "NA", "null"]


def test_case_10_an_open_quote_or_a_nul_byte_is_a_data_error_with_its_line(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "a", condition_occurrence=conditions('0,2020-01-01,"x'))
    refused(source, DataError, r"condition_occurrence\.csv: line 2: a quoted field does not end")
    nul = conditions("0,2020-01-01,x", "0,2020-01-01,y\0z")
    source = write_csv(tmp_path / "b", condition_occurrence=nul)
    refused(source, DataError, r"csv: column condition_source_value, row 2: a NUL byte")
    source = write_csv(tmp_path / "c", condition_occurrence=CONDITION.replace("source", "sou\0rce"))
    refused(source, DataError, r"condition_occurrence\.csv: line 1: a NUL byte in the header")
    meds = write_meds(tmp_path / "d", rows_of_meds(code=pa.array(["A\0B", "A", "B"])))
    refused(meds, DataError, r"0\.parquet: column code: a NUL byte")


def test_case_10_a_quoted_line_end_is_part_of_its_field(tmp_path: Path) -> None:
    table = conditions('0,2020-01-01,"x\ny"', "0,2020-01-02,z")
    prepared = accepted(write_csv(tmp_path / "a", condition_occurrence=table))
    assert codes_of(prepared) == ["Source/x\ny", "Source/z"]


@pytest.mark.parametrize(
    ("encoding", "line"), [("utf-16", 1), ("utf-16-le", 1), ("latin-1", 3), ("cp1252", 3)]
)
def test_case_11_other_encodings_are_data_errors_with_their_line(
    tmp_path: Path, encoding: str, line: int
) -> None:
    table = conditions("0,2020-01-01,x", "0,2020-01-01,ä").encode(encoding)
    source = write_csv(tmp_path / "a", condition_occurrence=table)
    refused(source, DataError, rf"condition_occurrence\.csv: line {line}: (not UTF-8|a NUL)")


def test_case_11_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    table = codecs.BOM_UTF8 + conditions("316139,2020-01-01,x").encode()
    prepared = accepted(write_csv(tmp_path / "a", condition_occurrence=table))
    assert codes_of(prepared) == ["OMOP/316139"]


def test_case_11_text_of_a_parquet_file_that_is_not_utf8_is_a_format_error(tmp_path: Path) -> None:
    raw = pa.array([b"GENDER//F", b"\xff\xfe", b"B"], pa.binary())
    code = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    meds = write_meds(tmp_path / "a", rows_of_meds(code=code))
    refused(meds, FormatError, r"0\.parquet: column code: corrupt, or not UTF-8")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_case_12_a_line_may_end_in_lf_crlf_or_cr(tmp_path: Path, end: str) -> None:
    table = conditions("0,2020-01-01,x", "0,2020-01-02,y").replace("\n", end).encode()
    prepared = accepted(write_csv(tmp_path / "a", condition_occurrence=table))
    assert codes_of(prepared) == ["Source/x", "Source/y"]


def test_case_12_line_ends_of_two_kinds_in_one_file_are_a_data_error_that_says_so(
    tmp_path: Path,
) -> None:
    lines = conditions("0,2020-01-01,x", "0,2020-01-02,y", "0,2020-01-03,z").splitlines()
    table = "\r\n".join(lines[:2]) + "\n" + "\r\n".join(lines[2:])
    source = write_csv(tmp_path / "a", condition_occurrence=table.encode())
    refused(source, DataError, r"condition_occurrence\.csv: line ends of several kinds")


@pytest.mark.parametrize(("row", "n"), [("0,2020-01-01", 4), ("0,2020-01-01,x,y", 6)])
def test_case_13_a_ragged_row_is_a_data_error_with_its_line(
    tmp_path: Path, row: str, n: int
) -> None:
    source = write_csv(tmp_path / "a", condition_occurrence=conditions("0,2020-01-01,x", row))
    refused(source, DataError, rf"csv: line 3: expected number of columns: 5 found: {n}$")


def test_case_14_a_field_of_ten_megabytes_is_a_limit_error(tmp_path: Path) -> None:
    long = "x" * 10_000_000
    source = write_csv(tmp_path / "a", condition_occurrence=conditions(f"0,2020-01-01,{long}"))
    message = refused(source, LimitError, r"csv: line 2: the line is longer than 8,388,608 bytes")
    assert len(message) < 1000
    source = write_csv(tmp_path / "b", measurement=f"person_id,{long}\n")
    refused(source, LimitError, r"measurement\.csv: a header of more than 1,048,576 bytes")
    for name in ("code", "text_value"):
        meds = write_meds(tmp_path / name, rows_of_meds(**{name: pa.array(["A", long, "B"])}))
        refused(meds, LimitError, rf"0\.parquet: column {name}: a text of 10,000,000 bytes")


def test_case_15_formulas_are_text_in_and_escaped_in_every_csv_that_is_written(
    tmp_path: Path,
) -> None:
    formula = '=HYPERLINK("http://example.org")'
    quoted = formula.replace('"', '""')
    table = conditions(f'0,2020-01-01,"{quoted}"')
    prepared = accepted(write_csv(tmp_path / "a", condition_occurrence=table))
    assert codes_of(prepared) == [f"Source/{formula}"]
    texts = [formula, "+1", "-1", "@SUM(A1)", "\t=1", "I50.9", "a=b", None]
    connection = duckdb.connect()
    connection.register("made", pa.table({"number": range(len(texts)), "text": texts}))
    rows = connection.sql(f"SELECT {inert_columns(connection, 'made')} FROM made").fetchall()
    assert [text for _, text in rows] == [f"'{text}" for text in texts[:5]] + texts[5:]


@pytest.mark.parametrize("text", ["1,234", "1.234,5", "1_000", "1 000", "0x1F"])
def test_case_16_numbers_of_other_locales_are_nulled_and_counted(tmp_path: Path, text: str) -> None:
    header = "measurement_id,person_id,measurement_concept_id,measurement_date,value_as_number\n"
    table = f'{header}1,{SUBJECT},3004501,2020-01-01,"{text}"\n'
    prepared = accepted(write_csv(tmp_path / "a", measurement=table))
    assert prepared.report["rules"]["value_unparsable"] == 1
    assert [row["numeric_value"] for table in prepared.batches() for row in table.to_pylist()] == [
        None
    ] * prepared.n_events


@pytest.mark.parametrize(
    "damage",
    [lambda z: z + b"garbage", lambda z: z[: len(z) // 2], lambda z: z[:-4], lambda _: b"hello"],
    ids=["garbage", "half", "no-size", "no-gzip"],
)
def test_case_17_a_damaged_gzip_file_is_a_format_error_that_names_it(
    tmp_path: Path, damage: object
) -> None:
    rows = [f"0,2020-01-01,x{i}" for i in range(3000)]
    packed = gzip.compress(conditions(*rows).encode())
    assert callable(damage)
    source = write_csv(tmp_path / "a", **{"condition_occurrence.csv.gz": damage(packed)})
    refused(source, FormatError, r"condition_occurrence\.csv\.gz: damaged gzip file")


@pytest.mark.parametrize("form", ["omop", "meds"])
def test_case_18_a_file_that_changes_while_it_is_read_is_a_state_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    if form == "omop":
        source = write_csv(tmp_path / "a", condition_occurrence=conditions("0,2020-01-01,x"))
        path = source / "condition_occurrence.csv"
    else:
        source = write_meds(tmp_path / "a", rows_of_meds())
        path = source / "data" / "0.parquet"
    make_report = assemble.make_report

    def grow(*arguments: object, **options: object) -> object:
        with path.open("ab") as handle:
            handle.write(f"2,{SUBJECT},0,2020-01-02,y\n".encode())
        return make_report(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(assemble, "make_report", grow)
    refused(source, StateError, "changed while they were read")


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path may have 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        _socket,
        lambda path: path.symlink_to(path.name),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("nowhere"),
    ],
    ids=["pipe", "socket", "loop", "device", "broken"],
)
def test_case_19_what_is_no_regular_file_is_a_data_error(tmp_path: Path, make: object) -> None:
    assert callable(make)
    source = write_csv(tmp_path / "a")
    make(source / "measurement.csv")
    refused(source, DataError, r"measurement\.csv is no regular file")
    meds = write_meds(tmp_path / "b", rows_of_meds())
    make(meds / "data" / "1.parquet")
    refused(meds, DataError, r"1\.parquet is no regular file")


def test_case_19_an_empty_folder_named_like_a_table_is_a_data_error(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "a")
    (source / "measurement.csv").mkdir()
    refused(source, DataError, r"measurement\.csv is a folder without parts of a table")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileNotFoundError, match="loop"):
        prepare(tmp_path / "loop", tmp_path / "work")


def test_case_20_duplicate_rows_are_merged_and_counted_and_a_file_twice_is_refused(
    tmp_path: Path,
) -> None:
    table = conditions(*["0,2020-01-01,x"] * 3, "0,2020-01-02,x")
    prepared = accepted(write_csv(tmp_path / "a", condition_occurrence=table))
    assert prepared.report["rules"]["exact_duplicate"] == 2
    assert codes_of(prepared) == ["Source/x", "Source/x"]
    source = write_csv(tmp_path / "b", condition_occurrence=table)
    (source / "Condition_Occurrence.tsv").write_text(table.replace(",", "\t"))
    refused(source, DataError, "table condition_occurrence is there twice")
    meds = write_meds(tmp_path / "c", rows_of_meds())
    write_meds(meds, rows_of_meds(), "data/copy.parquet")
    refused(meds, DataError, r"copy\.parquet: a subject of this file is in an earlier file too")


def test_case_20_parts_of_a_table_that_hold_the_same_rows_are_merged(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "a")
    (source / "condition_occurrence").mkdir()
    for name in ("1.csv", "2.csv"):
        (source / "condition_occurrence" / name).write_text(conditions("0,2020-01-01,x"))
    prepared = accepted(source)
    assert prepared.report["rules"]["exact_duplicate"] == 1
    assert len(list(csv.reader(codes_of(prepared)))) == 1
