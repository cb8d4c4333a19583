"""Units and text categories of a source: what needs all subjects, from the core's counts.

A unit is converted where the table of units knows how; a number without unit takes its code's
dominant unit where the quantiles agree (see `chronoward.data.rules`); a rare text is removed.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward.ahead import side_by_side
from chronoward.data.assumed_unit import NumberCounts, assumed_unit
from chronoward.data.meds_rows import NONE, Numbering
from chronoward.data.units import Conversion, conversion, unit_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from chronoward._core import MedsMending, OmopMending
    from chronoward.data.config import IngestConfig

    Columns = dict[str, NDArray[Any]]
    Pair = tuple[int, int]


class ValueRules:
    """Decides what becomes of units and texts.

    Args:
        pairs: unit concept and unit text by number of a unit; a source without concepts has None.
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
        self._name = np.array([*names, NONE], np.int32)  # the last one serves -1
        self._conversions: dict[Pair, Conversion] = {}
        self._assumed: dict[Pair, int] = {}
        self.kept_texts: list[tuple[int, int, int]] = []
        """(table, code, text) that are not rare."""

    def decide(
        self,
        mending: MedsMending | OmopMending,
        given: Iterable[dict[str, Any]],
        *,
        n_tables: int,
        texts: list[str],
        config: IngestConfig,
        threads: int,
    ) -> None:
        """Decides by what the core has counted.

        Args:
            mending: has surveyed all subjects, or there are neither units nor texts.
            given: rows of all subjects as the core takes them; read only where a code has numbers
                with a unit and without one.
            n_tables: that rows may be of.
            texts: categories by number.
            config: the dials.
            threads: that take pieces side by side; the result does not depend on them.
        """
        chosen = self._convert(mending.units())
        if chosen:
            is_chosen = np.zeros((n_tables, mending.n_codes), np.uint8)
            is_chosen[tuple(zip(*chosen, strict=True))] = 1
            flat = is_chosen.ravel()

            def unit_values(rows: dict[str, Any]) -> Columns:
                return mending.unit_values(**rows, is_chosen=flat)

            self._assume(side_by_side(unit_values, given, threads))
        self._keep(mending.texts(), texts, config)

    def decided(self) -> dict[str, Any]:
        """What the core applies to each event: arguments of `set_values`."""
        return {
            "unit_name": self._name[:-1],
            "conversions": [
                (code, unit, how.factor, how.offset, self.units.of(how.unit))
                for (code, unit), how in self._conversions.items()
            ],
            "assumed": [(*key, unit) for key, unit in self._assumed.items()],
            "kept_texts": self.kept_texts,
        }

    def _convert(self, found: Columns) -> set[Pair]:
        """Notes conversions; pairs of table and code whose numbers have a unit here, none there.

        Args:
            found: codes with numbers, in each unit once.
        """
        has_unit: set[Pair] = set()
        has_none: set[Pair] = set()
        name = self._name[found["unit"]]
        for table, code, unit in zip(
            found["table"].tolist(), found["code"].tolist(), name.tolist(), strict=True
        ):
            (has_none if unit == NONE else has_unit).add((table, code))
            if unit == NONE or (code, unit) in self._conversions:
                continue
            how = conversion(self._codes[code], self.units.texts[unit])
            if how is not None:
                self._conversions[code, unit] = how
        for how in list(self._conversions.values()):
            self.units.of(how.unit)
        return has_unit & has_none

    def _assume(self, parts: Iterable[Columns]) -> None:
        """Decides which unit numbers without one have.

        Args:
            parts: numbers of the chosen codes by their units, of all rows.
        """
        numbers: dict[Pair, dict[int, NumberCounts]] = defaultdict(
            lambda: defaultdict(NumberCounts)
        )
        for part in parts:
            name, offsets = self._name[part["unit"]], part["offsets"].tolist()
            keys = zip(part["table"].tolist(), part["code"].tolist(), name.tolist(), strict=True)
            for i, (table, code, unit) in enumerate(keys):
                number = part["number"][offsets[i] : offsets[i + 1]]
                how = self._conversions.get((code, unit))
                if how is None:
                    numbers[table, code][unit].add(number.copy())  # a view would hold the part
                else:
                    converted = number * how.factor + how.offset
                    numbers[table, code][self.units.of(how.unit)].add(converted)
        for key, by_unit in numbers.items():
            self._assumed[key] = assumed_unit(by_unit, self.units.texts)

    def _keep(self, found: Columns, text_of: list[str], config: IngestConfig) -> None:
        """Keeps the top k categories of each code, of them those with enough subjects.

        Args:
            found: texts of codes and how many events and subjects have them.
            text_of: a text by its number.
            config: the dials.
        """
        names = ("table", "code", "text", "n_events", "n_subjects")
        ranked: dict[Pair, list[tuple[int, bytes, int, int]]] = defaultdict(list)
        columns = (found[name].tolist() for name in names)
        for table, code, text, n, n_subjects in zip(*columns, strict=True):
            ranked[table, code].append((-n, text_of[text].encode(), text, n_subjects))
        self.kept_texts = [
            (*key, text)
            for key, texts in ranked.items()
            for _, _, text, n_subjects in sorted(texts)[: config.text_top_k]
            if n_subjects >= config.text_min_subjects
        ]
