"""`chronoward merge`: a tokenizer from the counts of several shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    counts: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Files of `chronoward fit --shard-index`.")
    ],
    out: Annotated[Path, typer.Option(help="tokenizer.json to write.")],
) -> None:
    """Merges counts into a tokenizer; the order of the files does not matter."""
    from chronoward.tokenize import merge

    tokenizer = merge(counts, out)
    typer.echo(f"{tokenizer.vocab_size:,} tokens: {out}")
