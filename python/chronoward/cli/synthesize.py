"""`chronoward synthesize`: synthetic subjects as OMOP or MEDS from a RUN folder."""

from __future__ import annotations

from pathlib import Path

import typer

from chronoward.cli.decoding import Device, Dtype, KvDtype


def run(
    run_dir: Path = typer.Argument(..., metavar="RUN", help="Folder of `chronoward train`."),
    n_subjects: int = typer.Option(..., "--n-subjects", help="How many subjects."),
    out: Path = typer.Option(..., "--out", help="Folder to make, or to go on with."),
    format: str = typer.Option("omop", "--format", help="omop (CDM 5.4) or meds (0.4)."),
    files: str = typer.Option("csv", "--files", help="OMOP as csv, parquet or duckdb."),
    seed: int = typer.Option(0, "--seed", help="Names the random numbers."),
    workers: int = typer.Option(1, "--workers", help="Processes; the bytes do not depend on it."),
    keys: str = typer.Option("auto", "--keys", help="Primary keys: auto, int32 or int64."),
    max_tokens: int = typer.Option(4096, "--max-tokens", help="Most tokens of one subject."),
    device: Device = "auto",
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
) -> None:
    """Draws synthetic subjects and writes them as OMOP CDM 5.4 or MEDS 0.4.

    A killed job goes on where it stopped when the same command is given again. The output says
    PRIVACY: not evaluated; `chronoward release` stands before it.
    """
    from chronoward.cli.progress import bar
    from chronoward.synthesize.job import SynthesisOptions, synthesize

    options = SynthesisOptions(
        files=files,  # type: ignore[arg-type]  # checked by the plan
        keys=keys,  # type: ignore[arg-type]
        workers=workers,
        max_tokens=max_tokens,
        device=device,
        dtype=dtype,
        kv_dtype=kv_dtype,
    )
    with bar("synthesize", unit="subjects") as progress:
        manifest = synthesize(
            run_dir,
            n_subjects,
            out,
            format=format,  # type: ignore[arg-type]
            seed=seed,
            options=options,
            progress=progress,
        )
    for table, rows in manifest["rows"].items():
        typer.echo(f"{table}: {rows:,}")
    typer.echo(manifest["privacy"])
    typer.echo(f"wrote {out / 'manifest.json'}")
