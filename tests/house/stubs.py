"""Writes or compares `_core.pyi`: stubs are generated from the built extension, then formatted.

python -m tests.house.stubs            prints the difference, exits 1 if there is one
python -m tests.house.stubs --write    rewrites the committed file
"""

from __future__ import annotations

import difflib
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

STUB = Path(__file__).resolve().parents[2] / "python" / "chronoward" / "_core.pyi"


def _tool(name: str) -> str:
    return str(Path(sysconfig.get_path("scripts")) / name)


def generated() -> str:
    """The stub of the extension that is installed now."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(sys.executable, "-m", "pybind11_stubgen", "chronoward._core"),
                *("--output-dir", folder, "--exit-code"),
            ],
            check=True,
            capture_output=True,
        )
        path = Path(folder) / "chronoward" / "_core.pyi"
        for step in (
            ["check", "--fix", "--quiet", "--select", "I", "--isolated"],
            ["format", "--quiet", "--isolated"],
        ):
            subprocess.run([_tool("ruff"), *step, "--line-length", "100", str(path)], check=False)
        return path.read_text()


def difference() -> str:
    """Unified diff from the committed stub to the generated one; empty when they agree."""
    committed = STUB.read_text() if STUB.exists() else ""
    return "".join(
        difflib.unified_diff(
            committed.splitlines(keepends=True),
            generated().splitlines(keepends=True),
            "committed",
            "generated",
        )
    )


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        STUB.write_text(generated())
    else:
        text = difference()
        sys.stdout.write(text)
        sys.exit(1 if text else 0)
