"""Columns of clinical records as numbers: concepts, texts and pairs of unit and text, once each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chronoward.data.meds_rows import NONE, NULL_US, Numbering

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Codes = NDArray[np.int32]
    Ints = NDArray[np.int64]

KEPT_BYTES = 256
"""Longer texts are told apart by a digest; none of them is a category."""
_MAYBE_NUMBER = frozenset("+-<>≤≥0123456789")


@dataclass
class IdNumbering:
    """Distinct integers in the order in which they came."""

    values: list[int] = field(default_factory=list)
    _number: dict[int, int] = field(default_factory=dict)

    def of(self, value: int) -> int:
        """The number of a value, a new one where it is new."""
        found = self._number.get(value)
        if found is None:
            found = self._number[value] = len(self.values)
            self.values.append(value)
        return found

    def of_column(self, column: pa.Array) -> Codes:
        """Numbers of a column of int64, -1 for null."""
        encoded = pc.dictionary_encode(column)
        known = [self.of(value) for value in encoded.dictionary.to_pylist()]
        return _taken(known, encoded)


def number_texts(column: pa.Array, numbering: Numbering, *, is_value: bool = False) -> Codes:
    """Numbers of a column of texts, -1 for null.

    Args:
        column: string, dictionary-encoded or not.
        numbering: grows by what is new.
        is_value: values that are too long for a category need not be kept.
    """
    encoded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
    known = number_distinct(encoded.dictionary.to_pylist(), numbering, is_value=is_value)
    return _taken(known, encoded)


def number_distinct(
    texts: Sequence[str | None], numbering: Numbering, *, is_value: bool = False
) -> list[int]:
    """Numbers of texts, -1 for null and empty ones (see `number_texts`)."""
    if is_value and max((len(text) for text in texts if text), default=0) > KEPT_BYTES:
        texts = [_shortened(text) if text else None for text in texts]
    of = numbering.of
    return [of(text) if text else NONE for text in texts]


def _shortened(text: str) -> str:
    if len(text) <= KEPT_BYTES or text[0] in _MAYBE_NUMBER:
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return f"{digest:\0>{KEPT_BYTES}}"


def _taken(known: list[int], encoded: pa.DictionaryArray) -> Codes:
    indices = encoded.indices.fill_null(len(known)) if encoded.null_count else encoded.indices
    return numbers_of(known, indices.to_numpy(zero_copy_only=False))


def numbers_of(known: list[int], index: NDArray[np.int32]) -> Codes:
    """Numbers of rows by the place of each among distinct values; -1, or one past them, is null."""
    numbers: Codes = np.array([*known, NONE], np.int32)[index]
    return numbers


@dataclass
class RecordNumberings:
    """What the numbers of a source's records stand for."""

    ids: IdNumbering = field(default_factory=IdNumbering)
    source_values: Numbering = field(default_factory=Numbering)
    texts: Numbering = field(default_factory=Numbering)
    unit_texts: Numbering = field(default_factory=Numbering)
    units: IdNumbering = field(default_factory=IdNumbering)
    """Pairs of a unit's concept (an id's number) and text, see `unit_pairs`."""

    def number_units(self, concept: Codes | None, text: Codes | None) -> Codes:
        """Numbers of pairs of unit concept and unit text, -1 where both are null."""
        given = concept if concept is not None else text
        assert given is not None  # the caller has one of them
        high = np.full(len(given), NONE, np.int64) if concept is None else concept.astype(np.int64)
        low = np.full(len(given), NONE, np.int64) if text is None else text.astype(np.int64)
        packed = (high + 1) << 32 | (low + 1)
        return self.units.of_column(pa.array(packed, mask=packed == 0))

    def unit_pairs(self) -> list[tuple[int | None, str | None]]:
        """Unit concept and text by number of the pair."""
        pairs: list[tuple[int | None, str | None]] = []
        for packed in self.units.values:
            high, low = (packed >> 32) - 1, (packed & 0xFFFFFFFF) - 1
            concept = None if high == NONE else self.ids.values[high]
            pairs.append((concept, None if low == NONE else self.unit_texts.texts[low]))
        return pairs


def as_us(column: pa.Array) -> Ints:
    """Times in microseconds, `NULL_US` for null."""
    us = column.cast(pa.timestamp("us")).cast(pa.int64())
    filled = us.fill_null(NULL_US) if us.null_count else us
    return np.ascontiguousarray(filled.to_numpy(zero_copy_only=False), np.int64)


def as_flags(column: pa.Array) -> NDArray[np.uint8]:
    """A condition as 0 and 1, null as 0."""
    filled = column.fill_null(False) if column.null_count else column
    return np.ascontiguousarray(filled.to_numpy(zero_copy_only=False), np.uint8)
