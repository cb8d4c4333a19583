"""`chronoward train`: a token store in, a RUN folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from chronoward.cli.decoding import Device


def _objectives(text: str) -> dict[str, float]:
    """Reads `next_event,hazard:0.5` as names and weights."""
    from chronoward.errors import ConfigError

    weights = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition(":")
        try:
            weights[name] = float(weight) if weight else 1.0
        except ValueError:
            message = f"--objective: {part!r} is not a name or name:weight"
            raise ConfigError(message) from None
    return weights


def _outcomes(path: Path | None) -> tuple[str, ...]:
    """Outcome names or YAML files, one a line; a YAML file stands for itself."""
    if path is None:
        return ()
    if path.suffix in (".yaml", ".yml"):
        return (str(path),)
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(
        str(path.parent / line) if line.endswith((".yaml", ".yml")) else line
        for line in lines
        if line
    )


def _excluded(path: Path | None) -> list[int]:
    from chronoward.errors import DataError

    if path is None:
        return []
    subjects = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            subjects.append(int(line))
        except ValueError:
            message = f"{path}, line {number}: not a subject id"
            raise DataError(message) from None
    return subjects


def _bytes(text: str | None) -> int | None:
    from chronoward.errors import ConfigError

    if text is None:
        return None
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    digits = text.strip().rstrip("KMGIBkmgib ")
    unit = text.strip()[len(digits) :].strip().upper()
    try:
        return int(float(digits) * (units[unit] if unit else 1))
    except (KeyError, ValueError):
        message = f"--memory-limit: {text!r} is not a size such as 4GB"
        raise ConfigError(message) from None


def _report(advance: Any) -> Any:
    """Moves the bar, and says what each look at the tuning split found."""

    def report(done: int, total: int, line: dict[str, Any]) -> None:
        advance(done, total)
        if line["kind"] == "tuning":
            losses = ", ".join(
                f"{name} {loss['value']:.4f} {loss['unit']}"
                for name, loss in line["loss"].items()
                if loss["value"] is not None
            )
            bits = line.get("bits_per_token", {}).get("all")
            shown = f"; {bits:.3f} bits per token" if bits is not None else ""
            typer.echo(f"step {done:,}: tuning {losses}{shown}", err=True)

    return report


def run(
    tokens: Annotated[Path, typer.Argument(help="Token store.")],
    out: Annotated[Path, typer.Option(help="RUN folder to write.")],
    preset: Annotated[str, typer.Option(help="tiny, small, base or large.")] = "tiny",
    objective: Annotated[
        str,
        typer.Option(
            help="next_event, next_visit, subtime, gap and hazard, with weights: next_event,gap:0.1"
        ),
    ] = "next_event",
    outcomes: Annotated[
        Path | None,
        typer.Option(help="Outcomes of the hazard head: a YAML file, or names one a line."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished run in the same folder.")
    ] = False,
    minutes: Annotated[float | None, typer.Option(help="Time to train for.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Most steps.")] = None,
    epochs: Annotated[float, typer.Option(help="Most passes over the train split.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Same seed, store and threads: same bytes.")] = 0,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate [the preset's].")
    ] = None,
    row_tokens: Annotated[int, typer.Option(help="Longest context, in tokens.")] = 2048,
    rows_per_step: Annotated[
        int | None, typer.Option(help="Rows of a step [the preset's].")
    ] = None,
    rows_per_pass: Annotated[
        int | None,
        typer.Option(help="Rows in memory at once; a step adds up their gradients [all]."),
    ] = None,
    average: Annotated[
        float | None, typer.Option(help="Decay of a moving average of the weights, such as 0.999.")
    ] = None,
    repeat_weight: Annotated[
        str, typer.Option(help="Down-weight repeated codes: none, raven or exp.")
    ] = "none",
    time_bias: Annotated[str | None, typer.Option(help="linear, log or none [linear].")] = None,
    rotary: Annotated[str | None, typer.Option(help="half, index, time or none [half].")] = None,
    portable: Annotated[
        bool,
        typer.Option(
            "--portable",
            help="Only what other libraries' architectures have too, for `chronoward export RUN "
            "--to hf`: no time in attention, no clock, no biases by what the record holds.",
        ),
    ] = False,
    device: Device = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="fp32 or bf16 [fp32 on a CPU, bf16 on a GPU].")
    ] = None,
    patience: Annotated[
        int, typer.Option(help="Evaluations without a new best before the run stops.")
    ] = 3,
    exclude_subjects: Annotated[
        Path | None, typer.Option(help="File of subject ids to leave out, one a line.")
    ] = None,
    concept_embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Parquet file of code and vector (list of floats): the embedding rows of these "
            "codes start from their vectors, projected to the model's width."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads [all].")] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="Refuse to start above this estimate, such as 4GB.")
    ] = None,
    parallel: Annotated[
        str,
        typer.Option(
            help="What each process that torchrun starts holds: ddp, the whole model, or fsdp, a "
            "part of its weights, gradients and optimizer's state."
        ),
    ] = "ddp",
) -> None:
    """Trains a model on a token store; the best weights on the tuning split are kept."""
    import torch

    from chronoward.cli.progress import bar
    from chronoward.train import Callbacks, Place, TrainConfig, train

    if threads is not None:
        torch.set_num_threads(threads)
    config = TrainConfig(
        preset=preset,
        model={k: v for k, v in (("time_bias", time_bias), ("rotary", rotary)) if v is not None},
        portable=portable,
        objectives=_objectives(objective),
        outcomes=_outcomes(outcomes),
        repeat_weight=repeat_weight,
        learning_rate=learning_rate,
        row_tokens=row_tokens,
        rows_per_step=rows_per_step,
        rows_per_pass=rows_per_pass,
        average=average,
        dtype=dtype,
        seed=seed,
        epochs=epochs,
        max_steps=max_steps,
        minutes=minutes,
        patience=patience,
    )
    with bar("train", unit="steps") as advance:
        train(
            tokens,
            out,
            config,
            resume=resume,
            exclude_subjects=_excluded(exclude_subjects),
            concept_embeddings=concept_embeddings,
            memory_limit=_bytes(memory_limit),
            place=Place(device=device, parallel=parallel),
            callbacks=Callbacks(
                progress=_report(advance), say=lambda line: typer.echo(line, err=True)
            ),
        )
    typer.echo(f"model: {out}")
