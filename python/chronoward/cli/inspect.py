"""`chronoward inspect`: what is there, in a source or in a token store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    path: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="OMOP or MEDS folder, DuckDB file, postgresql://… URI, or a token store.",
        ),
    ],
    as_: Annotated[
        str | None, typer.Option("--as", help="omop or meds, instead of recognizing.")
    ] = None,
    rules: Annotated[
        bool,
        typer.Option(help="Also apply every rule and count it; takes as long as `ingest`."),
    ] = False,
    threads: Annotated[int, typer.Option(help="Threads for reading a source.")] = 1,
    memory_limit: Annotated[str, typer.Option(help="Memory for reading a source.")] = "2GB",
    temp_dir: Annotated[
        Path | None, typer.Option(help="Where to spill while a source is read.")
    ] = None,
) -> None:
    """Shows tables, mapping, traps, follow-up, size and time; or tokens and their meaning.

    A source is scanned once; nothing of it is written.
    """
    import tempfile

    from chronoward.cli.sections import show
    from chronoward.data.origin import as_source

    source = as_source(path)
    if isinstance(source, Path) and (source / "store.json").is_file():
        from chronoward.cli.inspect_tokens import describe_store

        show(describe_store(source))
        return
    from chronoward.cli.inspect_source import describe_look, describe_rules
    from chronoward.data.look_source import look

    seen = look(source, as_=as_, threads=threads, memory_limit=memory_limit, temp_dir=temp_dir)
    show(describe_look(str(source), seen))
    if not rules:
        return
    from chronoward.data.assemble import prepare

    with tempfile.TemporaryDirectory(prefix="chronoward-inspect-", dir=temp_dir) as folder:
        prepared = prepare(
            source,
            Path(folder),
            as_=as_,
            threads=threads,
            memory_limit=memory_limit,
            progress=lambda line: typer.echo(line, err=True),
        )
        show(describe_rules(prepared.report))
