"""The core's reader of delimited text against Python's, wherever rows and quotes lie in a block."""

from __future__ import annotations

import csv
import io
import random
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chronoward._core import CsvPiece, TextNumbering, read_csv
from chronoward.errors import DataError

INTEGER, TIME, NUMBER, TEXT = 1, 3, 5, 6  # csrc/core/csv_layout.hpp
NULL = np.iinfo(np.int64).min
LINE_ENDS = pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])


def _read(block: bytes, kinds: list[int], end: str = "\n", delimiter: str = ",") -> CsvPiece:
    return read_csv(
        block,
        delimiter=delimiter,
        kinds=np.array(kinds, np.uint8),
        ends_with_return=end == "\r\n",
        max_line_bytes=1 << 20,
        n_bytes=len(block),
        is_last=True,
    )


def _texts(piece: CsvPiece, column: int) -> list[str]:
    numbering = TextNumbering()
    index = piece.texts(column, numbering)
    texts = ["", *numbering.texts()]
    return [texts[i + 1] for i in index.tolist()]


def _as_block(rows: list[list[str]], end: str, quoting: int = csv.QUOTE_MINIMAL) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator=end, quoting=quoting).writerows(rows)
    return out.getvalue().encode()


@LINE_ENDS
@given(
    rows=st.lists(st.tuples(*[st.text('ab",\n\u00e9', max_size=40)] * 3), min_size=1, max_size=40),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@settings(deadline=None)
def test_fields_are_those_that_were_written(
    end: str, rows: list[tuple[str, ...]], quoting: int
) -> None:
    block = _as_block([list(row) for row in rows], end, quoting)
    for piece in (_read(block, [TEXT] * 3, end), _read(block[: -len(end)], [TEXT] * 3, end)):
        assert piece.n_rows == len(rows)
        for column in range(3):
            assert _texts(piece, column) == [row[column] for row in rows]


@LINE_ENDS
@pytest.mark.parametrize("share_quoted", [0.0, 0.001, 0.2])
@pytest.mark.parametrize("n_columns", [1, 7, 10_000])
def test_more_fields_than_are_found_at_a_time(
    end: str, share_quoted: float, n_columns: int
) -> None:
    rng = random.Random(n_columns)
    rows = [
        [
            f"x{end},y" if rng.random() < share_quoted else str(rng.randrange(1, 10**9))
            for _ in range(n_columns)
        ]
        for _ in range(max(40_000 // n_columns, 3))
    ]
    chosen = sorted({0, n_columns // 2, n_columns - 1})
    kinds = [TEXT if column in chosen else 0 for column in range(n_columns)]
    piece = _read(_as_block(rows, end), kinds, end)
    assert piece.n_rows == len(rows)
    for column in chosen:
        assert _texts(piece, column) == [row[column] for row in rows]


@pytest.mark.parametrize("n_before", range(60, 68))
@pytest.mark.parametrize(
    "fault", [b"\0", b'"', b"\r", b",", b"\n"], ids=["nul", "quote", "cr", "field", "line"]
)
def test_a_fault_is_found_wherever_it_lies(n_before: int, fault: bytes) -> None:
    good = b"a" * n_before + b"b,c\n"
    assert _read(good * 3, [TEXT, 0]).n_rows == 3
    with pytest.raises(DataError):
        _read(good + b"a" * n_before + fault + b"b,c\n" + good, [TEXT, 0])


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_integers(value: int) -> None:
    assert _read(f"{value}\n".encode(), [INTEGER]).integers(0).tolist() == [value]


@pytest.mark.parametrize(
    "text", ["007", "-0", "1x", "x1", "1:", "/1", "12345678a", "+1", "1 2", "-"]
)
def test_what_is_no_plain_integer_is_left(text: str) -> None:
    piece = _read(f"{text}\n".encode(), [INTEGER])
    assert piece.unread(0)[2] == [text]
    assert piece.integers(0).tolist() == [NULL]


@given(
    digits=st.integers(0, 10**17),
    n_decimals=st.integers(0, 12),
    sign=st.sampled_from(["", "-"]),
    exponent=st.sampled_from(["", "", "e3", "E-7"]),
)
def test_numbers_are_the_nearest_ones(
    digits: int, n_decimals: int, sign: str, exponent: str
) -> None:
    text = str(digits).zfill(n_decimals + 1)
    point = len(text) - n_decimals
    text = sign + text[:point] + ("." + text[point:] if n_decimals else "") + exponent
    assert _read(f"{text}\n".encode(), [NUMBER]).numbers(0).tolist() == [float(text)]


@pytest.mark.parametrize(
    "text", ["1.", ".5", "1..2", "1.2.3", ".", "1,5", "1e", "--1", "1:2", "1 "]
)
def test_what_is_no_plain_number_is_left(text: str) -> None:
    piece = _read(f'"{text}"\n'.encode(), [NUMBER])
    assert piece.unread(0)[2] == [text]
    assert np.isnan(piece.numbers(0)).all()


@given(st.datetimes(), st.sampled_from([" ", "T"]))
def test_times(at: datetime, separator: str) -> None:
    text = at.isoformat(separator)
    since = at.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    us = (since.days * 86_400 + since.seconds) * 10**6 + since.microseconds
    assert _read(f"{text}\n".encode(), [TIME]).integers(0).tolist() == [us]


@pytest.mark.parametrize(
    "text",
    [
        "2021-02-29",
        "2020-13-01",
        "2020-00-10",
        "0000-01-01",
        "2020-1-5",
        "2020/01/05",
        "2020-01-0x",
        "2020-01-05 24:00:00",
        "2020-01-05 10:60:00",
        "2020-01-05 10:30",
        "2020-01-05 10:30:00.",
        "2020-01-05 10:30:00.1234567",
        "2020-01-05x10:30:00",
        "2020-01-05 1a:30:00",
        "20:0-01-05",
    ],
)
def test_what_is_no_plain_time_is_left(text: str) -> None:
    piece = _read(f"{text}\n".encode(), [TIME])
    assert piece.unread(0)[2] == [text]
    assert piece.integers(0).tolist() == [NULL]
