"""Synthetic subjects from a trained model, written as OMOP CDM 5.4 or MEDS 0.4."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.packages import make_callable, on_first_use

if TYPE_CHECKING:
    from chronoward.synthesize.job import SynthesisOptions, synthesize
    from chronoward.synthesize.release import check_release

__all__ = ["SynthesisOptions", "check_release", "synthesize"]

_HOMES = {
    "SynthesisOptions": "chronoward.synthesize.job",
    "check_release": "chronoward.synthesize.release",
    "synthesize": "chronoward.synthesize.job",
}

__getattr__ = on_first_use(__name__, _HOMES)

make_callable(__name__)
