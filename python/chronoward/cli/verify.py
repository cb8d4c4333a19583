"""`chronoward verify`: whether a folder of ours is whole, unchanged and makes sense."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A token store.")],
) -> None:
    """Checks every byte and every timeline of a token store; exit code 1 says what is wrong."""
    from chronoward.tokenize import verify

    findings = verify(folder)
    typer.echo(f"{findings.n_subjects:,} subjects, {findings.n_tokens:,} tokens: all is well")
