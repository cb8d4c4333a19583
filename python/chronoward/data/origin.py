"""What a user named as source, made into one of three things, here and nowhere else.

A path (OMOP folder, MEDS folder, DuckDB file) is read where it is; a database and tables in memory
are copied into the work folder first and then read as folders are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa

from chronoward.data.memory import MedsTables
from chronoward.data.postgres import SCHEMES, PostgresSource
from chronoward.data.source import recognize_path
from chronoward.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from chronoward.data.source import Form

Source: TypeAlias = Path | PostgresSource | MedsTables
SourceLike: TypeAlias = Source | str | pa.Table | Mapping[str, pa.Table]
"""A path or `postgresql://` URI as text, tables, tables by split, or a finished source."""
_ADDRESS_AS_PATH = tuple((f"{scheme}:",) for scheme in SCHEMES)


def as_source(given: SourceLike) -> Source:
    """What the user named; nothing is opened.

    Raises:
        ConfigError: a URI of another kind or malformed, or something that is no source.
    """
    if isinstance(given, Path) and given.parts[:1] in _ADDRESS_AS_PATH:
        message = "a database's address is text: a Path makes one slash of its two"
        raise ConfigError(message)
    if isinstance(given, Path | PostgresSource | MedsTables):
        return given
    if isinstance(given, str):
        return _from_text(given)
    if isinstance(given, pa.Table | Mapping):
        return MedsTables(given)
    message = f"a source is a path, a URI or tables, got {type(given).__name__}"
    raise ConfigError(message)


def _from_text(given: str) -> Path | PostgresSource:
    scheme, mark, _ = given.partition("://")
    if not mark or "/" in scheme:
        return Path(given)
    if scheme.lower() not in SCHEMES:
        message = f"sources by URI are postgresql://…, got {scheme}://…"
        raise ConfigError(message)
    return PostgresSource.parse(given)


def recognize(given: SourceLike) -> Form:
    """Says whether a source is OMOP or MEDS.

    Raises:
        ConfigError: see `as_source`.
        DataError: a path that is neither.
        OSError: a path that does not exist.
    """
    source = as_source(given)
    return recognize_path(source) if isinstance(source, Path) else source.form


def decide_form(source: Source, as_: str | None) -> Form:
    """The form the user asked for, else the one that is recognized.

    Raises:
        ConfigError: an unknown form, or one that the source cannot have.
        DataError, OSError: see `recognize`.
    """
    if as_ is None:
        return recognize(source)
    if as_ not in ("omop", "meds"):
        message = f"form must be omop or meds, got {as_!r}"
        raise ConfigError(message)
    form: Form = "omop" if as_ == "omop" else "meds"
    if not isinstance(source, Path) and form != source.form:
        message = f"{source} is read as {source.form}, not as {form}"
        raise ConfigError(message)
    return form


def as_folder(source: Source, folder: Path, say: Callable[[str], None]) -> Path:
    """Where the source can be read: its own path, else `folder`, to which it is copied.

    Args:
        source: what `as_source` returned.
        folder: in the work folder; used only where a copy is needed.
        say: receives a line a table that is copied.

    Raises:
        ConfigError, DataError, OSError, StateError: see `PostgresSource.copy`.
    """
    return source if isinstance(source, Path) else source.copy(folder, say)
