from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the clone."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real data sets (CHRONOWARD_TEST_DATA); tests that need it skip without it."""
    folder = os.environ.get("CHRONOWARD_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CHRONOWARD_TEST_DATA does not point to a folder of data sets")
    return Path(folder)
