"""`chronoward ingest`: a source as a strict MEDS 0.4 folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chronoward.cli.sources import Source


def run(
    src: Source,
    out: Annotated[Path, typer.Option(help="MEDS folder to make.")],
    as_: Annotated[
        str | None, typer.Option("--as", help="omop or meds, instead of recognizing.")
    ] = None,
    concept_policy: Annotated[
        str, typer.Option(help="standard, source or standard_then_source.")
    ] = "standard_then_source",
    exclude_subjects: Annotated[
        Path | None, typer.Option(help="File of subject ids to leave out, one a line.")
    ] = None,
    strict: Annotated[
        bool, typer.Option(help="Fail when a faulty record had to be quarantined or nulled.")
    ] = False,
    threads: Annotated[int, typer.Option(help="Threads; the result does not depend on it.")] = 1,
    memory_limit: Annotated[str, typer.Option(help="Memory for sorting, e.g. 2GB.")] = "2GB",
    temp_dir: Annotated[
        Path | None, typer.Option(help="Where to spill; default: beside the output.")
    ] = None,
) -> None:
    """Mends and sorts a source and writes it as MEDS, with its report and ledger."""
    from chronoward.data.config import IngestConfig
    from chronoward.data.ingest import ingest

    report, counts = ingest(
        src,
        out,
        config=IngestConfig.from_json({"concept_policy": concept_policy}),
        as_=as_,
        exclude_subjects=exclude_subjects,
        strict=strict,
        threads=threads,
        memory_limit=memory_limit,
        temp_dir=temp_dir,
        progress=lambda line: typer.echo(line, err=True),
    )
    for warning in report["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    events = ", ".join(f"{n:,} {split}" for split, n in counts.items())
    said = f"{report['n_subjects']:,} subjects, {report['n_events']:,} events ({events}): {out}"
    typer.echo(said)
