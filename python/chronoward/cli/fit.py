"""`chronoward fit`: a tokenizer from the train split, whole or one shard of the counting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chronoward.cli.sources import (
    ConceptEmbeddings,
    PlaceUnseen,
    Shared,
    Source,
    stages,
    with_source_options,
)


@with_source_options
def run(
    src: Source,
    out: Annotated[Path, typer.Option(help="tokenizer.json; with shards, a file of counts.")],
    shared: Shared,
    shard_index: Annotated[
        int | None, typer.Option(help="Count this share of the subjects only.")
    ] = None,
    num_shards: Annotated[int | None, typer.Option(help="Number of shares.")] = None,
    concept_embeddings: ConceptEmbeddings = None,
    place_unseen: PlaceUnseen = None,
) -> None:
    """Fits a tokenizer without encoding; `chronoward merge` makes one of several shards."""
    from chronoward.tokenize import fit

    with stages() as progress:
        fit(
            src,
            out,
            shard_index=shard_index,
            num_shards=num_shards,
            concept_embeddings=concept_embeddings,
            place_unseen=place_unseen,
            progress=progress,
            **shared,
        )
    typer.echo(f"wrote {out}")
