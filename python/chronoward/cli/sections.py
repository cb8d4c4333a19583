"""Tables for people: rich tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Section:
    """A titled table of text."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def show(sections: list[Section]) -> None:
    """Prints sections to standard output."""
    if sys.stdout.isatty():
        _show_tables(sections)
        return
    for section in sections:
        typer.echo(f"{section.title}")
        widths = [
            max(len(row[i]) for row in [section.columns, *section.rows])
            for i in range(len(section.columns))
        ]
        for row in [section.columns, *section.rows]:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            typer.echo("  " + "  ".join(cells).rstrip())
        if section.note:
            typer.echo(f"  {section.note}")
        typer.echo("")


def _show_tables(sections: list[Section]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for section in sections:
        table = Table(title=section.title, title_justify="left", caption=section.note or None)
        for i, column in enumerate(section.columns):
            table.add_column(column, overflow="fold", justify="left" if i == 0 else "default")
        for row in section.rows:
            table.add_row(*row)
        console.print(table)
