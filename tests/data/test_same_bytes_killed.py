"""Killed at random moments and run again, `tokenize` ends with the bytes of one whole run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from tests.tokenize.conftest import content
from tests.tokenize.test_interruption import start

from chronoward.data.simulate import simulate
from chronoward.philox import uniforms

if TYPE_CHECKING:
    from pathlib import Path

N_KILLS = 20
START_SHARE = 0.2
"""The interpreter's start takes about this share of a run; there is nothing to kill in it."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clinic", "mimic-iv-demo-meds"])
def test_killed_at_twenty_random_moments_the_bytes_are_the_same(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    """Every other kill falls upon a run that goes on where one was killed before."""
    source = tmp_path / "clinic"
    if name == "clinic":
        simulate(source, 100, 3)
    else:
        source = request.getfixturevalue("test_data") / name
    began = time.monotonic()
    process = start("tokenize", source, "--out", tmp_path / "whole")
    process.communicate()
    assert process.returncode == 0
    seconds = time.monotonic() - began
    expected = content(tmp_path / "whole")
    n_kills, out = 0, tmp_path / "tokens-0"
    moments = uniforms(time.time_ns(), 10 * N_KILLS)  # new ones in every run of the test
    for trial, u in enumerate(moments.tolist()):
        process = start("tokenize", source, "--out", out)
        time.sleep(seconds * (START_SHARE + (1 - START_SHARE) * u))
        was_running = process.poll() is None
        process.kill()
        process.communicate()
        n_kills += was_running
        if not was_running or trial % 2:
            process = start("tokenize", source, "--out", out)
            _, errors = process.communicate()
            is_whole = (out / "store.json").exists() and not (out / ".job").exists()
            assert is_whole, errors
            assert content(out) == expected
            assert not list(out.rglob(".*"))
            out = tmp_path / f"tokens-{trial + 1}"
        if n_kills >= N_KILLS and trial % 2:
            return
    pytest.fail(f"only {n_kills} of the runs were killed")
