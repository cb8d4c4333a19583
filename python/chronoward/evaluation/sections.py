"""The files an evaluation folder is made of, and metrics.json, which is their union.

Each `evaluate` subcommand writes one section file; `combine` merges whatever sections lie in the
folder. The report is rendered from metrics.json alone. Floats are rounded to nine significant
digits, so that the bytes do not depend on the last bits of a linear algebra library.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from chronoward.errors import FormatError
from chronoward.files import read_json, write_json

SCHEMA_VERSION = 1
SECTIONS = ("cohort", "predictions", "synthetic", "omop", "timelines", "provenance")
METRICS = "metrics.json"


def plain(value: Any) -> Any:
    """A value as canonical JSON can hold it: no NaN, no NumPy, nine significant digits.

    Args:
        value: nested dicts, lists and numbers.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value


def write_section(out_dir: Path, name: str, content: dict[str, Any]) -> Path:
    """Writes one section file and merges the folder's sections into metrics.json.

    Args:
        out_dir: the evaluation folder; made when missing.
        name: one of `SECTIONS`.
        content: the section.

    Returns:
        Path of metrics.json.
    """
    out_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(out_dir / f"{name}.json", plain({"schema": SCHEMA_VERSION, **content}))
    return combine(out_dir)


def combine(out_dir: Path) -> Path:
    """Merges the section files of a folder into metrics.json.

    Args:
        out_dir: folder with any of the section files.

    Returns:
        Path of metrics.json.

    Raises:
        FormatError: a section is not a JSON object or of another schema version.
    """
    merged: dict[str, Any] = {"schema": SCHEMA_VERSION}
    for name in SECTIONS:
        path = out_dir / f"{name}.json"
        if path.exists():
            merged[name] = _read(path)
    write_json(out_dir / METRICS, plain(merged))
    return out_dir / METRICS


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        message = f"{path} is not a JSON object"
        raise FormatError(message)
    version = content.get("schema", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        message = f"{path} has schema {version}; this version reads {SCHEMA_VERSION}"
        raise FormatError(message)
    return content


def read_metrics(folder: Path) -> dict[str, Any]:
    """Reads metrics.json of a folder (or the file itself).

    Raises:
        FormatError: not JSON, or of another schema version.
        OSError: there is none.
    """
    folder = Path(folder)
    return _read(folder / METRICS if folder.is_dir() else folder)
