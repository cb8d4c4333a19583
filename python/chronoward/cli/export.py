"""`chronoward export`: what we make, in the form that another tool reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    src: Annotated[Path, typer.Argument(metavar="TOKENS", help="Token store of preset cehr.")],
    to: Annotated[str, typer.Option(help="cehrgpt: Parquet that CEHR-GPT 0.1.9 trains on.")],
    out: Annotated[Path, typer.Option(help="New folder (patient data, as the source is).")],
) -> None:
    """Writes a token store in another tool's form."""
    from chronoward.cli.progress import bar
    from chronoward.export import export

    with bar("export", unit="subjects") as advance:
        report = export(src, out, to=to, progress=advance)
    splits = report["splits"].values()
    left_out = sum(s["without_visits"] + s["age_unknown"] for s in splits)
    typer.echo(
        f"{sum(s['subjects'] for s in splits):,} subjects, "
        f"{sum(s['tokens'] for s in splits):,} tokens: {out}"
    )
    if left_out:
        typer.echo(f"{left_out:,} subjects without visits or age left out (see export.json)")
