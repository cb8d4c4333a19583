"""The gate between a synthetic folder and the outside: no passing privacy report, no release.

A report is about one model and one set of files, by their hashes; a report on anything else says
nothing about this folder. Continuations of real prefixes are patient data and never pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronoward.errors import FormatError, StateError
from chronoward.files import read_json, sha256_file
from chronoward.synthesize.folder import KIND, output_hash
from chronoward.synthesize.units import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Mapping

REPORT = "privacy.json"
PASS = "pass"


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        message = f"{folder} has no {MANIFEST}: only finished synthetic output can be released"
        raise StateError(message)
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        message = f"{path} is not of synthetic output: patient data are never released"
        raise StateError(message)
    return manifest


def _check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    listed = set(manifest["files"])
    known = {MANIFEST, REPORT, "plan.json"}
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - known
    if listed != found:
        message = f"{folder} has {len(found ^ listed)} files more or less than its manifest lists"
        raise FormatError(message)
    for name, entry in manifest["files"].items():
        if sha256_file(folder / name) != entry["sha256"]:
            message = f"{folder / name} does not match its manifest: it was changed"
            raise FormatError(message)
    if output_hash(manifest["files"]) != manifest["output_hash"]:
        message = f"{folder / MANIFEST} does not match its own output hash"
        raise FormatError(message)


def check_output(folder: Path | str) -> dict[str, Any]:
    """Whether a synthetic folder is whole: each file that its manifest lists, unchanged, no other.

    Returns:
        The manifest.

    Raises:
        StateError: not finished synthetic output.
        FormatError: a file was changed, is missing, or was added.
    """
    manifest = _manifest(Path(folder))
    _check_files(Path(folder), manifest)
    return manifest


def check_release(folder: Path | str, report: Path | str | None = None) -> dict[str, Any]:
    """Whether a synthetic folder may leave the house.

    Args:
        folder: output of `synthesize`.
        report: a privacy report; by default `privacy.json` in the folder.

    Returns:
        The passing report.

    Raises:
        StateError: no manifest, no report, a report about other hashes, or one that does not pass.
        FormatError: a file was changed, is missing, or was added.
    """
    folder = Path(folder)
    manifest = check_output(folder)
    path = folder / REPORT if report is None else Path(report)
    if not path.is_file():
        message = (
            f"{folder} may not be released: there is no privacy report ({path}). "
            f"{manifest['privacy']}"
        )
        raise StateError(message)
    found = read_json(path)
    for name in ("model_hash", "output_hash"):
        if not isinstance(found, dict) or found.get(name) != manifest[name]:
            message = f"{folder} may not be released: {path} is about another {name}"
            raise StateError(message)
    if found.get("verdict") != PASS:
        message = f"{folder} may not be released: the verdict of {path} is not '{PASS}'"
        raise StateError(message)
    return dict(found)
