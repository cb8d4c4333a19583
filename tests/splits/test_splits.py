from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from chronoward.errors import DataError
from chronoward.splits import hash_split, source_split


def test_the_hash_gives_eight_one_one_tenths() -> None:
    ids = np.arange(-50_000, 50_000, dtype=np.int64)
    names, counts = np.unique(hash_split(ids), return_counts=True)
    assert names.tolist() == ["held_out", "train", "tuning"]
    assert np.abs(counts / len(ids) - [0.1, 0.8, 0.1]).max() < 0.005


def test_a_subject_keeps_its_split_whatever_else_is_there() -> None:
    ids = np.asarray([-5, 3, 2**62, 17], np.int64)
    assert hash_split(ids).tolist() == [hash_split(ids[i : i + 1])[0] for i in range(4)]


def test_source_splits_are_joined_by_id() -> None:
    table = pa.table({"subject_id": [9, 2, 5], "split": ["tuning", "train", "held_out"]})
    assert source_split(np.asarray([5, 9]), table).tolist() == ["held_out", "tuning"]


@pytest.mark.parametrize(
    ("ids", "split", "message"),
    [([2], "train", "1 subjects have no split"), ([1], "validation", "unknown splits")],
)
def test_missing_and_unknown_splits_are_errors(ids: list[int], split: str, message: str) -> None:
    table = pa.table({"subject_id": [1], "split": [split]})
    with pytest.raises(DataError, match=message):
        source_split(np.asarray(ids), table)
