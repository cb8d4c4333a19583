"""The `chronoward` command: one verb a module, whose heavy imports happen when it runs.

`VERBS` is the table of contents. A verb's module defines `run`, a Typer command function; importing
it must stay light (typer and the standard library), so that every `--help` answers at once.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

if TYPE_CHECKING:
    from types import FrameType

# Verbs with one function `run`, and groups (evaluate) with an `app` of their own.
VERBS: tuple[str, ...] = (
    "calibrate",
    "cohort",
    "demo",
    "embed",
    "evaluate",
    "expand",
    "export",
    "fit",
    "generate",
    "ingest",
    "inspect",
    "merge",
    "release",
    "report",
    "score",
    "simulate",
    "synthesize",
    "tokenize",
    "train",
    "verify",
)

# Plain help: rich's boxes cost a third of the time of a `--help` (0.15 of 0.40 CPU-seconds).
PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None}

EXIT_DATA_FAULT = 1
EXIT_USAGE = 2
EXIT_SIGINT = 130
EXIT_SIGTERM = 143


class _Verbs(TyperGroup):
    """Finds a verb's command in its module."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        module = import_module(f"chronoward.cli.{cmd_name}")
        verb = getattr(module, "app", None)
        if verb is None:
            verb = typer.Typer(**PLAIN)
            verb.command(name=cmd_name)(module.run)
        command = get_command(verb)
        command.name = cmd_name
        return command


app = typer.Typer(cls=_Verbs, no_args_is_help=True, **PLAIN)


def _show_version(value: bool) -> None:
    if value:
        from chronoward import __version__

        typer.echo(f"chronoward {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_show_version, is_eager=True
    ),
) -> None:
    """Electronic health records in; representations, risks and synthetic patients out."""


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(EXIT_SIGTERM)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits: 0; 1 data fault; 2 usage; 130 or 143 interrupted."""
    from chronoward.errors import ConfigError, LimitError, NumericError, StateError

    os.umask(0o077)
    # Vocabularies and code tables are many objects without cycles: looking for some among them, as
    # often as the interpreter does by itself, takes a third of the time of making them.
    gc.set_threshold(100_000, 50, 50)
    # Threads that wait for work must sleep: spinning ones halve the speed of a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(args=arguments, prog_name="chronoward")
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to go on", err=True)
        sys.exit(EXIT_SIGINT)
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_USAGE)
    except (ValueError, StateError, LimitError, NumericError, OSError) as error:
        if not type(error).__module__.startswith("chronoward") and not isinstance(error, OSError):
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_DATA_FAULT)
