"""Electronic health records in; representations, zero-shot risks and synthetic patients out.

Importing this loads neither torch nor triton nor duckdb: every public name is resolved on first
use (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version as _version
from typing import Any

__version__ = _version("chronoward")

# public name -> module that defines it
_PUBLIC: dict[str, str] = {
    "TokenStore": "chronoward.store",
    "embed": "chronoward.embed",
    "fit": "chronoward.tokenize",
    "generate": "chronoward.trajectories",
    "merge": "chronoward.tokenize",
    "pack": "chronoward.packing",
    "score": "chronoward.score",
    "simulate": "chronoward.data.simulate",
    "synthesize": "chronoward.synthesize",
    "tokenize": "chronoward.tokenize",
    "train": "chronoward.train",
    "verify": "chronoward.tokenize",
}

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        message = f"module 'chronoward' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
