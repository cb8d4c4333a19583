"""Numbers of Arrow columns with a number of ours for null, wherever the column begins."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chronoward._core import fill_null
from chronoward.nulls import without_nulls

NULLS = (np.int32(-1), np.int64(-(2**63)), np.float32(np.nan), np.float64(0))


def column_of(raw: np.ndarray, is_known: np.ndarray) -> pa.Array:
    """A column of `raw`, some of which are no values."""
    bitmap = pa.py_buffer(np.packbits(is_known, bitorder="little"))
    kind = pa.from_numpy_dtype(raw.dtype)
    return pa.Array.from_buffers(kind, len(raw), [bitmap, pa.py_buffer(raw)])


@given(
    is_known=st.lists(st.booleans(), min_size=1, max_size=80),
    begin=st.integers(0, 20),
    null=st.sampled_from(NULLS),
    is_filled=st.booleans(),
)
@settings(deadline=None)
def test_null_is_a_number_of_ours(
    is_known: list[bool], begin: int, null: np.generic, is_filled: bool
) -> None:
    known = np.array(is_known)
    values = np.arange(1, len(known) + 1).astype(null.dtype)
    under = null if is_filled else null.dtype.type(77)
    column = column_of(np.where(known, values, under), known)
    found = without_nulls(column.slice(begin), null)
    assert found.dtype == null.dtype
    np.testing.assert_array_equal(found, np.where(known, values, null)[begin:])


def test_a_column_that_has_it_already_is_not_copied() -> None:
    known = np.arange(1000) % 3 > 0
    raw = np.where(known, np.arange(1000), -1)
    assert np.shares_memory(without_nulls(column_of(raw, known), np.int64(-1)), raw)
    for row in (0, 501, 999):  # of no value: the first and the last of all, and one between
        other = raw.copy()
        other[row] = 7
        found = without_nulls(column_of(other, known), np.int64(-1))
        np.testing.assert_array_equal(found, raw)


def test_a_bitmap_that_is_too_short_is_refused() -> None:
    with pytest.raises(IndexError, match="shorter than its column"):
        fill_null(np.zeros(20, np.uint32), np.full(2, 255, np.uint8), 0, 5)
