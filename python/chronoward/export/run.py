"""`chronoward export`: one function a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from chronoward.errors import ConfigError
from chronoward.export.cehrgpt import export_cehrgpt
from chronoward.export.hugging_face import export_hugging_face

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TARGETS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "cehrgpt": export_cehrgpt,
    "hf": export_hugging_face,
}


def export(
    src: Path | str,
    out: Path | str,
    *,
    to: str,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes `src` in the form that another tool reads.

    Args:
        src: for "cehrgpt" a token store made with preset cehr; for "hf" a RUN folder trained with
            `portable`.
        out: a new or empty folder.
        to: one of `TARGETS`.
        progress: called with (done, total), in the target's own unit.

    Returns:
        The content of `export.json`.

    Raises:
        ConfigError: an unknown target, or a source that the target cannot take.
        FormatError: not a token store or a finished run, or a corrupt one.
        StateError: `out` has content.
        OSError: a file cannot be read or written.
    """
    if to not in TARGETS:
        message = f"to must be one of {', '.join(TARGETS)}; got {to!r}"
        raise ConfigError(message)
    return TARGETS[to](src, out, progress=progress)
