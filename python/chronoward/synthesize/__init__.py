"""Synthetic subjects from a trained model, written as OMOP CDM 5.4 or MEDS 0.4.

The package can be called: `chronoward.synthesize(run, …)` is `synthesize` of its module `job`,
whether or not a module of it was imported before (which puts the package under that name).
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chronoward.synthesize.job import SynthesisOptions, synthesize
    from chronoward.synthesize.release import check_release

__all__ = ["SynthesisOptions", "check_release", "synthesize"]

_HOMES = {
    "SynthesisOptions": "chronoward.synthesize.job",
    "check_release": "chronoward.synthesize.release",
    "synthesize": "chronoward.synthesize.job",
}


def __getattr__(name: str) -> Any:
    """Loads torch with the first use of a name that needs it."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        return import_module("chronoward.synthesize.job").synthesize(*args, **options)


sys.modules[__name__].__class__ = _CallablePackage
