from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from chronoward.data import PreparedEvents, prepare

from .omop_rows import Row, person, write_omop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from chronoward.data import IngestConfig


@pytest.fixture
def ingest(tmp_path: Path) -> Callable[..., PreparedEvents]:
    """Writes OMOP tables and prepares them: `ingest({...}, config=...)`."""
    runs: list[int] = []

    def run(
        tables: dict[str, list[Row]], config: IngestConfig | None = None, **other: Any
    ) -> PreparedEvents:
        runs.append(1)
        source = write_omop(tmp_path / f"source{len(runs)}", {"person": [person()]} | tables)
        return prepare(source, tmp_path / f"work{len(runs)}", config=config, **other)

    return run
