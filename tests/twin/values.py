"""Values (CLINICAL: "Values"): one record's parsed, then units and categories of all records."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from chronoward.data.records import NEGATIVE, NOT_DONE, POSITIVE, TEXT_LENGTH
from chronoward.data.rules import Rule
from chronoward.data.units import conversion

if TYPE_CHECKING:
    from chronoward.data import IngestConfig

FIXED = ("POS", "NEG", "not_done")
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d{1,2})?", re.ASCII)
_BOUND = re.compile(r"(<=|>=|<|>|≤|≥) *([-+]?\d+(\.\d*)?)", re.ASCII)
_LARGEST = 3.4e38


@dataclass
class Value:
    """A parsed value: a number, or a category, or neither."""

    number: float | None = None
    text: str | None = None
    changes: set[Rule] = field(default_factory=set)
    is_known: bool = False
    """Whether number or text said something; else a value's concept may."""


def fits(number: float) -> bool:
    return math.isfinite(number) and abs(number) <= _LARGEST


def parse_value(number: float | None, text: str | None) -> Value:
    """The number where it is one, else what the text says."""
    value = Value(is_known=True)
    if number is not None and fits(number):
        value.number = number
        return value
    if number is not None:
        value.changes.add(Rule.VALUE_NOT_FINITE)
    if text is None:
        value.is_known = False
    elif _NUMBER.fullmatch(text) and fits(float(text)):
        value.number = float(text)
        value.changes.add(Rule.VALUE_FROM_TEXT)
    elif found := _BOUND.fullmatch(text):
        value.number = float(found[2])
        value.changes.add(Rule.VALUE_BOUNDED)
    elif text.upper() in NOT_DONE:
        value.text = "not_done"
        value.changes.add(Rule.VALUE_NOT_DONE)
    elif text.upper() in POSITIVE + NEGATIVE:
        value.text = "POS" if text.upper() in POSITIVE else "NEG"
        value.changes.add(Rule.VALUE_CATEGORY)
    elif len(text) > TEXT_LENGTH:
        value.changes.add(Rule.TEXT_FREE)
    else:
        value.text = text
        value.is_known = False
    return value


@dataclass(eq=False)
class Measured:
    """An event with a code, before its unit and text are settled; `changes` are its record's."""

    subject: int
    table: str
    code: str
    number: float | None
    unit: str | None
    text: str | None
    is_fixed_text: bool
    changes: set[Rule]

    @property
    def key(self) -> tuple[str, str]:
        return self.table, self.code


def settle_values(events: list[Measured], config: IngestConfig) -> None:
    """Units converted or assumed, rare texts removed: what depends on all records of a code."""
    for event in events:
        how = conversion(event.code, event.unit) if event.number is not None else None
        if how is not None:
            event.number = event.number * how.factor + how.offset
            event.unit = how.unit
            event.changes.add(Rule.UNIT_CONVERTED)
    _assume_units(events)
    _drop_rare_texts(events, config)


def _assume_units(events: list[Measured]) -> None:
    numbers: dict[tuple[str, str], dict[str | None, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for event in events:
        if event.number is not None:
            numbers[event.key][event.unit].append(event.number)
    assumed: dict[tuple[str, str], str | None] = {}
    for key, by_unit in numbers.items():
        units = [unit for unit in by_unit if unit is not None]
        if None not in by_unit or not units:
            continue
        dominant = max(units, key=lambda unit: (len(by_unit[unit]), unit.encode()))
        agree = _agree(by_unit[None], by_unit[dominant])
        assumed[key] = dominant if agree else None
    for event in events:
        if event.number is not None and event.unit is None and event.key in assumed:
            event.unit = assumed[event.key]
            is_missing = event.unit is None
            event.changes.add(Rule.UNIT_MISSING if is_missing else Rule.UNIT_ASSUMED)


def _agree(without: list[float], dominant: list[float]) -> bool:
    """Median within the dominant unit's middle 80 %, quartiles within its middle 98 %."""
    median, low, high = (_quantile(without, q) for q in (0.5, 0.25, 0.75))
    return (
        _quantile(dominant, 0.1) <= median <= _quantile(dominant, 0.9)
        and low >= _quantile(dominant, 0.01)
        and high <= _quantile(dominant, 0.99)
    )


def _quantile(values: list[float], share: float) -> float:
    """The least value with at least that share at or below it."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def _drop_rare_texts(events: list[Measured], config: IngestConfig) -> None:
    count: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    subjects: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for event in events:
        if event.text is not None and not event.is_fixed_text:
            count[event.key][event.text] += 1
            subjects[*event.key, event.text].add(event.subject)
    kept = set()
    for key, texts in count.items():
        top = sorted(texts, key=lambda text: (-texts[text], text.encode()))[: config.text_top_k]
        kept |= {(*key, t) for t in top if len(subjects[*key, t]) >= config.text_min_subjects}
    for event in events:
        is_free = event.text is not None and not event.is_fixed_text
        if is_free and (*event.key, event.text) not in kept:
            event.text = None
            event.changes.add(Rule.TEXT_RARE)


def stored(number: float | None) -> float | None:
    """The number as the event table holds it: float32, no negative zero."""
    return None if number is None else float(np.float32(number + 0.0))
