"""Units and text categories of a MEDS source: what needs all subjects, counted shard by shard.

First `count` sees every shard's code events, then `decided` says what the core does with each. A
unit is converted where the table of units knows how; a number without unit takes its code's
dominant unit where the quantiles agree (see `chronoward.data.rules`); a rare text is removed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from chronoward.data.assumed_unit import NumberCounts, assumed_unit
from chronoward.data.meds_rows import NONE, Numbering
from chronoward.data.meds_tables import FIXED_TEXTS
from chronoward.data.units import Conversion, conversion, unit_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.data.config import IngestConfig

    Ints = NDArray[np.int64]
    Codes = NDArray[np.int32]
    Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CodeEvents:
    """Code events of a shard, (n,) each.

    Attributes:
        subject: int64, a number that no other shard uses for another subject.
        table, code: their numbers.
        unit, text: their numbers, -1 for none.
        number: float64, NaN for none.
    """

    subject: Ints
    table: NDArray[np.uint16]
    code: Codes
    unit: Codes
    text: Codes
    number: Floats


def _groups(*columns: NDArray[Any]) -> tuple[NDArray[np.int32], Ints]:
    """Numbers of the distinct rows of columns of integers, by hashing: nothing is sorted.

    Args:
        columns: (n,) each, of 32 bits at most.

    Returns:
        int32 (n,), the group of each row; int64 (n_groups,), the first row of each.
    """
    group, n_groups = np.zeros(len(columns[0]), np.int32), 0
    for column in columns:
        packed = group.astype(np.int64) << 32 | column.astype(np.uint32)
        found = pa.array(packed).dictionary_encode()
        group, n_groups = found.indices.to_numpy(), len(found.dictionary)
    first = np.zeros(n_groups, np.int64)
    first[group[::-1]] = np.arange(len(group))[::-1]
    return group, first


def _runs(values: Ints) -> NDArray[np.int32]:
    """The number of each run of equal values."""
    return np.cumsum(np.diff(values, prepend=values[:1]) != 0, dtype=np.int32)


def _narrow(group: NDArray[np.int32], n_groups: int) -> NDArray[Any]:
    """16 bits where they hold them: those NumPy sorts by counting."""
    return group.astype(np.uint16) if n_groups <= 1 << 16 else group


class ValueRules:
    """Counts a source's values, then decides what they become.

    Args:
        codes: event codes by number.
        units: raw units by number.
        texts: categories by number.
        config: the dials.
    """

    def __init__(
        self, codes: Numbering, units: Numbering, texts: Numbering, config: IngestConfig
    ) -> None:
        self._codes, self._texts, self._config = codes, texts, config
        self.units = Numbering()
        """Names of units, by the number that events have in the end."""
        self._name = np.full(len(units.texts) + 1, NONE, np.int32)  # the last one serves -1
        for i, text in enumerate(units.texts):
            name = unit_name(None, None, text)
            self._name[i] = NONE if name is None else self.units.of(name)
        self._is_fixed = np.array([text in FIXED_TEXTS for text in texts.texts] + [True])
        self._conversions: dict[tuple[int, int], Conversion | None] = {}
        self._n_text: Counter[tuple[int, int, int]] = Counter()
        self._n_text_subjects: Counter[tuple[int, int, int]] = Counter()
        self._numbers: dict[tuple[int, int], dict[int, NumberCounts]] = defaultdict(
            lambda: defaultdict(NumberCounts)
        )
        self._has_units = bool(units.texts)
        self._assumed: dict[tuple[int, int], int] = {}
        self._kept_texts: set[tuple[int, int, int]] = set()

    def _converted(self, events: CodeEvents) -> tuple[Codes, Floats]:
        """Unit names and numbers after conversion."""
        unit = self._name[events.unit]
        number = events.number.copy()
        rows = np.flatnonzero((unit != NONE) & ~np.isnan(number))
        pair = events.code[rows].astype(np.int64) << 32 | unit[rows]
        for packed in np.unique(pair).tolist():
            code, name = packed >> 32, packed & 0xFFFFFFFF
            if (code, name) not in self._conversions:
                texts = self._codes.texts[code], self.units.texts[name]
                self._conversions[code, name] = conversion(*texts)
            how = self._conversions[code, name]
            if how is None:
                continue
            mine = rows[pair == packed]
            number[mine] = number[mine] * how.factor + how.offset
            unit[mine] = self.units.of(how.unit)
        return unit, number

    def count(self, events: CodeEvents) -> None:
        """Takes a shard into account."""
        if self._has_units:
            self._count_units(events)
        rows = np.flatnonzero(~self._is_fixed[events.text])
        table, code, text = events.table[rows], events.code[rows], events.text[rows]
        group, first = _groups(table, code, text)
        n = np.bincount(group, minlength=len(first)).tolist()
        _, first_of_pair = _groups(group, _runs(events.subject[rows]))
        n_subjects = np.bincount(group[first_of_pair], minlength=len(first)).tolist()
        keys = zip(*(column[first].tolist() for column in (table, code, text)), strict=True)
        for i, key in enumerate(keys):
            self._n_text[key] += n[i]
            self._n_text_subjects[key] += n_subjects[i]

    def _count_units(self, events: CodeEvents) -> None:
        unit, number = self._converted(events)
        rows = np.flatnonzero(~np.isnan(number))
        if not len(rows):
            return
        table, code, unit = events.table[rows], events.code[rows], unit[rows]
        group, first = _groups(table, code, unit)
        values = number[rows[np.argsort(_narrow(group, len(first)), kind="stable")]]
        ends = np.cumsum(np.bincount(group, minlength=len(first)))
        keys = zip(*(column[first].tolist() for column in (table, code, unit)), strict=True)
        for (of_table, of_code, name), mine in zip(keys, np.split(values, ends[:-1]), strict=True):
            self._numbers[of_table, of_code][name].add(mine)

    def finish(self) -> None:
        """Decides, once every shard was counted."""
        for key, by_unit in self._numbers.items():
            if NONE in by_unit and len(by_unit) > 1:
                self._assumed[key] = assumed_unit(by_unit, self.units.texts)
        self._numbers.clear()
        ranked: dict[tuple[int, int], list[tuple[int, bytes, int]]] = defaultdict(list)
        for (table, code, text), n in self._n_text.items():
            ranked[table, code].append((-n, self._texts.texts[text].encode(), text))
        for (table, code), found in ranked.items():
            for _, _, text in sorted(found)[: self._config.text_top_k]:
                if self._n_text_subjects[table, code, text] >= self._config.text_min_subjects:
                    self._kept_texts.add((table, code, text))

    def decided(self) -> dict[str, Any]:
        """What the core applies to each event (`_core.MedsMending.set_values`)."""
        known = ((key, how) for key, how in self._conversions.items() if how is not None)
        return {
            "unit_name": self._name[:-1],
            "is_fixed_text": self._is_fixed[:-1].astype(np.uint8),
            "conversions": [
                (code, name, how.factor, how.offset, self.units.of(how.unit))
                for (code, name), how in known
            ],
            "assumed": [(*key, name) for key, name in self._assumed.items()],
            "kept_texts": list(self._kept_texts),
        }
