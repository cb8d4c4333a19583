"""Text read by the core is what SQL reads of it; what the core will not read is left to SQL."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronoward._core import read_csv
from chronoward.data import prepare, record_text
from chronoward.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.data import PreparedEvents

IDS = ("3004249", "7", "007", " 7", "7.0", "7.5", "+5", "-3", "0x1F", "1e3", "", "NA", "0", "8840")
DAYS = (
    "2020-01-05",
    "20200105",
    "2020-1-5",
    " 2020-01-05",
    "2020-02-30",
    "infinity",
    "",
    "0001-01-01",
)
TIMES = ("2020-01-05 10:30:00", "2020-01-05T10:30:00.5", "2020-01-05 00:00:00", "2020-01-05 10:30",
         "2020-01-05 24:00:00", "", "x")  # fmt: skip
NUMBERS = (
    "1.5",
    "-1e3",
    "1_000",
    ".5",
    "5.",
    "nan",
    "inf",
    "1e999",
    "",
    " 2",
    "-0.0",
    "0x10",
    "1,5",
)
TEXTS = ("POS", " pos ", "\u00a0POS", "\u3000x \u00a0", "> 5", 'a "quoted" word', "two\nlines", "",
         "é", "not done", "x" * 300, "y" * 300, "1.25")  # fmt: skip
KEYS = ("{}", "{}", "{}", "0{}", "K{}", "{}.0")
COLUMNS = {
    "measurement_concept_id": IDS,
    "measurement_source_concept_id": IDS,
    "measurement_source_value": TEXTS,
    "measurement_date": DAYS,
    "measurement_datetime": TIMES,
    "measurement_type_concept_id": IDS,
    "operator_concept_id": ("", "4171756", "4171756.0"),
    "value_as_number": NUMBERS,
    "value_as_concept_id": (*IDS, "9191"),
    "unit_concept_id": ("8840", "8840.0", "", "0"),
    "unit_source_value": ("mg/dL", " mg/dL", "\u00a0g/L", ""),
    "value_source_value": TEXTS,
    "visit_occurrence_id": ("1", "1.0", "", "x"),
}


def _rows(seed: int, keys: tuple[str, ...]) -> pa.Table:
    rng = random.Random(seed)
    n = 600
    columns = {
        "measurement_id": [rng.choice(keys).format(i + 1) for i in range(n)],
        "person_id": [rng.choice(("1", "2", "2.0", " 1", "3", "", "x")) for _ in range(n)],
    }
    columns |= {name: [rng.choice(values) for _ in range(n)] for name, values in COLUMNS.items()}
    return pa.table(columns)


def _quoted(value: str) -> str:
    special = any(c in value for c in ',"\n')
    return '"' + value.replace('"', '""') + '"' if special else value


def _write(folder: Path, rows: pa.Table, end: str = "\n") -> Path:
    folder.mkdir(parents=True)
    lines = [",".join(rows.column_names)]
    lines += [",".join(map(_quoted, row.values())) for row in rows.to_pylist()]
    (folder / "measurement.csv").write_bytes((end.join(lines) + end).encode())
    (folder / "person.csv").write_text(
        "person_id,gender_concept_id,year_of_birth\n1,8507,1950\n2,8532,1960\n"
    )
    (folder / "visit_occurrence.csv").write_text(
        "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_end_date\n"
        "1,1,9201,2020-01-04,2020-01-06\n"
    )
    return folder


def _content(prepared: PreparedEvents) -> tuple[list, list, dict]:
    events = [row for batch in prepared.batches() for row in batch.to_pylist()]
    return events, pq.read_table(prepared.path / "ledger").to_pylist(), prepared.report


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("keys", [("{}",), KEYS], ids=["integer_keys", "any_keys"])
def test_odd_text_means_to_the_core_what_it_means_to_sql(
    tmp_path: Path, seed: int, keys: tuple[str, ...]
) -> None:
    rows = _rows(seed, keys)
    by_core = prepare(_write(tmp_path / "text", rows), tmp_path / "by_core")
    as_parquet = _write(tmp_path / "parquet", rows)
    (as_parquet / "measurement.csv").unlink()
    nulled = [[v or None for v in rows[name].to_pylist()] for name in rows.column_names]
    table = pa.table([pa.array(c, pa.string()) for c in nulled], rows.column_names)
    pq.write_table(table, as_parquet / "measurement.parquet")
    by_sql = prepare(as_parquet, tmp_path / "by_sql")
    assert _content(by_core) == _content(by_sql)


def test_small_blocks_and_threads_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _write(tmp_path / "text", _rows(3, ("{}",)), end="\r\n")
    whole = prepare(source, tmp_path / "whole")
    monkeypatch.setattr(record_text, "_BLOCK_BYTES", 997)
    assert _content(prepare(source, tmp_path / "cut", threads=3)) == _content(whole)


@pytest.mark.parametrize(
    "block",
    [
        b"1,2,3\n",
        b"1\n",
        b"\n",
        b'1,a"b\n',
        b'1,"a"b\n',
        b'1,"open\n',
        b"1,2\r\n",
        b"1,2\r3,4\n",
        b"1,\0\n",
        b"1," + b"x" * 200 + b"\n",
    ],
)
def test_text_that_readers_of_csv_take_differently_is_refused(block: bytes) -> None:
    import numpy as np

    with pytest.raises(DataError):
        read_csv(
            block,
            delimiter=",",
            kinds=np.array([1, 6], np.uint8),
            ends_with_return=False,
            max_line_bytes=100,
            n_bytes=len(block),
            is_last=True,
        )
