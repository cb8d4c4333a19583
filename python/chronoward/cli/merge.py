"""`chronoward merge`: a tokenizer from the counts of several shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chronoward.cli.sources import ConceptEmbeddings, PlaceUnseen


def run(
    counts: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Files of `chronoward fit --shard-index`.")
    ],
    out: Annotated[Path, typer.Option(help="tokenizer.json to write.")],
    concept_embeddings: ConceptEmbeddings = None,
    place_unseen: PlaceUnseen = None,
) -> None:
    """Merges counts into a tokenizer; the order of the files does not matter."""
    from chronoward.tokenize import merge

    tokenizer = merge(counts, out, concept_embeddings=concept_embeddings, place_unseen=place_unseen)
    typer.echo(f"{tokenizer.vocab_size:,} tokens: {out}")
