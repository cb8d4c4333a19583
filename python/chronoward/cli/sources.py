"""Options that every verb with a source shares, so that they are named and explained once."""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chronoward.cli import progress as bars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chronoward.data import IngestConfig
    from chronoward.tokenizer import TokenizerSpec

# Text, not Path: a path would make one slash of a URI's two.
Source = Annotated[
    str,
    typer.Argument(metavar="SRC", help="OMOP or MEDS folder, DuckDB file, or postgresql://… URI."),
]
As = Annotated[str | None, typer.Option("--as", help="omop or meds, instead of recognizing it.")]
Preset = Annotated[
    str | None,
    typer.Option(help="compact, cehr or events; compact where the source has visits."),
]
TimeScheme = Annotated[
    str | None,
    typer.Option(help="day, week, month, cehr_bert, mix, ethos or log; the preset's own."),
]
Values = Annotated[str | None, typer.Option(help="fused, split or none; the preset's own.")]
PromptFields = Annotated[
    str | None, typer.Option(help="Some of year,age,sex,race, in this order, by commas.")
]
Split = Annotated[
    str | None,
    typer.Option(help="source, hash or temporal; the source's own where it has one, else hash."),
]
Exclude = Annotated[Path | None, typer.Option(help="File of subject ids to leave out.")]
IngestFile = Annotated[Path | None, typer.Option(help="YAML or JSON with dials of ingestion.")]
Threads = Annotated[int, typer.Option(min=1, help="Results do not depend on it.")]
MemoryLimit = Annotated[str, typer.Option(help="Of the sort; beyond it spills to disk.")]
TempDir = Annotated[Path | None, typer.Option(help="For intermediate files.")]
EventsDir = Annotated[
    Path | None,
    typer.Option(help="Keep the source's sorted events here, for tasks that share them."),
]
ConceptEmbeddings = Annotated[
    Path | None,
    typer.Option(help="Parquet file of code and vector (list of floats), for --place-unseen."),
]
PlaceUnseen = Annotated[
    float | None,
    typer.Option(
        metavar="COSINE",
        help="Encode a code that is not kept as the kept code of its table whose embedding is "
        "nearest, if their cosine is this or more (say 0.8); counted as `placed`.",
    ),
]
Shared = dict[str, Any]


def source_options(
    preset: Preset = None,
    split: Split = None,
    exclude_subjects: Exclude = None,
    as_: As = None,
    time_scheme: TimeScheme = None,
    values: Values = None,
    prompt_fields: PromptFields = None,
    ingest: IngestFile = None,
    threads: Threads = 1,
    memory_limit: MemoryLimit = "2GB",
    temp_dir: TempDir = None,
    events_dir: EventsDir = None,
) -> Shared:
    """The options of every verb that tokenizes, as arguments of `chronoward.tokenize`.

    Raises:
        ConfigError: options that contradict each other, or a faulty ingest file.
        OSError: the ingest file cannot be read.
    """
    return {
        "spec": make_spec(preset, time_scheme, values, prompt_fields),
        "split": split,
        "as_": as_,
        "exclude_subjects": exclude_subjects,
        "ingest": ingest_config(ingest),
        "threads": threads,
        "memory_limit": memory_limit,
        "temp_dir": temp_dir,
        "events_dir": events_dir,
    }


def with_source_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Gives a verb the options of `source_options`; it gets what that returns as `shared`."""
    own = inspect.signature(verb, eval_str=True).parameters
    common = inspect.signature(source_options, eval_str=True).parameters
    listed = {name: p for name, p in own.items() if name != "shared"} | dict(common)

    @wraps(verb)
    def command(**given: Any) -> None:
        mine = {name: value for name, value in given.items() if name not in common}
        verb(**mine, shared=source_options(**{name: given[name] for name in common}))

    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in listed.values()]
    )
    command.__annotations__ = {name: p.annotation for name, p in listed.items()}
    del command.__wrapped__
    return command


def make_spec(
    preset: str | None, time_scheme: str | None, values: str | None, prompt_fields: str | None
) -> TokenizerSpec | None:
    """The tokenizer asked for; None when no option was given.

    Raises:
        ConfigError: an unknown option, or details without a preset.
    """
    from chronoward.errors import ConfigError
    from chronoward.tokenizer import TokenizerSpec

    chosen: dict[str, Any] = {"time_scheme": time_scheme, "values": values}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if prompt_fields is not None:
        chosen["prompt_fields"] = tuple(f for f in prompt_fields.split(",") if f)
    if preset is None:
        if chosen:
            message = "--time-scheme, --values and --prompt-fields need --preset"
            raise ConfigError(message)
        return None
    return TokenizerSpec(preset=preset, **chosen)


def ingest_config(path: Path | None) -> IngestConfig | None:
    """Dials of ingestion from a file; None for the defaults.

    Raises:
        ConfigError: not a mapping, or an unknown dial.
        OSError: the file cannot be read.
    """
    if path is None:
        return None
    from chronoward.data import IngestConfig
    from chronoward.files import read_settings

    return IngestConfig.from_json(read_settings(path))


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Yields `progress(stage, done, total)`: a bar a stage, a line where there is no total."""
    with ExitStack() as stack:
        current: tuple[str, Callable[[int, int], None]] | None = None

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal current
            if total == 0:
                typer.echo(stage, err=True)
                return
            if current is None or current[0] != stage:
                stack.close()
                current = (stage, stack.enter_context(bars.bar(stage, unit="events")))
            current[1](done, total)

        yield progress
