"""Whatever an OMOP database holds, production makes of it what the twin makes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.omop_rows import write_omop
from tests.twin.comparison import QUICK, THOROUGH, assert_same
from tests.twin.omop import Tables, mend_omop
from tests.twin.omop_databases import SUBJECTS, ingest_configs, omop_databases

from chronoward.data import IngestConfig, prepare

EXCLUDED = st.sampled_from([(), (), (int(SUBJECTS[1]),)])


def check(tables: Tables, config: IngestConfig, excluded: tuple[int, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = {name: rows for name, rows in tables.items() if rows}
        source = write_omop(Path(folder) / "source", written)
        work = Path(folder) / "work"
        prepared = prepare(source, work, config=config, exclude_subjects=excluded or None)
        assert_same(prepared, mend_omop(written, config, set(excluded)))


@QUICK
@given(tables=omop_databases(), config=ingest_configs(), excluded=EXCLUDED)
def test_production_makes_of_a_database_what_the_twin_makes(
    tables: Tables, config: IngestConfig, excluded: tuple[int, ...]
) -> None:
    check(tables, config, excluded)


@pytest.mark.slow
@THOROUGH
@given(tables=omop_databases(), config=ingest_configs(), excluded=EXCLUDED)
def test_production_makes_of_many_databases_what_the_twin_makes(
    tables: Tables, config: IngestConfig, excluded: tuple[int, ...]
) -> None:
    check(tables, config, excluded)
