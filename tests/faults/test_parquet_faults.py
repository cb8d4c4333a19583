"""Cases 21 to 31: Parquet and Arrow."""

from __future__ import annotations

import decimal
import json
import resource
import struct
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.faults.sources import (
    SUBJECT,
    TIME_US,
    accepted,
    codes_of,
    events_of,
    refused,
    rows_of_meds,
    write_csv,
    write_meds,
)
from tests.store.timelines import make_batch, open_writer

from chronoward import files
from chronoward.data import parquet_file, prepare
from chronoward.data import write_meds as write_own_meds
from chronoward.data.meds_rows import Numbering
from chronoward.errors import DataError, FormatError, LimitError
from chronoward.store import TokenStore
from chronoward.tokenizer import FitCounts

if TYPE_CHECKING:
    from pathlib import Path

_TIMES = [None, datetime(2020, 1, 1), datetime(2020, 1, 2)]


def _damaged(source: Path, change: Any, name: str = "data/0.parquet") -> Path:
    path = source / name
    path.write_bytes(bytes(change(bytearray(path.read_bytes()))))
    return source


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b[:-9],
        lambda b: b[: len(b) // 2],
        lambda _: b"",
        lambda b: b"PAR2" + b[4:-4] + b"PAR2",
        lambda _: b"PAR1" + b"x" * 20 + b"PAR1",
    ],
    ids=["no-end", "half", "nothing", "magic", "nonsense"],
)
def test_case_21_truncated_and_foreign_files_are_format_errors(tmp_path: Path, change: Any) -> None:
    meds = _damaged(write_meds(tmp_path / "a", rows_of_meds()), change)
    refused(meds, FormatError, r"data/0\.parquet is not a readable Parquet file")
    for name in ("codes", "subject_splits", "observation"):
        table = pa.table({"subject_id": [1], "split": ["train"], "code": ["A"]})
        meds = write_meds(tmp_path / name, rows_of_meds())
        write_meds(meds, table, f"metadata/{name}.parquet")
        _damaged(meds, change, f"metadata/{name}.parquet")
        refused(meds, FormatError, rf"{name}\.parquet is not a readable Parquet file")
    omop = write_csv(tmp_path / "omop")
    pq.write_table(rows_of_meds(), omop / "measurement.parquet")
    _damaged(omop, change, "measurement.parquet")
    refused(omop, FormatError, r"measurement\.parquet is not a readable Parquet file")


def _large() -> pa.Table:
    n = 4000
    code = [f"C{i % 97}" for i in range(n)]
    return pa.table({"subject_id": [SUBJECT] * n, "time": pa.array([0] * n, TIME_US), "code": code})


def test_case_22_a_flipped_bit_in_a_page_with_a_checksum_is_a_format_error(tmp_path: Path) -> None:
    whole = write_meds(tmp_path / "w", _large(), write_page_checksum=True)
    assert accepted(whole).report["warnings"] == []
    chunk = pq.read_metadata(whole / "data" / "0.parquet").row_group(0).column(2)
    end = chunk.dictionary_page_offset + chunk.total_compressed_size
    for position in range(chunk.data_page_offset + 60, end, 300):
        meds = write_meds(tmp_path / str(position), _large(), write_page_checksum=True)

        def flip(content: bytearray, at: int = position) -> bytearray:
            content[at] ^= 1 << at % 8
            return content

        refused(_damaged(meds, flip), FormatError, r"0\.parquet is not .*(crc|checksum|CRC)")


def test_case_22_files_without_checksums_are_named_in_a_warning(tmp_path: Path) -> None:
    report = accepted(write_meds(tmp_path / "a", rows_of_meds())).report
    assert report["warnings"] == [
        "there are files without page checksums: damage inside pages may go unseen"
    ]


def test_case_22_all_parquet_files_of_ours_carry_checksums(tmp_path: Path) -> None:
    prepared = accepted(write_meds(tmp_path / "a", rows_of_meds()))
    write_own_meds(prepared.batches(), tmp_path / "own", codes=prepared.codes)
    written = [*(tmp_path / "own").rglob("*.parquet"), *prepared.path.glob("*.parquet")]
    assert len(written) >= 4
    for file in written:
        assert parquet_file.has_page_checksums(file, pq.read_metadata(file)), file


