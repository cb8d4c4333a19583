"""`chronoward inspect`: what is there, in a source or in a token store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    path: Annotated[Path, typer.Argument(help="OMOP or MEDS source, or a token store.")],
    as_: Annotated[
        str | None, typer.Option("--as", help="omop or meds, instead of recognizing.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads for reading a source.")] = 1,
    memory_limit: Annotated[str, typer.Option(help="Memory for reading a source.")] = "2GB",
    temp_dir: Annotated[
        Path | None, typer.Option(help="Where to put the source while it is read.")
    ] = None,
) -> None:
    """Shows tables, mapping, follow-up and the rules that applied; or tokens and their meaning."""
    from chronoward.cli.sections import show

    if (path / "store.json").is_file():
        from chronoward.cli.inspect_tokens import describe_store

        show(describe_store(path))
        return
    import tempfile

    from chronoward.cli.inspect_source import describe_source
    from chronoward.data.assemble import prepare

    with tempfile.TemporaryDirectory(prefix="chronoward-inspect-", dir=temp_dir) as folder:
        prepared = prepare(
            path,
            Path(folder),
            as_=as_,
            threads=threads,
            memory_limit=memory_limit,
            progress=lambda line: typer.echo(line, err=True),
        )
        show(describe_source(path, prepared))
