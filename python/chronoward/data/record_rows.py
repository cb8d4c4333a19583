"""Some records of a clinical table as numbers, whichever way they were read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

START_BAD, END_BAD, NUMBER_BAD, HAS_NUMBER = 1, 2, 4, 8
"""Bits of the column `flags` (csrc/core/omop_rows.hpp)."""
ID_COLUMNS = ("concept", "source_concept", "type", "status", "value_concept", "operator")
TIME_COLUMNS = ("moment", "day", "end_at", "end_day")


@dataclass(frozen=True, eq=False)
class ReadRecords:
    """Records in the order of their source, (n,) each.

    Attributes:
        subject: int64, `NULL_US` for null.
        key: int64, `NULL_US` for null and for keys that are not written as an integer.
        text_key_row: int64 (n_text_keys,), rows of the latter.
        text_keys: string (n_text_keys,).
        columns: what the spool keeps; those that the table does not have are missing.
    """

    subject: Ints
    key: Ints
    text_key_row: Ints
    text_keys: pa.Array
    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.subject)
