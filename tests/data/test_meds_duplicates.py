"""Rows of a MEDS source that stand twice: the core against a set of tuples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from tests.faults.sources import write_meds

from chronoward.data import prepare
from chronoward.data.ledger import read_ledger

if TYPE_CHECKING:
    from pathlib import Path

N_SUBJECTS, N_ROWS = 12, 240


def rows(seed: int, *, n_codes: int, n_times: int, is_ascending: bool) -> pa.Table:
    """Whole subjects, of each 240 rows with few codes, times and numbers."""
    random = np.random.default_rng(seed)
    n = N_SUBJECTS * N_ROWS
    minute = random.integers(0, n_times, (N_SUBJECTS, N_ROWS)) * 60_000_000
    if is_ascending:
        minute.sort(axis=1)
    number = random.integers(0, 40, n)
    return pa.table(
        {
            "subject_id": np.repeat(np.arange(N_SUBJECTS), N_ROWS),
            "time": pa.array(minute.ravel(), pa.timestamp("us")),
            "code": [f"LAB//{code}" for code in random.integers(0, n_codes, n)],
            "numeric_value": pa.array(number / 4, pa.float32(), mask=number == 0),
        }
    )


@pytest.mark.parametrize("is_ascending", [True, False])
@pytest.mark.parametrize(
    ("n_codes", "n_times"), [(60, 40), (3, 40), (1, 2), (40, 1)], ids=["few", "runs", "one", "day"]
)
def test_a_row_is_removed_where_an_earlier_one_says_the_same(
    tmp_path: Path, n_codes: int, n_times: int, is_ascending: bool
) -> None:
    table = rows(n_codes + n_times, n_codes=n_codes, n_times=n_times, is_ascending=is_ascending)
    prepared = prepare(write_meds(tmp_path / "meds", table), tmp_path / "work")
    seen, is_copy = set(), []
    for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
        is_copy.append(row in seen)
        seen.add(row)
    assert 0 < sum(is_copy) < len(is_copy)
    found = read_ledger(prepared.path / "ledger").sort_by("key")
    assert found["rule"].to_pylist() == ["exact_duplicate" if copy else None for copy in is_copy]
