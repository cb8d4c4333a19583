"""Electronic health records in; representations, zero-shot risks and synthetic patients out.

Importing this loads neither torch nor triton nor duckdb: every public name is resolved on first
use (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.packages import on_first_use

if TYPE_CHECKING:
    from chronoward.version import __version__

# public name -> module that defines it
_PUBLIC: dict[str, str] = {
    "__version__": "chronoward.version",
    "TokenStore": "chronoward.store",
    "calibrate": "chronoward.score",
    "embed": "chronoward.embed",
    "expand": "chronoward.tokenize",
    "export": "chronoward.export",
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


__getattr__ = on_first_use(__name__, _PUBLIC)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
