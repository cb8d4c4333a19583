"""`chronoward merge`: a tokenizer from the counts of shards, a token store from its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chronoward.cli.sources import ConceptEmbeddings, PlaceUnseen


def run(
    made: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…", help="What `fit` or `tokenize` wrote with --shard-index, all of it."
        ),
    ],
    out: Annotated[Path, typer.Option(help="tokenizer.json, or folder of the token store.")],
    concept_embeddings: ConceptEmbeddings = None,
    place_unseen: PlaceUnseen = None,
) -> None:
    """Merges files of counts into a tokenizer, or parts into a token store; order is no matter."""
    from chronoward.tokenize import merge, merge_parts

    if all(path.is_dir() for path in made):
        if concept_embeddings is not None or place_unseen is not None:
            message = "parts of a token store have their tokenizer already"
            raise typer.BadParameter(message)
        splits = merge_parts(made, out).manifest["splits"].values()
        n_subjects = sum(entry["n_subjects"] for entry in splits)
        typer.echo(f"{n_subjects:,} subjects, {sum(e['n_tokens'] for e in splits):,} tokens: {out}")
        return
    tokenizer = merge(made, out, concept_embeddings=concept_embeddings, place_unseen=place_unseen)
    typer.echo(f"{tokenizer.vocab_size:,} tokens: {out}")
