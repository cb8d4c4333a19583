"""`chronoward release`: the gate between a synthetic folder and the outside."""

from __future__ import annotations

from pathlib import Path

import typer


def run(
    folder: Path = typer.Argument(..., metavar="DIR", help="Folder of `chronoward synthesize`."),
    report: Path | None = typer.Option(
        None, "--report", help="Privacy report; by default privacy.json in DIR."
    ),
) -> None:
    """Says whether a synthetic folder may leave the house; exits 1 where it may not.

    It may with a privacy report that is about this model and these files, by their hashes, and
    whose verdict is pass; without one it may not.
    """
    from chronoward.synthesize.release import check_release

    check_release(folder, report)
    typer.echo(f"{folder} may be released: its privacy report passes")
