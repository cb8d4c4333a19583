"""Files and functions stay small enough to read in one sitting (soft limits, named exceptions)."""

from __future__ import annotations

import ast
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8

_OPERATOR = "an operator's schema holds tensors and scalars only"

_KERNEL = "a kernel takes pointers, strides and constants, and is one piece"

_VERB = "a verb's parameters are its options, in Python as on the command line"

# path -> why it is longer; path::function -> why it is longer or takes more
EXCEPTIONS: dict[str, str] = {
    "python/chronoward/data/ingest.py::ingest": _VERB,
    "python/chronoward/tokenize/run.py::tokenize": _VERB,
    "python/chronoward/tokenize/fitting.py::fit": _VERB,
    "python/chronoward/tokenize/expanding.py::expand": _VERB,
    "kernels/varlen_attention/operators.py::_register": "two operators' schemas side by side",
    "kernels/varlen_attention/operators.py::forward": _OPERATOR,
    "kernels/varlen_attention/operators.py::backward": _OPERATOR,
    "kernels/varlen_attention/kernel_forward.py::_fwd_keys": _KERNEL,
    "kernels/varlen_attention/kernel_forward.py::varlen_attention_fwd_kernel": _KERNEL,
    "kernels/varlen_attention/kernel_backward.py::_dq_keys": _KERNEL,
    "kernels/varlen_attention/kernel_backward.py::varlen_attention_dq_kernel": _KERNEL,
    "kernels/varlen_attention/kernel_backward.py::_dkdv_queries": _KERNEL,
    "kernels/varlen_attention/kernel_backward.py::varlen_attention_dkdv_kernel": _KERNEL,
    "kernels/decode_attention/kernel_pages.py::attend_pages": _KERNEL,
    "kernels/decode_attention/kernel_rows.py::decode_attention_rows_kernel": _KERNEL,
    "kernels/decode_attention/kernel_prefix.py::decode_attention_prefix_kernel": _KERNEL,
    "kernels/decode_attention/kernel_merge.py::_merged": _KERNEL,
    "kernels/decode_attention/kernel_merge.py::decode_attention_merge_kernel": _KERNEL,
    "kernels/decode_attention/kernel_write.py::decode_attention_write_kernel": _KERNEL,
    "kernels/sample/kernel_accept.py::accept": _KERNEL,
    "kernels/sample/kernel_draw.py::sample_draw_kernel": _KERNEL,
    "kernels/sample/kernel_legal.py::sample_legal_kernel": _KERNEL,
    "kernels/sample/kernel_outcomes.py::sample_outcomes_kernel": _KERNEL,
    "kernels/sample/kernel.py::sample": "three launches and what they share",
    "kernels/sample/operators.py::triton_sample": _OPERATOR,
    "kernels/sample/operators.py::_shapes": _OPERATOR,
    "kernels/varlen_attention/__init__.py::varlen_attention": "the operator's public function",
    "python/chronoward/model/cross_entropy.py::chunked_cross_entropy": "a loss, all that it is of",
    "kernels/varlen_attention/reference.py::varlen_attention_reference": _OPERATOR,
}


def _tracked(repository: Path, *patterns: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "-C", str(repository), "ls-files", *patterns],
        capture_output=True,
        text=True,
        check=True,
    )
    return [repository / line for line in listing.stdout.splitlines()]


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    docstring = ast.get_docstring(node, clean=False)
    own = (docstring.count("\n") + 1) if docstring else 0
    return (node.end_lineno or node.lineno) - node.body[0].lineno + 1 - own


def test_files_stay_under_the_limit(repository: Path) -> None:
    faults = []
    for path in _tracked(repository, "*.py", "*.cpp", "*.hpp"):
        name = str(path.relative_to(repository))
        lines = path.read_text().count("\n")
        if lines > MAX_FILE_LINES and name not in EXCEPTIONS:
            faults.append(f"{name}: {lines} lines")
    assert not faults, "\n".join(faults)


def test_functions_stay_under_the_limit(repository: Path) -> None:
    faults = []
    for path in _tracked(repository, "python/**.py", "kernels/**.py", "benchmarks/**.py"):
        name = str(path.relative_to(repository))
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            key = f"{name}::{node.name}"
            if key in EXCEPTIONS:
                continue
            if _body_lines(node) > MAX_FUNCTION_LINES:
                faults.append(f"{key}: {_body_lines(node)} lines")
            arguments = node.args
            count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
            verb = "/cli/" in name  # a verb's parameters are its options
            if count > MAX_PARAMETERS + 1 and not verb:
                faults.append(f"{key}: {count} parameters")
    assert not faults, "\n".join(faults)


def test_exceptions_are_still_needed(repository: Path) -> None:
    for key in EXCEPTIONS:
        assert (repository / key.split("::")[0]).is_file(), key
