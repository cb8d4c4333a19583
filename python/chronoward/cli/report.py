"""`chronoward report`: metrics.json as one page that opens offline."""

from __future__ import annotations

from pathlib import Path

import typer


def run(
    folder: Path = typer.Argument(..., metavar="DIR", help="Evaluation folder, or metrics.json."),
    out: Path = typer.Option(Path("report.html"), "--out", help="The page."),
) -> None:
    """Render an evaluation as one HTML page: no script, no network, printable."""
    from chronoward.evaluation.report import write_report

    typer.echo(f"wrote {write_report(folder, out)}")
