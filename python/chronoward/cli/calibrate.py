"""`chronoward calibrate`: how far a run's mean risks are off, from the record itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chronoward.cli.decoding import Device, Dtype, KvDtype


def run(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of `chronoward train`.")],
    tokens: Annotated[Path, typer.Argument(help="Token store that holds the cohort's subjects.")],
    cohort: Annotated[
        Path, typer.Option(help="Folder of `chronoward cohort`, with rows like those to score.")
    ],
    outcome: Annotated[list[str], typer.Option(help="Outcome name or YAML file; may be repeated.")],
    out: Annotated[Path, typer.Option(help="New JSON file, for `score --calibration`.")],
    horizon: Annotated[list[int], typer.Option(help="Days; may be repeated.")] = [365],  # noqa: B006
    estimator: Annotated[str, typer.Option(help="reach, scope, count or hazard.")] = "reach",
    n_rows: Annotated[int, typer.Option(help="Rows whose risk is estimated.")] = 1000,
    n_rollouts: Annotated[int, typer.Option(help="Rollouts a row and outcome.")] = 8,
    split: Annotated[
        str, typer.Option(help="Rows of this split: train, tuning, held_out or all.")
    ] = "train",
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    threads: Annotated[
        int, typer.Option(help="Worker processes; results do not depend on them.")
    ] = 2,
    device: Device = "auto",
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
) -> None:
    """Compares mean risks with the incidence among rows whose future is known.

    Example: chronoward calibrate run tokens --cohort cohort --outcome heart_failure
    --out calibration.json
    """
    from chronoward.cli.progress import bar
    from chronoward.score import CalibrationConfig, calibrate

    config = CalibrationConfig(
        estimator=estimator, n_rows=n_rows, n_rollouts=n_rollouts, split=split, seed=seed,
        device=device, dtype=dtype, kv_dtype=kv_dtype,
    )  # fmt: skip
    with bar("calibrate", unit="rows") as advance:
        found = calibrate(
            run_dir, tokens, cohort, outcome, horizon, out, config, threads=threads,
            progress=advance,
        )  # fmt: skip
    for name, horizons in found.levels.items():
        for days, groups in horizons.items():
            for group, level in groups.items():
                if level.observed is not None and level.expected is not None:
                    typer.echo(
                        f"{name}, {days} days, {group}: observed {level.observed:.4f} "
                        f"({level.n_events} events), expected {level.expected:.4f}, "
                        f"exponent {level.exponent:.3f}"
                    )
    typer.echo(str(out))
