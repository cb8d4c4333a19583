"""A code of the vocabulary, and what its value bins look like."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CodeEntry:
    """One (kind, table, code, unit) of the vocabulary and how its values are binned.

    `edges` are the inner bin edges (float32, ascending); bin b holds edges[b-1] <= v < edges[b].
    `quantiles` holds, per bin, the knots of its quantile function on an even grid.
    """

    kind: str
    table: str
    code: str
    unit: str | None = None
    description: str | None = None
    concept_id: int = 0
    vocabulary_id: str | None = None
    domain_id: str | None = None
    concept_class_id: str | None = None
    sex_specific: str | None = None
    is_inpatient: bool = False
    n_subjects: int = 0
    edges: tuple[float, ...] = ()
    quantiles: tuple[tuple[float, ...], ...] = ()
    texts: tuple[str, ...] = ()

    @property
    def n_bins(self) -> int:
        """Number of value bins; 0 for codes without numbers."""
        return len(self.quantiles)

    @property
    def key(self) -> tuple[str, str, str, str | None]:
        """What makes an entry one of a kind."""
        return (self.kind, self.table, self.code, self.unit)

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON holds them."""
        return {name: value for name, value in vars(self).items() if value != _DEFAULTS[name]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CodeEntry:
        """Reads what `to_json` wrote.

        Raises:
            TypeError: unknown or missing fields.
        """
        parts = dict(value)
        for name in ("edges", "texts"):
            if name in parts:
                parts[name] = tuple(parts[name])
        if "quantiles" in parts:
            parts["quantiles"] = tuple(tuple(bin_) for bin_ in parts["quantiles"])
        return cls(**parts)


_DEFAULTS = {field.name: field.default for field in fields(CodeEntry)}
