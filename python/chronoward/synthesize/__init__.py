"""Synthetic subjects from a trained model, written as OMOP CDM 5.4 or MEDS 0.4."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chronoward.verbs import make_callable

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


make_callable(__name__)
