"""A source to a token store: prepare, fit on the train split, encode, write, keep up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.packages import make_callable, on_first_use

if TYPE_CHECKING:
    from chronoward.tokenize.check import Findings, verify
    from chronoward.tokenize.expanding import expand
    from chronoward.tokenize.fitting import fit, merge
    from chronoward.tokenize.parts import merge_parts
    from chronoward.tokenize.run import tokenize

__all__ = ["Findings", "expand", "fit", "merge", "merge_parts", "tokenize", "verify"]

_HOMES = {
    "Findings": "chronoward.tokenize.check",
    "expand": "chronoward.tokenize.expanding",
    "fit": "chronoward.tokenize.fitting",
    "merge": "chronoward.tokenize.fitting",
    "merge_parts": "chronoward.tokenize.parts",
    "tokenize": "chronoward.tokenize.run",
    "verify": "chronoward.tokenize.check",
}

__getattr__ = on_first_use(__name__, _HOMES)

make_callable(__name__)