def test_case_23_a_flipped_bit_in_the_footer_is_an_error_of_ours_or_changes_nothing(
    tmp_path: Path,
) -> None:
    whole = write_meds(tmp_path / "w", rows_of_meds())
    content = (whole / "data" / "0.parquet").read_bytes()
    n_footer = struct.unpack("<I", content[-8:-4])[0]
    expected, named = events_of(accepted(whole)), list[bool]()
    for position in range(len(content) - n_footer - 8, len(content), 61):
        broken = bytearray(content)
        broken[position] ^= 1 << position % 8
        meds = write_meds(tmp_path / str(position), rows_of_meds())
        (meds / "data" / "0.parquet").write_bytes(broken)
        try:
            found = accepted(meds)
        except (DataError, FormatError, LimitError) as error:
            named.append("0.parquet" in str(error))
        else:
            assert len(events_of(found)) <= len(expected)
    assert len(named) > 5
    assert all(named)


def test_case_24_a_bomb_is_a_limit_error_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, long = 300, "x" * 1_000_000
    table = pa.table(
        {
            "subject_id": pa.array([SUBJECT] * n),
            "time": pa.array([0] * n, TIME_US),
            "code": pa.array([f"{i}{long}" for i in range(n)]),
        }
    )
    meds = write_meds(tmp_path / "a", table, compression="zstd", use_dictionary=False)
    del table
    assert (meds / "data" / "0.parquet").stat().st_size < 1_000_000
    monkeypatch.setattr(parquet_file, "MAX_TEXT_CHUNK_BYTES", 100_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(meds, LimitError, r"0\.parquet: column code, row group 0: 300,\d+,\d+ bytes of text")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_case_25_a_footer_of_a_million_columns_is_a_limit_error(tmp_path: Path) -> None:
    meds = write_meds(tmp_path / "a", rows_of_meds())
    n = parquet_file.MAX_FOOTER_BYTES + 1
    (meds / "data" / "0.parquet").write_bytes(b"PAR1" + bytes(n) + struct.pack("<I", n) + b"PAR1")
    refused(meds, LimitError, r"0\.parquet: its footer has 33,554,433 bytes, over the limit")
    header = ",".join(f"c{i}" for i in range(10_001))
    source = write_csv(tmp_path / "b", measurement=header + "\n")
    refused(source, LimitError, r"measurement\.csv: 10,001 columns, over the limit of 10,000")


def test_case_26_hostile_offsets_in_arrow_files_are_format_errors(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "store")
    writer.add(make_batch(np.arange(20), np.full(20, 9)), np.zeros(20, np.uint8))
    writer.finish(calendar="real", observation="x", split_rule="hash", counts={})
    shard = tmp_path / "store" / "train" / "0.arrow"
    content = shard.read_bytes()
    offsets = (np.arange(21, dtype=np.int32) * 9).tobytes()
    at = content.index(offsets)
    for value in (-1, 2**31 - 1, 10_000):
        hostile = bytearray(content)
        hostile[at + 40 : at + 44] = np.int32(value).tobytes()
        shard.write_bytes(hostile)
        with pytest.raises(FormatError, match=r"train/0\.arrow"):
            TokenStore.open(tmp_path / "store").split("train")
        with pytest.raises(FormatError, match=r"0\.arrow does not match its SHA-256"):
            TokenStore.open(tmp_path / "store", verify="full")


def test_case_26_a_file_of_counts_is_validated_before_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    FitCounts().save(path)
    FitCounts.load(path)
    content = path.read_bytes()
    for position in range(0, len(content), 101):
        broken = bytearray(content)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        with suppress(FormatError):
            FitCounts.load(path)


def test_case_27_dictionary_indices_out_of_range_are_format_errors(tmp_path: Path) -> None:
    meds = write_meds(tmp_path / "a", rows_of_meds(code=pa.array(["A", "B", "A"])))
    path = meds / "data" / "0.parquet"
    chunk = pq.read_metadata(path).row_group(0).column(2)
    whole, n_refused = path.read_bytes(), 0
    for position in range(chunk.data_page_offset, chunk.data_page_offset + 60, 3):
        broken = bytearray(whole)
        broken[position] ^= 0x7E
        path.write_bytes(broken)
        try:
            prepared = prepare(meds, tmp_path / str(position))
        except FormatError:
            n_refused += 1
        else:
            assert prepared.report["tables"]["data"]["records"] == 3
    assert n_refused


def test_case_27_a_dictionary_array_is_checked_against_its_dictionary() -> None:
    indices = pa.array([0, 7, -3], pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array(["A", "B"]), safe=False)
    with pytest.raises(pa.ArrowInvalid, match="out of bounds"):
        Numbering().of_column(pa.chunked_array([column]), trim=False)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("subject_id", pa.array([[1], [1], [2]])),
        ("subject_id", pa.array([decimal.Decimal(1)] * 3, pa.decimal256(50, 2))),
        ("subject_id", pa.array([b"\0" * 16] * 3, pa.uuid())),
        ("time", pa.array([[datetime(2020, 1, 1)]] * 3)),
        ("time", pa.array([1, 2, 3], pa.duration("us"))),
        ("code", pa.array([{"a": 1}] * 3)),
        ("code", pa.array([b"A", b"B", b"C"])),
        ("numeric_value", pa.array([decimal.Decimal(1)] * 3, pa.decimal256(50, 2))),
        ("numeric_value", pa.array(["1", "2", "3"])),
        ("text_value", pa.array([[1.5], None, None])),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.type)[:12],
)
def test_case_28_nested_extension_and_wide_types_are_data_errors(
    tmp_path: Path, column: str, values: pa.Array
) -> None:
    meds = write_meds(tmp_path / "a", rows_of_meds(**{column: values}))
    refused(meds, DataError, rf"0\.parquet: column {column} has type .*, expected")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_case_29_every_unit_of_time_gives_the_same_events(tmp_path: Path, unit: str) -> None:
    expected = events_of(accepted(write_meds(tmp_path / "us", rows_of_meds())))
    table = rows_of_meds(time=pa.array(_TIMES, pa.timestamp(unit)))
    assert events_of(accepted(write_meds(tmp_path / "a", table, version="2.6"))) == expected


