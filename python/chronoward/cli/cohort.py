"""`chronoward cohort`: who is asked when, and what happened next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="OMOP or MEDS folder, DuckDB file, postgresql://… URI, or a folder of prepared "
            "events.",
        ),
    ],
    outcome: Annotated[
        list[str], typer.Option(help="Outcome by name or YAML file; repeat for several.")
    ],
    out: Annotated[Path, typer.Option(help="New folder for the cohort.")],
    index: Annotated[
        str,
        typer.Option(
            help="When the question is asked: discharge, random_visit, age=65, "
            "first=heart_failure, code=SNOMED/84114007, file=cohort.parquet."
        ),
    ] = "random_visit",
    horizon: Annotated[list[int], typer.Option(help="Horizons in days; repeat for several.")] = [  # noqa: B006
        365
    ],
    washout_days: Annotated[int, typer.Option(help="Least observation before the index.")] = 365,
    risk_start_days: Annotated[
        int, typer.Option(help="Time at risk starts so long after the index, ends at the horizon.")
    ] = 0,
    split: Annotated[
        str, typer.Option(help="source (as the data have it, else hash) or hash.")
    ] = "source",
    seed: Annotated[int, typer.Option(help="For random_visit.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads; results do not depend on it.")] = 2,
    memory_limit: Annotated[str, typer.Option(help="Memory limit of the reader.")] = "2GB",
    temp_dir: Annotated[Path | None, typer.Option(help="Folder for spilling.")] = None,
) -> None:
    """Make a cohort: prediction times, outcomes with censoring, covariates, and the flow.

    Writes cohort.parquet (MEDS labels), outcomes.parquet (time to event, death competing),
    covariates.parquet (for the baselines) and flow.json (what was left out, by step).

    Example: chronoward cohort OMOP --index discharge --outcome readmission --horizon 30 --out C
    """
    from chronoward.cli.progress import bar
    from chronoward.cohort import CohortConfig, build_cohort
    from chronoward.cohort.source import opened, split_function

    config = CohortConfig(
        index=index,
        outcomes=tuple(outcome),
        horizon_days=tuple(horizon),
        washout_days=washout_days,
        risk_start_days=risk_start_days,
        seed=seed,
    )
    with (
        opened(source, threads=threads, memory_limit=memory_limit, temp_dir=temp_dir) as prepared,
        bar("cohort") as advance,
    ):
        split_of = split_function(prepared, split)
        flow = build_cohort(prepared, out, config, split_of=split_of, progress=advance)
    for step, count in flow.items():
        if isinstance(count, int):
            typer.echo(f"{step.replace('_', ' '):>22}  {count:,}")
    for name, counts in flow["outcomes"].items():
        text = ", ".join(f"{counts[str(h)]['events']:,} events in {h} d" for h in horizon)
        prior = f"{counts['prior_outcome']:,} had it before"
        typer.echo(f"{name:>22}  {counts['at_risk']:,} at risk, {prior}; {text}")
