"""`chronoward fit`: a tokenizer from the train split, whole or one shard of the counting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chronoward.cli.sources import (
    As,
    Exclude,
    IngestFile,
    MemoryLimit,
    Preset,
    PromptFields,
    Source,
    Split,
    TempDir,
    Threads,
    TimeScheme,
    Values,
    ingest_config,
    make_spec,
    stages,
)


def run(
    src: Source,
    out: Annotated[Path, typer.Option(help="tokenizer.json; with shards, a file of counts.")],
    preset: Preset = None,
    split: Split = None,
    exclude_subjects: Exclude = None,
    shard_index: Annotated[
        int | None, typer.Option(help="Count this share of the subjects only.")
    ] = None,
    num_shards: Annotated[int | None, typer.Option(help="Number of shares.")] = None,
    as_: As = None,
    time_scheme: TimeScheme = None,
    values: Values = None,
    prompt_fields: PromptFields = None,
    ingest: IngestFile = None,
    threads: Threads = 1,
    memory_limit: MemoryLimit = "2GB",
    temp_dir: TempDir = None,
) -> None:
    """Fits a tokenizer without encoding; `chronoward merge` makes one of several shards."""
    from chronoward.tokenize import fit

    with stages() as progress:
        fit(
            src,
            out,
            spec=make_spec(preset, time_scheme, values, prompt_fields),
            split=split,
            as_=as_,
            exclude_subjects=exclude_subjects,
            ingest=ingest_config(ingest),
            shard_index=shard_index,
            num_shards=num_shards,
            threads=threads,
            memory_limit=memory_limit,
            temp_dir=temp_dir,
            progress=progress,
        )
    typer.echo(f"wrote {out}")
