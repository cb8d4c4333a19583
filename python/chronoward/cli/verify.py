"""`chronoward verify`: whether a folder of ours is whole, unchanged and makes sense."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A token store, a RUN folder or synthetic output.")
    ],
) -> None:
    """Checks every byte, and of a token store every timeline; exit code 1 says what is wrong."""
    if (folder / "model.safetensors").is_file():
        typer.echo(_model(folder))
    elif (folder / "manifest.json").is_file():
        typer.echo(_synthetic(folder))
    else:
        typer.echo(_store(folder))


def _store(folder: Path) -> str:
    from chronoward.tokenize import verify

    findings = verify(folder)
    return f"{findings.n_subjects:,} subjects, {findings.n_tokens:,} tokens: all is well"


def _model(folder: Path) -> str:
    from chronoward.model import load
    from chronoward.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    model = load(folder, tokenizer_hash=tokenizer.hash)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"a model of {n_parameters:,} parameters and its tokenizer: all is well"


def _synthetic(folder: Path) -> str:
    from chronoward.synthesize.release import check_output

    manifest = check_output(folder)
    return f"{len(manifest['files']):,} synthetic files: all is well"
