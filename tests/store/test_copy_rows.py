"""Rows of values that the core copies one after the other, and puts back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chronoward import _core
from chronoward.errors import DataError


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64, np.uint16, np.float64])
@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30),
)
def test_rows_are_copied_as_a_mask_over_their_values_would(
    rows: list[tuple[int, bool]], dtype: type[np.generic]
) -> None:
    lengths = np.array([n for n, _ in rows], np.int64)
    chosen = np.array([c for _, c in rows], np.bool_)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = np.arange(offsets[-1]).astype(dtype)
    expected = values[np.repeat(chosen, lengths)]
    out = np.zeros(len(expected), dtype)
    _core.copy_rows(offsets, np.flatnonzero(chosen), values, out)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
@given(lengths=st.lists(st.integers(0, 5), max_size=30), data=st.data())
def test_rows_are_put_back_to_where_they_were(
    lengths: list[int], data: st.DataObject, dtype: type[np.generic]
) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.array(data.draw(st.permutations(range(len(lengths)))), np.int64)[::2].copy()
    values = np.arange(1, offsets[-1] + 1).astype(dtype)
    is_chosen = np.repeat(np.isin(np.arange(len(lengths)), rows), lengths)
    beside = np.concatenate([values[:0], *(values[offsets[r] : offsets[r + 1]] for r in rows)])
    out = np.zeros_like(values)
    _core.put_rows(offsets, rows, beside, out)
    assert np.array_equal(out, np.where(is_chosen, values, 0))
    with pytest.raises(DataError):
        _core.put_rows(offsets, rows, np.append(beside, 0).astype(dtype), out)


@pytest.mark.parametrize(
    ("offsets", "rows", "n_out", "error"),
    [
        ([0, 2, 4], [2], 2, DataError),
        ([0, 2, 4], [-1], 2, DataError),
        ([0, 2, 4], [1], 3, DataError),
        ([0, 5, 4], [1], 2, ValueError),
        ([0, 2, 5], [1], 3, ValueError),
        ([], [], 0, ValueError),
    ],
)
def test_rows_outside_of_their_values_are_refused(
    offsets: list[int], rows: list[int], n_out: int, error: type[Exception]
) -> None:
    out = np.zeros(n_out, np.int32)
    with pytest.raises(error):
        _core.copy_rows(
            np.array(offsets, np.int64), np.array(rows, np.int64), np.arange(4, dtype=np.int32), out
        )
