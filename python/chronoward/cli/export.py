"""`chronoward export`: what we make, in the form that another tool reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    src: Annotated[
        Path,
        typer.Argument(metavar="SRC", help="cehrgpt: token store of preset cehr. hf: RUN folder."),
    ],
    to: Annotated[str, typer.Option(help="cehrgpt or hf, see above.")],
    out: Annotated[Path, typer.Option(help="New folder (patient data, as the source is).")],
) -> None:
    """Writes a token store or a model in another tool's form.

    TOKENS --to cehrgpt: Parquet files that CEHR-GPT 0.1.9 trains on.

    RUN --to hf: a folder that transformers' AutoModelForCausalLM and AutoTokenizer load, with our
    logits. The model must know nothing but tokens and their order: train it with
    `chronoward train TOKENS --out RUN --portable`. Of any other the error says what it does
    beyond that.
    """
    from chronoward.cli.progress import bar
    from chronoward.export import export

    with bar("export", unit="files" if to == "hf" else "subjects") as advance:
        report = export(src, out, to=to, progress=advance)
    if to == "hf":
        typer.echo(f"{report['architecture']}, {report['n_parameters']:,} parameters: {out}")
        return
    splits = report["splits"].values()
    left_out = sum(s["without_visits"] + s["age_unknown"] for s in splits)
    typer.echo(
        f"{sum(s['subjects'] for s in splits):,} subjects, "
        f"{sum(s['tokens'] for s in splits):,} tokens: {out}"
    )
    if left_out:
        typer.echo(f"{left_out:,} subjects without visits or age left out (see export.json)")
