"""The commands of docs/job-arrays.md, run as local processes, make the store of one process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.tokenize.conftest import content

from chronoward.tokenize import fit, tokenize

if TYPE_CHECKING:
    from pathlib import Path

N_TASKS = 4
# What sbatch does, a step at a time: every task of an array, the last one first.
SBATCH = """#!/bin/bash
script=${@: -1}
if grep -q -- --array=0-3 "$script"; then
  export SLURM_ARRAY_TASK_COUNT=4
  for task in 3 2 1 0; do SLURM_ARRAY_TASK_ID=$task bash -e "$script" >&2 & done
  for job in $(jobs -p); do wait "$job" || exit 1; done
else
  bash -e "$script" >&2 || exit 1
fi
echo 1
"""
CHRONOWARD = f"""#!/bin/bash
exec {sys.executable} -c 'from chronoward.cli import main; import sys; main(sys.argv[1:])' "$@"
"""
# Ray's three names, each task in a process of its own.
RAY = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

_pool = ProcessPoolExecutor(2, mp_context=get_context("fork"))


class _Remote:
    def __init__(self, function):
        self.function = function

    def remote(self, *arguments):
        name = self.function.__name__
        return _pool.submit(_run, name, arguments)


def _run(name, arguments):
    import __main__

    return getattr(__main__, name).function(*arguments)


def remote(function):
    return _Remote(function)


def get(futures):
    return [future.result() for future in futures]
"""


@pytest.fixture(scope="module")
def scripts(repository: Path) -> dict[str, str]:
    text = (repository / "docs" / "job-arrays.md").read_text()
    blocks = re.findall(r"```(?:bash|python)\n# (\S+)\n(.*?)```", text, re.S)
    return dict(blocks)


@pytest.fixture(scope="module")
def expected(meds: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("one")
    fitted = fit(meds, folder / "tokenizer.json")
    return content(tokenize(meds, folder / "tokens", tokenizer=fitted).path)


def test_the_slurm_scripts_make_the_store_of_one_process(
    meds: Path, scripts: dict[str, str], expected: dict[str, str], tmp_path: Path
) -> None:
    tools = {"sbatch": SBATCH, "chronoward": CHRONOWARD}
    for name, text in (scripts | tools).items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    work, out = tmp_path / "work", tmp_path / "tokens"
    work.mkdir()
    given = {"SRC": str(meds), "WORK": str(work), "OUT": str(out)}
    environment = os.environ | given | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = subprocess.run(
        ["bash", "-e", "submit.sh"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert len(list(work.glob("counts-*"))) == N_TASKS
    assert content(out) == expected


def test_the_ray_script_makes_the_store_of_one_process(
    meds: Path, scripts: dict[str, str], expected: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ray.py").write_text(RAY)
    (tmp_path / "with_ray.py").write_text(scripts["with_ray.py"])
    (tmp_path / "work").mkdir()
    command = [sys.executable, "with_ray.py", str(meds), "work", "tokens"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert content(tmp_path / "tokens") == expected
