"""`chronoward tokenize`: a source to a token store."""

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
    out: Annotated[Path, typer.Option(help="Folder of the token store: new, empty or unfinished.")],
    preset: Preset = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Use this tokenizer.json instead of fitting one.")
    ] = None,
    split: Split = None,
    exclude_subjects: Exclude = None,
    as_: As = None,
    time_scheme: TimeScheme = None,
    values: Values = None,
    prompt_fields: PromptFields = None,
    ingest: IngestFile = None,
    strict: Annotated[
        bool, typer.Option(help="Fail when a faulty record had to be quarantined or nulled.")
    ] = False,
    threads: Threads = 1,
    memory_limit: MemoryLimit = "2GB",
    temp_dir: TempDir = None,
) -> None:
    """Makes a token store; run it again after an interruption and it goes on."""
    from chronoward.tokenize import tokenize

    with stages() as progress:
        store = tokenize(
            src,
            out,
            spec=make_spec(preset, time_scheme, values, prompt_fields),
            tokenizer=tokenizer,
            split=split,
            as_=as_,
            exclude_subjects=exclude_subjects,
            ingest=ingest_config(ingest),
            strict=strict,
            threads=threads,
            memory_limit=memory_limit,
            temp_dir=temp_dir,
            progress=progress,
        )
    splits = store.manifest["splits"]
    typer.echo(
        f"{sum(s['n_subjects'] for s in splits.values()):,} subjects, "
        f"{sum(s['n_tokens'] for s in splits.values()):,} tokens: {out}"
    )
    for name, entry in splits.items():
        typer.echo(
            f"  {name:<9} {entry['n_subjects']:>9,} subjects {entry['n_tokens']:>13,} tokens"
        )
