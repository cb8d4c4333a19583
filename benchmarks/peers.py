"""Other projects, each in a virtual environment of its own, at the versions that were compared.

Their pins clash with ours, so nothing of them is imported here: a script runs under the
environment's Python and writes its answer as JSON. The environments lie in the folder that
CHRONOWARD_PEERS names, else in the user's cache; one that is missing is built once, from PyPI.
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

from benchmarks.process import run

# torch first: its CPU build, where pip is told of one, before anything asks for the newest
_REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "meds_torch_data": (
        "torch==2.13.0",
        "meds-torch-data==0.9.0",
        "MEDS-transforms==0.6.7",
        "nested_ragged_tensors==0.3.0",
        "meds==0.4.1",
        "polars==1.44.2",
        "numpy==2.4.6",
        "pyarrow==26.0.1",
    ),
    "generators": (
        "torch==2.13.0",
        "ctranslate2==4.8.5",
        "transformers==5.23.0",
        "numpy==2.4.6",
    ),
    "transformers": ("torch==2.13.0", "transformers==5.23.0", "numpy==2.4.6"),
}
_READY = ".ready"


class PeerUnavailableError(RuntimeError):
    """A peer's environment is not there and could not be built."""


def _root() -> Path:
    named = os.environ.get("CHRONOWARD_PEERS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else cache / "chronoward" / "peers"


def _folder(name: str) -> Path:
    """An environment's place; other requirements, another place."""
    versions = "-".join(r.split("==")[1] for r in _REQUIREMENTS[name][:2])
    return _root() / f"{name}-{versions}"


def is_ready(name: str) -> bool:
    """Whether a peer's environment has been built."""
    return (_folder(name) / _READY).is_file()


def environment(name: str) -> Path:
    """Folder of a peer's environment, built first if need be (minutes, and about 2 GB).

    Raises:
        PeerUnavailableError: pip could not install it; the message has pip's last lines.
    """
    folder = _folder(name)
    if is_ready(name):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    python = str(folder / "bin" / "python")
    first, *rest = _REQUIREMENTS[name]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [python, "-m", "pip", "install", "--quiet", first],
        [python, "-m", "pip", "install", "--quiet", first, *rest],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = "\n".join(done.stderr.strip().splitlines()[-3:])
            message = f"{name}: no environment in {folder}, and none could be built: {last}"
            raise PeerUnavailableError(message)
    (folder / _READY).touch()
    return folder


def ask(name: str, script: str, *arguments: str) -> Any:
    """Runs a script under a peer's Python and returns the JSON that it wrote.

    Args:
        name: of the peer.
        script: Python source; `sys.argv[1]` is the file to write JSON to, then come `arguments`.
        arguments: strings.

    Raises:
        PeerUnavailableError: see `environment`.
        RuntimeError: the script failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        source = Path(folder) / "question.py"
        source.write_text(script)
        python = environment(name) / "bin" / "python"
        run([str(python), str(source), str(answer), *arguments])
        return json.loads(answer.read_text())


def versions(name: str) -> dict[str, str]:
    """The pinned versions of a peer's environment."""
    return dict(r.split("==") for r in _REQUIREMENTS[name])  # type: ignore[misc]
