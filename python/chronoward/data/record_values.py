"""Units and text categories of clinical records: what needs all subjects, from the core's counts.

A unit is converted where the table of units knows how; a number without unit takes its code's
dominant unit where the quantiles agree (see `chronoward.data.rules`); a rare text is removed.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward.data.assumed_unit import NumberCounts, assumed_unit
from chronoward.data.meds_rows import NONE, Numbering
from chronoward.data.units import Conversion, conversion, unit_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from chronoward.data.config import IngestConfig

    Columns = dict[str, NDArray[Any]]
    Pair = tuple[int, int]


class RecordValues:
    """Decides on units.

    Args:
        pairs: unit concept and unit text by number of a pair.
        known_codes: `VOCABULARY/CODE` of concepts that the source describes.
        codes: event codes by number.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[int | None, str | None]],
        known_codes: dict[int, str],
        codes: list[str],
    ) -> None:
        self._codes = codes
        self.units = Numbering()
        """Names of units, by the number that events have in the end."""
        names = []
        for concept, text in pairs:
            known = None if concept is None else known_codes.get(concept)
            code = known.split("/", 1)[1] if known else None
            name = unit_name(concept, code, text)
            names.append(NONE if name is None else self.units.of(name))
        self.unit_name = np.array(names, np.int32)
        self._name = np.array([*names, NONE], np.int32)  # the last one serves -1
        self.conversions: dict[Pair, Conversion] = {}
        self.assumed: dict[Pair, int] = {}

    def choose(self, found: Columns) -> set[Pair]:
        """Notes conversions; pairs of table and code whose numbers have a unit here, none there.

        Args:
            found: `_core.OmopMending.units`.
        """
        has_unit: set[Pair] = set()
        has_none: set[Pair] = set()
        name = self._name[found["unit"]]
        for table, code, unit in zip(
            found["table"].tolist(), found["code"].tolist(), name.tolist(), strict=True
        ):
            (has_none if unit == NONE else has_unit).add((table, code))
            if unit == NONE or (code, unit) in self.conversions:
                continue
            how = conversion(self._codes[code], self.units.texts[unit])
            if how is not None:
                self.conversions[code, unit] = how
        for how in list(self.conversions.values()):
            self.units.of(how.unit)
        return has_unit & has_none

    def assume(self, parts: Iterable[Columns]) -> None:
        """Decides which unit numbers without one have.

        Args:
            parts: `_core.OmopMending.unit_values` of all records.
        """
        numbers: dict[Pair, dict[int, NumberCounts]] = defaultdict(
            lambda: defaultdict(NumberCounts)
        )
        for part in parts:
            name = self._name[part["unit"]]
            order = np.lexsort((name, part["code"], part["table"]))
            keys = np.stack([part["table"][order], part["code"][order], name[order]])
            if not len(order):
                continue
            starts = np.flatnonzero(np.append(True, (keys[:, 1:] != keys[:, :-1]).any(axis=0)))
            for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
                table, code, unit = keys[:, start].tolist()
                number = part["number"][order[start:end]]
                how = self.conversions.get((code, unit))
                if how is not None:
                    number = number * how.factor + how.offset
                    unit = self.units.of(how.unit)
                numbers[table, code][unit].add(number)
        for key, by_unit in numbers.items():
            self.assumed[key] = assumed_unit(by_unit, self.units.texts)


def kept_texts(
    found: Columns, text_of: Callable[[int], str], config: IngestConfig
) -> list[tuple[int, int, int]]:
    """(table, code, text) of the top k categories of each code with enough subjects.

    Args:
        found: `_core.OmopMending.texts`.
        text_of: a text by its number.
        config: the dials.
    """
    names = ("table", "code", "text", "n_events", "n_subjects")
    ranked: dict[Pair, list[tuple[int, bytes, int, int]]] = defaultdict(list)
    for table, code, text, n, n_subjects in zip(*(found[c].tolist() for c in names), strict=True):
        ranked[table, code].append((-n, text_of(text).encode(), text, n_subjects))
    return [
        (*key, text)
        for key, texts in ranked.items()
        for _, _, text, n_subjects in sorted(texts)[: config.text_top_k]
        if n_subjects >= config.text_min_subjects
    ]
