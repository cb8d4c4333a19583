"""`chronoward ingest`: a source as a strict MEDS 0.4 folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    src: Annotated[Path, typer.Argument(help="OMOP folder, MEDS folder or DuckDB file.")],
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
    import shutil
    import tempfile

    from chronoward.data.assemble import prepare
    from chronoward.data.config import IngestConfig
    from chronoward.data.meds_writer import write_meds
    from chronoward.data.report import check_strict
    from chronoward.files import make_output_folder, write_json

    config = IngestConfig.from_json({"concept_policy": concept_policy})
    make_output_folder(out)
    parent = temp_dir if temp_dir is not None else out.parent
    with tempfile.TemporaryDirectory(
        prefix=f".{out.name}.", dir=parent, ignore_cleanup_errors=True
    ) as scratch:
        work = Path(scratch)
        prepared = prepare(
            src,
            work,
            config=config,
            as_=as_,
            threads=threads,
            memory_limit=memory_limit,
            exclude_subjects=exclude_subjects,
            progress=lambda line: typer.echo(line, err=True),
        )
        report = prepared.report
        if strict:
            check_strict(report)
        counts = write_meds(
            prepared.batches(),
            out,
            codes=prepared.codes,
            splits=prepared.splits,
            observation=prepared.observation,
            name=src.name,
        )
        shutil.copytree(work / "ledger", out / "ledger")
        write_json(out / "ingest_report.json", report)
    for warning in report["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    events = ", ".join(f"{n:,} {split}" for split, n in counts.items())
    typer.echo(f"{prepared.n_subjects:,} subjects, {prepared.n_events:,} events ({events}): {out}")
