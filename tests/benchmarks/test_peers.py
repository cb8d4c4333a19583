from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from benchmarks.registry import PEERS, unnamed

from benchmarks import peers

if TYPE_CHECKING:
    from pathlib import Path

BURN = "import time\nwhile time.process_time() < 0.3: pass"


def test_usage_counts_the_children_of_the_command() -> None:
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}], check=True)"
    assert peers.run([sys.executable, "-c", nested]).cpu >= 0.3


def test_a_command_that_fails_is_an_error_with_its_last_lines() -> None:
    with pytest.raises(RuntimeError, match=r"failed \(3\): no such shard"):
        peers.run([sys.executable, "-c", "print('no such shard'); raise SystemExit(3)"])


def test_a_script_gets_its_arguments_and_answers_with_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(peers, "environment", lambda _: tmp_path)
    script = "import json, sys; json.dump(sys.argv[2:], open(sys.argv[1], 'w'))"
    assert peers.ask("any", script, "a", "b c") == ["a", "b c"]


def test_without_an_environment_its_ids_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHRONOWARD_PEERS", str(tmp_path))
    names, absent = unnamed(quick=True)
    assert absent == list(PEERS) == ["D3", "D7", "G1", "G2", "T2"]
    assert not set(names) & set(absent)
    monkeypatch.setattr("benchmarks.registry.is_ready", lambda _: True)
    assert unnamed(quick=True) == (unnamed(quick=True)[0], [])
    assert set(unnamed(quick=True)[0]) == {*names, *absent}


def test_an_environment_that_cannot_be_built_says_why_and_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        is_pip = "pip" in command
        return subprocess.CompletedProcess(command, int(is_pip), "", "warning\nno route to PyPI")

    monkeypatch.setenv("CHRONOWARD_PEERS", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", no_network)
    with pytest.raises(peers.PeerUnavailableError, match="no route to PyPI"):
        peers.environment("transformers")
    assert not peers.is_ready("transformers")
