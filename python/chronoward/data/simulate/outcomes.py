"""Definitions of the clinic's outcomes, written beside its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import yaml

from chronoward.files import write_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.data.simulate.concepts import Catalog

_DEFINITIONS: Final = {
    "heart_failure": ("Heart failure (announced by precursors)", "heart_failure"),
    "sim_spontaneous": ("Airway flare (spontaneous: no code announces it)", "flare"),
    "sim_independent": ("Appendicitis (independent of history)", "appendicitis"),
    "dementia": ("Dementia (death competes)", "dementia"),
    "knee_osteoarthritis": ("Osteoarthritis of the knee", "knee_osteoarthritis"),
    "sim_lung_cancer": ("Lung cancer", "lung_cancer"),
    "sim_diabetes": ("Type 2 diabetes", "diabetes"),
}


def write_outcomes(catalog: Catalog, folder: Path) -> None:
    """Writes one outcome definition a file to `folder`/outcomes."""
    (folder / "outcomes").mkdir(mode=0o700, exist_ok=True)
    for name, (title, key) in _DEFINITIONS.items():
        concept = catalog.concepts[catalog.index[key]]
        definition = {
            "name": name,
            "title": title,
            "kind": "codes",
            "codes": {concept.vocabulary: [concept.code], "OMOP": [concept.concept_id]},
            "include_descendants": True,
            "first_only": True,
        }
        text = yaml.safe_dump(definition, sort_keys=False)
        write_bytes(folder / "outcomes" / f"{name}.yaml", text.encode())
