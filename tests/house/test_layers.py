"""Imports point one way: a module may import only what stands above it in the list of layers."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# Top to bottom; modules on one line share a layer and may import each other.
LAYERS: list[tuple[str, ...]] = [
    (
        "_core",
        "ahead",
        "dictionary",
        "errors",
        "files",
        "nulls",
        "packages",
        "process_memory",
        "schema",
        "version",
    ),
    ("kernels",),
    ("philox", "outcomes", "survival"),
    ("splits",),
    ("data",),
    ("cohort",),
    ("tokenizer",),
    ("store",),
    ("population", "packing"),
    ("tokenize", "loader", "meds_torch"),
    ("model",),
    ("train",),
    ("engine",),
    ("score", "embed", "export", "synthesize", "trajectories"),
    ("evaluation",),
    ("demo",),
    ("cli",),
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def _imported_layers(path: Path) -> set[tuple[str, int]]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module == "chronoward":
                names = [f"chronoward.{alias.name}" for alias in node.names]
            elif node.module:
                names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {
            (name.split(".")[1], node.lineno) for name in names if name.startswith("chronoward.")
        }
    return found


def _modules(repository: Path) -> list[tuple[str, Path]]:
    package = repository / "python" / "chronoward"
    modules = [
        (path.relative_to(package).parts[0].removesuffix(".py"), path)
        for path in package.rglob("*.py")
        if path.parent != package or path.stem not in ("__init__", "__main__")
    ]
    return modules + [("kernels", path) for path in (repository / "kernels").rglob("*.py")]


def test_imports_point_upward_only(repository: Path) -> None:
    faults = []
    for layer, path in _modules(repository):
        assert layer in RANK, f"{path}: '{layer}' has no place in the list of layers"
        for imported, line in sorted(_imported_layers(path)):
            if imported not in RANK:
                continue  # a name of the package itself, such as __version__
            if RANK[imported] > RANK[layer]:
                faults.append(f"{path.relative_to(repository)}:{line}: {layer} imports {imported}")
    assert not faults, "\n".join(faults)


def test_the_core_never_includes_python(repository: Path) -> None:
    for path in (repository / "csrc" / "core").iterdir():
        text = path.read_text()
        assert "pybind11" not in text, path
        assert "Python.h" not in text, path


@pytest.mark.parametrize("layer", ["model", "engine", "kernels"])
def test_the_model_does_not_know_what_a_code_is(repository: Path, layer: str) -> None:
    allowed = {"engine": {"tokenizer"}}.get(layer, set())
    for name, path in _modules(repository):
        if name == layer:
            layers = {imported for imported, _ in _imported_layers(path)}
            assert not layers & ({"data", "outcomes", "cohort", "tokenizer"} - allowed), path


def test_evaluation_reads_files_and_never_the_model(repository: Path) -> None:
    for name, path in _modules(repository):
        if name == "evaluation":
            layers = {imported for imported, _ in _imported_layers(path)}
            assert not layers & {"model", "engine", "train"}, path
