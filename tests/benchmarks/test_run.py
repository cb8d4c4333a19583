from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from typing import TYPE_CHECKING

from benchmarks.generation import grammar

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ["id", "metric", "value", "unit", "against", "baseline", "ratio", "time", "commit", "cores"]
KEYS += ["device", "versions", "seconds"]


def run(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "benchmarks" / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_measure_prints_one_json_line_a_number_with_the_machine_in_it(repository: Path) -> None:
    result = run(repository, "D6", "--quick")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["metric"] for line in lines] == ["plan", "fill", "plan_and_rows"]
    for line in lines:
        assert list(line)[: len(KEYS)] == KEYS
        assert line["id"] == "D6"
        assert datetime.fromisoformat(line["time"]).utcoffset().total_seconds() == 0
        assert set(line["gemm_peak_gflops"]) == {"fp32", "bf16"}
        assert line["seconds"] > 0
    assert lines[1]["value"] >= 0.99


def test_an_unknown_id_is_a_usage_error(repository: Path) -> None:
    result = run(repository, "X9")
    assert result.returncode == 2
    assert "no measure X9" in result.stderr


def test_every_registered_id_is_defined_by_its_module(repository: Path) -> None:
    import ast

    sys.path.insert(0, str(repository))
    try:
        from benchmarks.registry import MODULES, PEERS
    finally:
        sys.path.remove(str(repository))
    assert set(PEERS) <= set(MODULES)
    for name, module in MODULES.items():
        path = repository / f"{module.replace('.', '/')}.py"
        tree = ast.parse(path.read_text())
        tables = [
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and any(isinstance(t, ast.Name) and t.id == "MEASURES" for t in node.targets)
        ]
        assert len(tables) == 1, path
        assert isinstance(tables[0], ast.Dict)
        assert name in {key.value for key in tables[0].keys if isinstance(key, ast.Constant)}, path


def test_the_grammar_of_the_generation_benchmark_allows_every_code_and_gap() -> None:
    tables = grammar(32, "codes")
    assert len(tables.token_class) == 32
    assert tables.is_moving.any()
