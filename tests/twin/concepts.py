"""What OMOP concepts mean: codes, ingredients, classes of visits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.twin.source import Cells, Row

from chronoward.data.concepts import INGREDIENT_VOCABULARIES, VISIT_CODES

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Concepts:
    """The concept table and the ingredients of drugs; both may be missing."""

    code: dict[int, str] = field(default_factory=dict)
    vocabulary: dict[int, str] = field(default_factory=dict)
    ingredients: dict[int, list[int]] = field(default_factory=dict)

    def code_of(self, concept: int) -> str:
        return self.code.get(concept, f"OMOP/{concept}")

    def plain(self, prefix: str, concept: int) -> str:
        """`prefix/CONCEPT_CODE`, or its id where the concept is not known."""
        known = self.code.get(concept)
        return f"{prefix}/{concept if known is None else known.split('/', 1)[1]}"

    def visit_code(self, concept: int | None) -> str:
        return VISIT_CODES.get(concept or 0) or self.plain("Visit", concept or 0)


def read_concepts(concepts: Sequence[Row] | None, ancestors: Sequence[Row] | None) -> Concepts:
    found, substances = Concepts(), set()
    for row in concepts or ():
        cells = Cells(row)
        concept = cells.integer("concept_id")
        vocabulary, code = cells.text("vocabulary_id"), cells.text("concept_code")
        found.code[concept], found.vocabulary[concept] = f"{vocabulary}/{code}", vocabulary
        is_ingredient = cells.text("concept_class_id") == "Ingredient"
        if is_ingredient and vocabulary in INGREDIENT_VOCABULARIES:
            substances.add(concept)
    for row in ancestors or ():
        cells = Cells(row)
        up = cells.integer("ancestor_concept_id")
        down = cells.integer("descendant_concept_id")
        if up in substances and down not in substances:
            found.ingredients.setdefault(down, []).append(up)
    return found
