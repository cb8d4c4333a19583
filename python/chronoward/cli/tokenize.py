"""`chronoward tokenize`: a source to a token store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chronoward.cli.sources import (
    ConceptEmbeddings,
    PlaceUnseen,
    Shared,
    Source,
    stages,
    with_source_options,
)

if TYPE_CHECKING:
    from chronoward.store import TokenStore


@with_source_options
def run(
    src: Source,
    out: Annotated[Path, typer.Option(help="Folder of the token store: new, empty or unfinished.")],
    shared: Shared,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Use this tokenizer.json instead of fitting one.")
    ] = None,
    append: Annotated[
        bool,
        typer.Option(
            "--append",
            help="Bring the store up to date: encode new and changed subjects, keep its files. "
            "SRC is the whole source, or holds these subjects only (each with all its events).",
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option(help="Fail when a faulty record had to be quarantined or nulled.")
    ] = False,
    shard_index: Annotated[
        int | None, typer.Option(help="Make the part that holds this share of the subjects.")
    ] = None,
    num_shards: Annotated[int | None, typer.Option(help="Number of shares.")] = None,
    concept_embeddings: ConceptEmbeddings = None,
    place_unseen: PlaceUnseen = None,
) -> None:
    """Makes a token store; run it again after an interruption and it goes on."""
    from chronoward.process_memory import keep_freed_memory
    from chronoward.tokenize import tokenize

    keep_freed_memory()
    with stages() as progress:
        store = tokenize(
            src,
            out,
            tokenizer=tokenizer,
            append=append,
            concept_embeddings=concept_embeddings,
            place_unseen=place_unseen,
            strict=strict,
            shard_index=shard_index,
            num_shards=num_shards,
            progress=progress,
            **shared,
        )
    splits = store.manifest["splits"]
    typer.echo(
        f"{sum(s['n_subjects'] for s in splits.values()):,} subjects, "
        f"{sum(s['n_tokens'] for s in splits.values()):,} tokens: {out}"
    )
    if append:
        typer.echo(_appended(store))
    for name, entry in splits.items():
        typer.echo(
            f"  {name:<9} {entry['n_subjects']:>9,} subjects {entry['n_tokens']:>13,} tokens"
        )


def _appended(store: TokenStore) -> str:
    """What the last append did, and how much of the store's files no longer counts."""
    appends = store.manifest.get("appends", [])
    if not appends:
        return "  nothing was ever appended"
    said = ", ".join(f"{n:,} {name}" for name, n in appends[-1]["subjects"].items() if n)
    return f"  append {len(appends)}: {said}; {store.n_superseded:,} rows superseded in all"
