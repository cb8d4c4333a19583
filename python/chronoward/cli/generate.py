"""`chronoward generate`: continuations of real prefixes as MEDS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chronoward.cli.decoding import Device, Dtype, KvDtype


def run(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of `chronoward train`.")],
    tokens: Annotated[Path, typer.Argument(help="Token store that holds the cohort's subjects.")],
    cohort: Annotated[Path, typer.Option(help="Folder of `chronoward cohort`, or MEDS labels.")],
    out: Annotated[Path, typer.Option(help="New folder, one Parquet file a rollout index.")],
    n_rollouts: Annotated[int, typer.Option(help="Continuations of each row.")] = 20,
    days: Annotated[int, typer.Option(help="How far beyond the prediction time.")] = 365,
    temperature: Annotated[float, typer.Option(help="1 draws from the model as it is.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Keep the k most probable tokens; 0 all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the most probable mass.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Drop below this share of the best.")] = 0.0,
    split: Annotated[
        str, typer.Option(help="Only this split: train, tuning, held_out or all.")
    ] = "all",
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    device: Device = "auto",
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    threads: Annotated[
        int, typer.Option(help="Worker processes; results do not depend on them.")
    ] = 1,
) -> None:
    """Continues a cohort's prefixes (patient data: keep it where the records are)."""
    from chronoward.cli.progress import bar
    from chronoward.trajectories import GenerateConfig, generate

    config = GenerateConfig(
        n_rollouts=n_rollouts,
        days=days,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        split=split,
        seed=seed,
        device=device,
        dtype=dtype,
        kv_dtype=kv_dtype,
    )
    with bar("generate", unit="timelines") as advance:
        report = generate(run_dir, tokens, cohort, out, config, threads=threads, progress=advance)
    typer.echo(
        f"{report['rows']['scored']} rows × {n_rollouts} rollouts, {report['events']} events, "
        f"{report['seconds']:.0f} s: {out}"
    )
