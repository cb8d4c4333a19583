from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.score.made import Made, make_all

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """RUN, store, cohort and outcome file."""
    folder: Path = tmp_path_factory.mktemp("made")
    return make_all(folder)
