"""`chronoward embed`: one vector for each prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of `chronoward train`.")],
    tokens: Annotated[Path, typer.Argument(help="Token store.")],
    out: Annotated[Path, typer.Option(help="New folder for embeddings.parquet.")],
    cohort: Annotated[
        Path | None,
        typer.Option(help="Cohort folder or MEDS labels; without it, whole timelines."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Only this split: train, tuning, held_out or all.")
    ] = "all",
    pooling: Annotated[
        str, typer.Option(help="last_visit (mean over its tokens) or last (token).")
    ] = "last_visit",
) -> None:
    """Embeds each prefix (patient data: keep it where the records are)."""
    from chronoward.cli.progress import bar
    from chronoward.embed import embed

    with bar("embed", unit="rows") as advance:
        report = embed(
            run_dir, tokens, out, cohort=cohort, split=split, pooling=pooling, progress=advance
        )
    typer.echo(f"{report['rows']['scored']} rows of {report['d']} numbers: {out}")
