"""A source to a token store: prepare, fit on the train split, encode, write."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chronoward.verbs import make_callable

if TYPE_CHECKING:
    from chronoward.tokenize.check import Findings, verify
    from chronoward.tokenize.fitting import fit, merge
    from chronoward.tokenize.run import tokenize

__all__ = ["Findings", "fit", "merge", "tokenize", "verify"]

_HOMES = {
    "Findings": "chronoward.tokenize.check",
    "fit": "chronoward.tokenize.fitting",
    "merge": "chronoward.tokenize.fitting",
    "tokenize": "chronoward.tokenize.run",
    "verify": "chronoward.tokenize.check",
}


def __getattr__(name: str) -> Any:
    """Loads duckdb with the first use of a name that needs it."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)


make_callable(__name__)
