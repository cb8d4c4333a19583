"""A source to a token store: prepare, fit on the train split, encode, write.

The package can be called: `chronoward.tokenize(src, …)` is `tokenize` of its module `run`, whether
or not a module of it was imported before (which puts the package under that name).
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

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


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        return import_module("chronoward.tokenize.run").tokenize(*args, **options)


sys.modules[__name__].__class__ = _CallablePackage
