"""Columns of clinical records as numbers: concepts, texts and pairs of unit and text, once each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chronoward._core import IdNumbering, TextNumbering
from chronoward.data.meds_rows import NONE, NULL_US

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Codes = NDArray[np.int32]
    Ints = NDArray[np.int64]


def number_ids(column: pa.Array, numbering: IdNumbering) -> Codes:
    """Numbers of a column of int64, -1 for null."""
    values = column.fill_null(NULL_US).to_numpy(zero_copy_only=False)
    return numbering.of_all(np.ascontiguousarray(values, np.int64), null=NULL_US)


def number_texts(column: pa.Array, numbering: TextNumbering, *, is_value: bool = False) -> Codes:
    """Numbers of a column of texts, -1 for null and empty ones.

    Args:
        column: string, dictionary-encoded or not.
        numbering: grows by what is new.
        is_value: values that are too long for a category need not be kept.
    """
    encoded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
    distinct = [text or "" for text in encoded.dictionary.to_pylist()]
    known = np.append(numbering.of_all(distinct, is_value=is_value), np.int32(NONE))
    indices = encoded.indices.fill_null(len(distinct)) if encoded.null_count else encoded.indices
    numbers: Codes = known[indices.to_numpy(zero_copy_only=False)]
    return numbers


@dataclass
class RecordNumberings:
    """What the numbers of a source's records stand for."""

    ids: IdNumbering = field(default_factory=IdNumbering)
    source_values: TextNumbering = field(default_factory=TextNumbering)
    texts: TextNumbering = field(default_factory=TextNumbering)
    unit_texts: TextNumbering = field(default_factory=TextNumbering)
    units: IdNumbering = field(default_factory=IdNumbering)
    """Pairs of a unit's concept (an id's number) and text, see `unit_pairs`."""

    def number_units(self, concept: Codes | None, text: Codes | None) -> Codes:
        """Numbers of pairs of unit concept and unit text, -1 where both are null."""
        parts = []
        if concept is not None:
            parts.append((concept.astype(np.int64) + 1) << 32)
        if text is not None:
            parts.append(text.astype(np.int64) + 1)
        packed: Ints = parts[0] if len(parts) == 1 else parts[0] | parts[1]
        return self.units.of_all(packed, null=0)

    def unit_pairs(self) -> list[tuple[int | None, str | None]]:
        """Unit concept and text by number of the pair."""
        ids, texts = self.ids.values(), self.unit_texts.texts()
        pairs: list[tuple[int | None, str | None]] = []
        for packed in self.units.values():
            high, low = (packed >> 32) - 1, (packed & 0xFFFFFFFF) - 1
            pairs.append((None if high == NONE else ids[high], None if low == NONE else texts[low]))
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
