"""Runs the tests of the folder `interpreter` where Triton interprets its kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("triton", reason="triton is not installed (extra [test])")


def interpret(repository: Path, marker: str) -> None:
    folder = repository / "tests" / "kernels" / "interpreter"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", marker, "-p", "no:cacheprovider", str(folder)],
        cwd=repository,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]


def test_the_interpreted_kernels_pass_the_quick_tests(repository: Path) -> None:
    interpret(repository, "not slow")


@pytest.mark.slow
def test_the_interpreted_kernels_pass_the_whole_matrix(repository: Path) -> None:
    interpret(repository, "slow")
