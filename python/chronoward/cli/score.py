"""`chronoward score`: zero-shot risks of a cohort's rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from chronoward.cli.decoding import Device, Dtype, KvDtype

# On so few rollouts a second process costs more than it saves (it loads torch first).
_SMALL_JOB = 4000


def run(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of `chronoward train`.")],
    tokens: Annotated[Path, typer.Argument(help="Token store that holds the cohort's subjects.")],
    cohort: Annotated[Path, typer.Option(help="Folder of `chronoward cohort`, or MEDS labels.")],
    outcome: Annotated[list[str], typer.Option(help="Outcome name or YAML file; may be repeated.")],
    out: Annotated[Path, typer.Option(help="New folder for the predictions.")],
    horizon: Annotated[list[int], typer.Option(help="Days; may be repeated.")] = [365],  # noqa: B006
    estimator: Annotated[
        str, typer.Option(help="reach, scope, count, or hazard (one pass, needs the head).")
    ] = "reach",
    n_rollouts: Annotated[
        int | None,
        typer.Option(help="Rollouts a row and outcome; a pilot chooses when it is not given."),
    ] = None,
    target_se: Annotated[float, typer.Option(help="Standard error that the pilot aims at.")] = 0.01,
    max_rollouts: Annotated[int, typer.Option(help="Most that the pilot may ask for.")] = 256,
    calibration: Annotated[
        Path | None, typer.Option(help="File of `chronoward calibrate` to correct the risks by.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Score only this split: train, tuning, held_out or all.")
    ] = "all",
    threshold: Annotated[
        float, typer.Option(help="Probability from which predicted_boolean_value is true.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    device: Device = "auto",
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Rows that cannot be scored are an error.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="Worker processes; results do not depend on them.")
    ] = None,
) -> None:
    """Zero-shot risks of a cohort's rows, each with its standard error and bounds."""
    from chronoward.cli.progress import bar
    from chronoward.score import ScoreConfig, score
    from chronoward.score.rows import read_cohort

    config = ScoreConfig(
        estimator=estimator,
        n_rollouts=n_rollouts,
        target_se=target_se,
        max_rollouts=max_rollouts,
        split=split,
        threshold=threshold,
        calibration=calibration,
        seed=seed,
        device=device,
        dtype=dtype,
        kv_dtype=kv_dtype,
        strict=strict,
    )
    if threads is None:
        is_small = len(read_cohort(cohort)) * len(outcome) * (n_rollouts or 32) < _SMALL_JOB
        threads = 1 if is_small else min(2, os.cpu_count() or 1)
    with bar("score", unit="rows") as advance:
        report = score(
            run_dir, tokens, cohort, outcome, horizon, out, config, threads=threads,
            progress=advance,
        )  # fmt: skip
    typer.echo(
        f"{report['rows']['scored']} rows, {report['n_rollouts_total']} rollouts, "
        f"{report['undetermined']:.2%} undetermined, {report['seconds']:.0f} s: {out}"
    )
