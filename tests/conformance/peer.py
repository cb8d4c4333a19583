"""CEHR-GPT's own environment: found, or made once, or the test is skipped with a reason.

CHRONOWARD_PEERS names a folder in which environments are kept between runs; without it they are
made anew in a temporary folder (about four minutes and 3 GB). The Spark code needs a Java runtime.
pyspark 3.5 stands for the pinned 3.1.2, which neither Java 17 nor Python 3.11 can run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

OWN = ["cehrgpt==0.1.9", "cehrbert==1.4.9", "cehrbert_data==0.1.1"]
NEEDED = [
    "numpy==1.26.4", "pyarrow<21", "pandas<2.3", "scipy<1.14", "scikit-learn<1.6",
    "transformers==4.44.1", "tokenizers==0.19.1", "peft==0.10.0", "accelerate<1",
    "datasets<=3.6.0", "optuna==4.0.0", "femr==0.2.4", "meds==0.3.3", "meds_reader==0.1.9",
    "pyspark==3.5.6", "python-dateutil==2.8.2", "polars", "lightgbm", "lifelines", "evaluate",
    "networkx", "Jinja2",
]  # fmt: skip
ETHOS = "cehrbert_data==0.2.3"  # the release that has ETHOS's time tokens
SCRIPTS = Path(__file__).parent


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"CEHR-GPT cannot be installed here: {done.stderr.strip()[-300:]}")


def environment(make_folder: Any) -> Path:
    """Folder of the environment; `make_folder(name)` gives a temporary one where none is kept."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("CEHR-GPT's pinned packages need Python 3.11")
    kept = os.environ.get("CHRONOWARD_PEERS")
    folder = (Path(kept) if kept else make_folder("peers")) / "cehrgpt-0.1.9"
    python, done = folder / "bin" / "python", folder / "ready"
    if not done.is_file():
        if folder.exists():
            shutil.rmtree(folder)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        _pip(python, "torch==2.13.0")
        _pip(python, "--no-deps", *OWN)
        _pip(python, *NEEDED)
        _pip(python, "--no-deps", "--target", str(folder / "ethos"), ETHOS)
        # comes with femr, for another torch, and breaks the import of transformers
        unwanted = [str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "xformers"]
        subprocess.run(unwanted, capture_output=True, check=True)
        done.touch()
    return folder


def _start(folder: Path, *arguments: str, **variables: str) -> None:
    python = str(folder / "bin" / "python")
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYSPARK_PYTHON": python}
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**inherited, **offline, **variables},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def run(folder: Path, script: str, *arguments: str, **variables: str) -> None:
    """Runs one of our scripts in the environment.

    Raises:
        AssertionError: the script failed.
    """
    _start(folder, str(SCRIPTS / script), *arguments, **variables)


def module(folder: Path, name: str, *arguments: str) -> None:
    """Runs one of CEHR-GPT's modules.

    Raises:
        AssertionError: it failed.
    """
    _start(folder, "-m", name, *arguments)


def convert(folder: Path, runs: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Tokens of every person of every run by CEHR-GPT's Spark code (`cehrgpt_spark.py`)."""
    if shutil.which("java") is None:
        pytest.skip("CEHR-GPT's Spark code needs a Java runtime")
    with tempfile.TemporaryDirectory() as work:
        given, found = Path(work) / "runs.json", Path(work) / "tokens.json"
        given.write_text(json.dumps(runs))
        run(folder, "cehrgpt_spark.py", str(given), str(found))
        tokens: dict[str, dict[str, list[str]]] = json.loads(found.read_text())
    return tokens