def test_case_29_times_with_a_zone_are_data_errors_beside_naive_ones_too(tmp_path: Path) -> None:
    aware = pa.array([datetime(2020, 1, 1, tzinfo=UTC)] * 3, pa.timestamp("us", "UTC"))
    meds = write_meds(tmp_path / "a", rows_of_meds())
    write_meds(meds, rows_of_meds(time=aware, subject_id=[1, 2, 3]), "data/1.parquet")
    refused(meds, DataError, r"1\.parquet: column time has a time zone")


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.large_string())],
    ids=str,
)
def test_case_30_how_text_is_stored_is_no_matter(tmp_path: Path, kind: pa.DataType) -> None:
    expected = events_of(accepted(write_meds(tmp_path / "plain", rows_of_meds())))
    code = pa.array(["GENDER//F", "A", "B"]).cast(kind)
    assert events_of(accepted(write_meds(tmp_path / "a", rows_of_meds(code=code)))) == expected


def test_case_31_files_of_a_newer_version_are_format_errors(tmp_path: Path) -> None:
    meds = write_meds(tmp_path / "a", rows_of_meds())
    (meds / "metadata").mkdir()
    description = meds / "metadata" / "dataset.json"
    for text, match in (
        ('{"meds_version": "1.0.0"}', r"dataset\.json: MEDS version 1\.0, .* reads up to 0\.4"),
        ('{"meds_version": "0.10"}', r"MEDS version 0\.10"),
        ('{"meds_version": "new"}', "meds_version is no version"),
        ("[]", "meds_version is no version"),
        ("{", r"dataset\.json is not valid JSON"),
    ):
        description.write_text(text)
        refused(meds, FormatError, match)
    description.write_text(json.dumps({"meds_version": "0.3.3"}))
    assert codes_of(accepted(meds)) == ["A", "B"]


def test_case_31_a_prepared_folder_of_a_newer_version_is_a_format_error(tmp_path: Path) -> None:
    prepared = accepted(write_meds(tmp_path / "a", rows_of_meds()))
    manifest = prepared.path / "prepared.json"
    files.write_json(manifest, files.read_json(manifest) | {"version": 99})
    with pytest.raises(FormatError, match=r"prepared\.json: version 99, expected"):
        type(prepared).open(prepared.path)
