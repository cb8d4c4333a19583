"""The README's tree is true, its commands exist, and its script runs."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


def _block(text: str, heading: str, language: str) -> str:
    section = text.split(f"## {heading}")[1]
    found = re.search(rf"```{language}\n(.*?)```", section, re.S)
    assert found, heading
    return found.group(1)


def test_every_entry_of_the_tree_exists(repository: Path, readme: str) -> None:
    base = repository
    for line in _block(readme, "Where things are", "").splitlines():
        names = re.split(r"\s{2,}", line.strip())
        entries = [n for n in names if re.fullmatch(r"[\w/.]+", n) and ("/" in n or "." in n)]
        folder = base if line.startswith("  ") else repository
        for entry in entries:
            assert (folder / entry).exists(), entry
        if line.startswith("python/"):
            base = repository / entries[0]


def test_every_part_of_the_package_is_in_the_tree(repository: Path, readme: str) -> None:
    tree = _block(readme, "Where things are", "")
    for path in (repository / "python" / "chronoward").iterdir():
        if path.is_dir() and any(path.glob("*.py")):
            assert f"{path.name}/" in tree, path.name


def test_every_make_target_of_the_readme_exists(repository: Path, readme: str) -> None:
    makefile = (repository / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", readme, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_first_script_runs(tmp_path: Path, readme: str) -> None:
    script = tmp_path / "first.py"
    script.write_text(_block(readme, "A first script", "python"))
    process = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "tokens to train on" in process.stdout
    assert (tmp_path / "synthetic" / "person.csv").is_file()
