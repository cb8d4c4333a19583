"""What a user meets first: a light import, quick help, one version."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

import chronoward
from chronoward import _core, cli


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=60
    )


def test_import_loads_neither_torch_nor_triton_nor_duckdb() -> None:
    code = (
        "import sys, chronoward; "
        "print([m for m in ('torch', 'triton', 'duckdb') if m in sys.modules])"
    )
    assert _run("-c", code).stdout.strip() == "[]"


def test_every_public_name_resolves() -> None:
    for name in chronoward.__all__:
        assert getattr(chronoward, name) is not None


def test_core_and_package_have_one_version() -> None:
    assert _core.__version__ == chronoward.__version__


@pytest.mark.parametrize("verb", ["", *cli.VERBS])
def test_help_answers_and_loads_nothing_heavy(verb: str) -> None:
    code = (
        "import sys\n"
        "from chronoward.cli import main\n"
        f"try: main({[verb] if verb else []} + ['--help'])\n"
        "finally: print([m for m in ('torch','duckdb','pyarrow','matplotlib','sklearn') "
        "if m in sys.modules])"
    )
    output = _run("-c", code).stdout
    assert "Usage" in output
    assert output.strip().endswith("[]")


def test_unknown_verbs_exit_with_usage() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "chronoward", "frobnicate"], capture_output=True, check=False
    )
    assert process.returncode == cli.EXIT_USAGE


@pytest.mark.slow
def test_import_and_help_are_quick() -> None:
    """CPU-seconds of the child, best of five: the wall clock of a busy machine says little."""

    def best(*arguments: str) -> float:
        times = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            _run(*arguments)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    bare = best("-c", "pass")
    assert best("-c", "import chronoward") - bare < 0.3
    assert best("-m", "chronoward", "--help") < 0.5
    for verb in cli.VERBS:
        assert best("-m", "chronoward", verb, "--help") < 0.5, verb
