"""`chronoward simulate`: a clinic with known risks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    out: Annotated[Path, typer.Option(help="Folder to write the OMOP tables to.")],
    n_subjects: Annotated[int, typer.Option(help="Subjects who enter the clinic.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    config: Annotated[
        Path | None, typer.Option(help="YAML or JSON file with rates and half-lives.")
    ] = None,
    truth: Annotated[
        bool, typer.Option(help="Also write the exact risks, their cohort and the oracles.")
    ] = False,
    oracle_rows: Annotated[
        int, typer.Option(help="Prediction times behind oracle.json; 0 leaves it out.")
    ] = 200_000,
    truth_rows_per_subject: Annotated[
        int, typer.Option(help="Prediction times a subject in the truth.")
    ] = 1,
) -> None:
    """Simulates a clinic as an OMOP CDM 5.4 folder."""
    from chronoward.data.simulate import load_config, simulate

    counts = simulate(
        out,
        n_subjects,
        seed,
        load_config(config) if config else None,
        truth=truth,
        oracle_rows=oracle_rows,
        truth_rows_per_subject=truth_rows_per_subject,
    )
    predictions = counts.pop("truth_cohort", 0)
    rows = sum(counts.values())
    typer.echo(f"{counts['person']} subjects, {rows} rows in {len(counts)} tables: {out}")
    if truth:
        typer.echo(f"{predictions} prediction times with known risks")
