"""Whatever a MEDS source holds, production makes of it what the twin makes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.twin.comparison import QUICK, THOROUGH, assert_same
from tests.twin.meds import MedsRow, mend_meds
from tests.twin.meds_databases import OPTIONAL, SUBJECTS, ingest_configs, meds_databases

from chronoward.data import IngestConfig, prepare

if TYPE_CHECKING:
    from random import Random

EXCLUDED = st.sampled_from([(), (), (SUBJECTS[0],)])
_TYPES = {
    **dict.fromkeys(("time", "end_time", "available_time"), pa.timestamp("us")),
    **dict.fromkeys(("code", "text_value", "unit", "table"), pa.string()),
    **dict.fromkeys(("subject_id", "visit_id"), pa.int64()),
    "numeric_value": pa.float64(),
}


def write(folder: Path, rows: list[MedsRow]) -> Path:
    """One shard; a column that may be missing and has no value is missing."""
    table = pa.table(
        {
            name: pa.array([row[name] for row in rows], kind)
            for name, kind in _TYPES.items()
            if name not in OPTIONAL or any(row[name] is not None for row in rows)
        }
    )
    (folder / "data").mkdir(parents=True)
    pq.write_table(table, folder / "data" / "0.parquet")
    return folder


def check(rows: list[MedsRow], config: IngestConfig, excluded: tuple[int, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "source", rows)
        work = Path(folder) / "work"
        prepared = prepare(source, work, config=config, exclude_subjects=excluded or None)
        assert_same(prepared, mend_meds(rows, config, set(excluded)))


@QUICK
@given(rows=meds_databases(), config=ingest_configs(), excluded=EXCLUDED)
def test_production_makes_of_a_source_what_the_twin_makes(
    rows: list[MedsRow], config: IngestConfig, excluded: tuple[int, ...]
) -> None:
    check(rows, config, excluded)


@QUICK
@given(rows=meds_databases(), config=ingest_configs(), order=st.randoms(use_true_random=False))
def test_the_order_of_a_subjects_rows_does_not_matter(
    rows: list[MedsRow], config: IngestConfig, order: Random
) -> None:
    def events(folder: Path, rows: list[MedsRow]) -> list[dict[str, Any]]:
        prepared = prepare(write(folder / "source", rows), folder / "work", config=config)
        return [event for piece in prepared.batches() for event in piece.to_pylist()]

    shuffled = sorted(
        order.sample(rows, len(rows)),
        key=lambda row: (row["subject_id"] is None, row["subject_id"] or 0),
    )
    with tempfile.TemporaryDirectory() as folder:
        wanted = events(Path(folder) / "a", rows)
        assert events(Path(folder) / "b", shuffled) == wanted


@pytest.mark.slow
@THOROUGH
@given(rows=meds_databases(), config=ingest_configs(), excluded=EXCLUDED)
def test_production_makes_of_many_sources_what_the_twin_makes(
    rows: list[MedsRow], config: IngestConfig, excluded: tuple[int, ...]
) -> None:
    check(rows, config, excluded)
