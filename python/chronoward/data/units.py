"""Units: one spelling each, and variants of a quantity converted to one unit before binning.

The tables are data files with their sources: `unit_names.csv` (spellings, OMOP ids),
`unit_conversions.csv` (factors) and `unit_quantities.csv` (which codes measure what). The target
unit of a quantity is fixed, not the commonest one, so that two sites agree.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ANY_QUANTITY = "*"


@dataclass(frozen=True)
class Conversion:
    """value in `unit` = value · factor + offset."""

    unit: str
    factor: float
    offset: float


def _rows(name: str) -> Iterator[dict[str, str]]:
    text = files("chronoward.data").joinpath(name).read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    yield from csv.DictReader(lines)


@cache
def _names() -> tuple[dict[int, str], dict[str, str]]:
    by_id, by_spelling = {}, {}
    for row in _rows("unit_names.csv"):
        by_id[int(row["concept_id"])] = row["unit"]
        by_spelling[row["unit"].casefold()] = row["unit"]
        for spelling in row["spellings"].strip("|").split("|"):
            by_spelling[spelling.casefold()] = row["unit"]
    return by_id, by_spelling


@cache
def _conversions() -> dict[tuple[str, str], Conversion]:
    return {
        (row["quantity"], row["from"]): Conversion(
            row["to"], float(row["factor"]), float(row["offset"])
        )
        for row in _rows("unit_conversions.csv")
    }


@cache
def _quantities() -> dict[str, str]:
    codes = {}
    for row in _rows("unit_quantities.csv"):
        codes[f"LOINC/{row['loinc']}"] = row["quantity"]
        codes[f"LOINC//{row['loinc']}"] = row["quantity"]
        codes[f"OMOP/{row['concept_id']}"] = row["quantity"]
    return codes


def unit_name(concept_id: int | None, concept_code: str | None, text: str | None) -> str | None:
    """The unit's one spelling: by concept, else by the source's text.

    Args:
        concept_id: OMOP unit concept; 0 and None mean none.
        concept_code: its code in the source's concept table, if known.
        text: what the source wrote.
    """
    by_id, by_spelling = _names()
    if concept_id:
        if concept_id in by_id:
            return by_id[concept_id]
        if concept_code:
            return by_spelling.get(concept_code.casefold(), concept_code)
    stripped = (text or "").strip()
    if stripped.casefold() in ("", "n/a", "na", "none", "no matching concept", "unk", "null"):
        return f"OMOP/{concept_id}" if concept_id else None
    return by_spelling.get(stripped.casefold(), stripped)


def concept_ids() -> dict[str, int]:
    """OMOP concept of each unit's own spelling."""
    return {row["unit"]: int(row["concept_id"]) for row in _rows("unit_names.csv")}


def quantity_of(code: str) -> str | None:
    """The quantity a code measures; MEDS codes may carry a unit after the LOINC code."""
    quantities = _quantities()
    if code in quantities:
        return quantities[code]
    parts = code.split("//")
    return quantities.get("//".join(parts[:2])) if len(parts) > 2 else None


def conversion(code: str, unit: str | None) -> Conversion | None:
    """How a value of `code` in `unit` is converted; None when it stays as it is."""
    if unit is None:
        return None
    table = _conversions()
    quantity = quantity_of(code)
    if quantity is not None and (quantity, unit) in table:
        return table[quantity, unit]
    return table.get((ANY_QUANTITY, unit))
