"""The vocabulary tables: concept, concept_ancestor, concept_relationship and their kin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from chronoward.data.simulate.concepts import (
    CODES_PER_GROUP,
    INGREDIENTS,
    PARENTS,
    STRUCTURAL,
    Catalog,
    Concept,
)
from chronoward.data.simulate.omop import Rows
from chronoward.data.simulate.population import day_number

if TYPE_CHECKING:
    from collections.abc import Iterable

_VALID: Final = (day_number("1970-01-01"), day_number("2099-12-31"))
_META_FIRST_ID: Final = 1_870_000_000
_RELATIONSHIPS: Final = (
    ("Is a", "Is a", "1", "1", "Subsumes"),
    ("Subsumes", "Subsumes", "1", "1", "Is a"),
    ("Maps to", "Non-standard to standard", "0", "0", "Mapped from"),
    ("Mapped from", "Standard to non-standard", "0", "0", "Maps to"),
)


def _concepts(catalog: Catalog) -> list[Concept]:
    return [*STRUCTURAL, *catalog.concepts, *catalog.groups]


def _text(values: Iterable[str]) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    return np.array(list(values), dtype=object)


def _edges(catalog: Catalog) -> list[tuple[int, int]]:
    """(child, parent) concept ids, direct."""
    named = [
        (catalog.concepts[catalog.index[child]], catalog.concepts[catalog.index[parent]])
        for child, parents in (*INGREDIENTS.items(), *((c, (p,)) for c, p in PARENTS.items()))
        for parent in parents
    ]
    background = [
        (concept, catalog.groups[k // CODES_PER_GROUP])
        for k, concept in enumerate(catalog.concepts[catalog.n_named :])
    ]
    return [(child.concept_id, parent.concept_id) for child, parent in (*named, *background)]


def concept_rows(catalog: Catalog) -> Rows:
    """The concept table."""
    concepts = _concepts(catalog)
    return Rows(
        {
            "concept_id": np.array([c.concept_id for c in concepts]),
            "concept_name": _text(c.name for c in concepts),
            "domain_id": _text(c.domain for c in concepts),
            "vocabulary_id": _text(c.vocabulary for c in concepts),
            "concept_class_id": _text(c.concept_class for c in concepts),
            "standard_concept": _text(c.standard for c in concepts),
            "concept_code": _text(c.code for c in concepts),
            "valid_start_date": np.full(len(concepts), _VALID[0]),
            "valid_end_date": np.full(len(concepts), _VALID[1]),
        },
        len(concepts),
    )


def ancestor_rows(catalog: Catalog) -> Rows:
    """The concept_ancestor table; every standard concept is its own ancestor, as in OMOP."""
    own = [(c.concept_id, c.concept_id, 0) for c in catalog.concepts]
    own += [(c.concept_id, c.concept_id, 0) for c in catalog.groups]
    rows = own + [(parent, child, 1) for child, parent in _edges(catalog)]
    table = np.array(rows, dtype=np.int64)
    return Rows(
        {
            "ancestor_concept_id": table[:, 0],
            "descendant_concept_id": table[:, 1],
            "min_levels_of_separation": table[:, 2],
            "max_levels_of_separation": table[:, 2],
        },
        len(table),
    )


def relationship_rows(catalog: Catalog) -> Rows:
    """The concept_relationship table: Is a and Subsumes, and Maps to for standard concepts."""
    edges = _edges(catalog)
    rows = [(a, b, 0) for a, b in edges] + [(b, a, 1) for a, b in edges]
    rows += [(c.concept_id, c.concept_id, k) for c in catalog.concepts for k in (2, 3)]
    table = np.array(rows, dtype=np.int64)
    names = np.array([r[0] for r in _RELATIONSHIPS], dtype=object)
    return Rows(
        {
            "concept_id_1": table[:, 0],
            "concept_id_2": table[:, 1],
            "relationship_id": names[table[:, 2]],
            "valid_start_date": np.full(len(table), _VALID[0]),
            "valid_end_date": np.full(len(table), _VALID[1]),
        },
        len(table),
    )


def vocabulary_tables(catalog: Catalog) -> dict[str, Rows]:
    """All vocabulary tables by name."""
    concepts = _concepts(catalog)
    tables = {
        "concept": concept_rows(catalog),
        "concept_ancestor": ancestor_rows(catalog),
        "concept_relationship": relationship_rows(catalog),
    }
    next_id = _META_FIRST_ID
    for name, values in (
        ("vocabulary", {c.vocabulary for c in concepts}),
        ("domain", {c.domain for c in concepts}),
        ("concept_class", {c.concept_class for c in concepts}),
    ):
        names = sorted(values)
        ids = next_id + np.arange(len(names))
        next_id += len(names)
        columns = {
            f"{name}_id": _text(names),
            f"{name}_name": _text(names),
            f"{name}_concept_id": ids,
        }
        if name == "vocabulary":
            columns["vocabulary_version"] = _text("chronoward clinic" for _ in names)
        tables[name] = Rows(columns, len(names))
    ids = next_id + np.arange(len(_RELATIONSHIPS))
    fields = ("relationship_id", "relationship_name", "is_hierarchical", "defines_ancestry")
    columns = {f: _text(r[i] for r in _RELATIONSHIPS) for i, f in enumerate(fields)}
    columns["reverse_relationship_id"] = _text(r[4] for r in _RELATIONSHIPS)
    columns["relationship_concept_id"] = ids
    tables["relationship"] = Rows(columns, len(_RELATIONSHIPS))
    return tables
