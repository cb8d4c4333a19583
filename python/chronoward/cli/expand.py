"""`chronoward expand`: a tokenizer grown by the codes of another source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chronoward.cli.sources import (
    As,
    ConceptEmbeddings,
    Exclude,
    IngestFile,
    MemoryLimit,
    PlaceUnseen,
    Source,
    TempDir,
    Threads,
    ingest_config,
    stages,
)


def run(
    tokenizer: Annotated[
        Path, typer.Argument(metavar="TOKENIZER", help="tokenizer.json to grow; it is not changed.")
    ],
    src: Source,
    out: Annotated[Path, typer.Option(help="tokenizer.json to write.")],
    split: Annotated[
        str | None,
        typer.Option(help="source or hash: whose train split is counted; the source's own."),
    ] = None,
    concept_embeddings: ConceptEmbeddings = None,
    place_unseen: PlaceUnseen = None,
    exclude_subjects: Exclude = None,
    as_: As = None,
    ingest: IngestFile = None,
    threads: Threads = 1,
    memory_limit: MemoryLimit = "2GB",
    temp_dir: TempDir = None,
) -> None:
    """Appends the codes that SRC has and TOKENIZER lacks.

    Ids, value bins and time tokens stay, so what the old tokenizer encoded and the models trained
    on it remain of use: a model needs rows for the new tokens only.
    """
    from chronoward.tokenize import expand
    from chronoward.tokenizer import Tokenizer

    n_before = Tokenizer.load(tokenizer).vocab_size
    with stages() as progress:
        grown = expand(
            tokenizer,
            src,
            out,
            split=split,
            as_=as_,
            exclude_subjects=exclude_subjects,
            ingest=ingest_config(ingest),
            concept_embeddings=concept_embeddings,
            place_unseen=place_unseen,
            threads=threads,
            memory_limit=memory_limit,
            temp_dir=temp_dir,
            progress=progress,
        )
    report = grown.fit_report
    typer.echo(f"{n_before:,} tokens and {grown.vocab_size - n_before:,} new ones: {out}")
    typer.echo(
        f"  codes of SRC without a token of their own: {len(report.rolled_up):,} rolled up, "
        f"{len(report.placed):,} placed, {len(report.dropped):,} dropped"
    )
