"""`chronoward demo`: the whole way through."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SRC]",
            help="OMOP or MEDS folder, DuckDB file, or postgresql://… URI; none: a simulated "
            "clinic.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Demo folder.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Same seed, same clinic and same draws.")] = 0,
    n_subjects: Annotated[int, typer.Option(help="Subjects of the simulated clinic.")] = 5000,
    train_minutes: Annotated[float, typer.Option(help="Time to train for.")] = 2.25,
    n_rollouts: Annotated[int, typer.Option(help="Rollouts a row and outcome.")] = 8,
    n_synthetic: Annotated[int, typer.Option(help="Synthetic subjects.")] = 400,
    threads: Annotated[int, typer.Option(help="Threads and worker processes.")] = 2,
) -> None:
    """Tokenize, train, score, synthesize, evaluate, and write a page to look at.

    Writes omop/ (without a source), tokens/, run/, risks/, synthetic/, evaluation/metrics.json,
    report.html and summary.json. An interrupted demo goes on where it stopped.

    Example: chronoward demo path/to/omop --out demo
    """
    from chronoward.demo import DemoConfig, demo

    config = DemoConfig(
        seed=seed,
        n_subjects=n_subjects,
        train_minutes=train_minutes,
        n_rollouts=n_rollouts,
        n_synthetic=n_synthetic,
        threads=threads,
    )
    summary = demo(source, out, config, say=typer.echo)

    def shown(name: str, form: str) -> str:
        value = summary[name]
        return "not shown" if value is None else format(value, form)

    question = summary["question"]
    typer.echo("")
    typer.echo(f"{question['outcome']}, {question['horizon_days']} days: {question['verdict']}")
    typer.echo(f"  AUROC                        {shown('auroc', '.3f')}")
    typer.echo(f"  observed over expected       {shown('observed_over_expected', '.2f')}")
    typer.echo(f"  undetermined rollouts        {shown('undetermined_share', '.2%')}")
    typer.echo(f"  synthetic: prevalence R²     {shown('prevalence_r2', '.3f')}")
    typer.echo(f"  synthetic: hard violations   {shown('omop_hard_violations', ',')}")
    typer.echo(f"  {sum(summary['seconds'].values()):.0f} s in all; open {out / 'report.html'}")
