from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from chronoward.errors import FormatError
from chronoward.evaluation.sections import combine, plain, read_metrics, write_section

if TYPE_CHECKING:
    from pathlib import Path


def test_plain_has_no_nan_and_no_numpy() -> None:
    value = {"a": np.float64("nan"), "b": np.arange(2), "c": (np.int64(3), np.True_), "d": 1 / 3}
    assert plain(value) == {"a": None, "b": [0, 1], "c": [3, True], "d": 0.333333333}


def test_sections_merge_and_the_bytes_repeat(tmp_path: Path) -> None:
    write_section(tmp_path, "omop", {"checks": []})
    path = write_section(tmp_path, "synthetic", {"metrics": {}})
    assert set(read_metrics(tmp_path)) == {"schema", "omop", "synthetic"}
    first = path.read_bytes()
    assert combine(tmp_path).read_bytes() == first


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "omop.json").write_text('{"schema": 99}')
    with pytest.raises(FormatError, match="schema 99"):
        combine(tmp_path)
