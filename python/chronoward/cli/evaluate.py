"""`chronoward evaluate …`: judge predictions, synthetic subjects or an OMOP folder."""

from __future__ import annotations

from pathlib import Path

import typer

from chronoward.cli import PLAIN

app = typer.Typer(no_args_is_help=True, **PLAIN)


@app.callback()
def _group() -> None:
    """Judge predictions, synthetic subjects or an OMOP folder; each fills metrics.json in --out."""


@app.command("predictions")
def predictions(
    score_dir: Path = typer.Argument(..., metavar="DIR", help="Folder of `chronoward score`."),
    cohort: Path = typer.Option(..., "--cohort", help="Folder of `chronoward cohort`."),
    out: Path = typer.Option(..., "--out", help="Evaluation folder; sections are added to it."),
    truth: Path | None = typer.Option(None, "--truth", help="truth.parquet of a simulation."),
    n_replicates: int = typer.Option(400, "--n-replicates", help="Bootstrap draws of subjects."),
    seed: int = typer.Option(0, "--seed", help="Key of the bootstrap."),
) -> None:
    """Discrimination, calibration and use of risks, beside the trivial baselines."""
    from chronoward.evaluation.predictions import EvaluationConfig, evaluate_predictions
    from chronoward.evaluation.run import write_predictions

    config = EvaluationConfig(n_replicates=n_replicates, seed=seed)
    section = evaluate_predictions(score_dir, cohort, truth, config=config)
    metrics = write_predictions(out, section, cohort)
    for task in section["tasks"]:
        typer.echo(f"{task['outcome']}, {task['horizon_days']} days: {task['verdict']['headline']}")
    typer.echo(f"wrote {metrics}")


@app.command("synthetic")
def synthetic(
    synthetic_dir: str = typer.Option(..., "--synthetic", help="Synthetic subjects: OMOP or MEDS."),
    train: str = typer.Option(..., "--train", help="What the generator was trained on."),
    held_out: str = typer.Option(
        ..., "--held-out", help="Real subjects it never saw; --train again to use its splits."
    ),
    out: Path = typer.Option(..., "--out", help="Evaluation folder; sections are added to it."),
    work_dir: Path | None = typer.Option(
        None, "--work-dir", help="Keep prepared events here (patient data); else they are deleted."
    ),
    max_subjects: int = typer.Option(3000, "--max-subjects", help="Most subjects a sample."),
    n_replicates: int = typer.Option(100, "--n-replicates", help="Bootstrap draws of subjects."),
    seed: int = typer.Option(0, "--seed", help="Key of samples and bootstrap."),
) -> None:
    """Fidelity and utility of synthetic subjects, beside a real-real ceiling and a floor."""
    from tempfile import TemporaryDirectory

    from chronoward.evaluation.samples import SyntheticConfig
    from chronoward.evaluation.sections import write_section
    from chronoward.evaluation.synthetic import evaluate_synthetic

    config = SyntheticConfig(max_subjects=max_subjects, n_replicates=n_replicates, seed=seed)
    with TemporaryDirectory(prefix="chronoward-") as temporary:
        section = evaluate_synthetic(
            synthetic_dir, train, held_out, work_dir=work_dir or Path(temporary), config=config
        )
    metrics = write_section(out, "synthetic", section)
    for metric in section["metrics"]:
        value = metric["synthetic"] and metric["synthetic"]["value"]
        ceiling = metric["ceiling"] and metric["ceiling"]["value"]
        if value is not None and ceiling is not None:
            typer.echo(f"{metric['title']}: {value:.3f} (ceiling {ceiling:.3f})")
    typer.echo(f"wrote {metrics}")


@app.command("omop")
def omop(
    source: Path = typer.Argument(..., metavar="DIR", help="OMOP folder or DuckDB file."),
    out: Path = typer.Option(..., "--out", help="Evaluation folder; sections are added to it."),
    threads: int = typer.Option(1, "--threads", help="Threads; results do not depend on them."),
    memory_limit: str = typer.Option("2GB", "--memory-limit", help="Larger tables spill to disk."),
) -> None:
    """Conformance and sense of an OMOP CDM 5.4 database, by SQL on its files."""
    from chronoward.evaluation.omop import evaluate_omop
    from chronoward.evaluation.sections import write_section

    section = evaluate_omop(source, memory_limit=memory_limit, threads=threads)
    metrics = write_section(out, "omop", section)
    typer.echo(
        f"{section['n_checks']:,} checks: {section['hard_violations']:,} hard violations, "
        f"{section['soft_violations']:,} soft"
    )
    for row in section["failed"]:
        place = ".".join(part for part in (row["table"], row["column"]) if part)
        at = "" if row["example_row"] is None else f", first in row {row['example_row']:,}"
        typer.echo(f"{row['severity']}  {row['name']}  {place}: {row['violations']:,}{at}")
    typer.echo(f"wrote {metrics}")
