"""Arrow event tables as flat arrays: strings become small keys once a batch, never per event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from chronoward._core import distinct_keys
from chronoward.dictionary import numbers_of
from chronoward.errors import DataError
from chronoward.schema import Role, event_schema

if TYPE_CHECKING:
    from numpy.typing import NDArray

NULL_US: Final = -(2**63)

Key = tuple[int, str, str, "str | None"]  # role, table, code, unit


@dataclass(frozen=True, eq=False)
class EventColumns:
    """Events of whole subjects, (N,) each; `key` indexes `keys`, `text` indexes `texts` (-1 none).

    Times are microseconds since 1970, `NULL_US` where there is none; visit_id likewise; `value` is
    NaN where there is no number.
    """

    subject_id: NDArray[np.int64]
    time_us: NDArray[np.int64]
    available_us: NDArray[np.int64]
    role: NDArray[np.uint8]
    key: NDArray[np.int32]
    value: NDArray[np.float32]
    text: NDArray[np.int32]
    visit_id: NDArray[np.int64]
    end_us: NDArray[np.int64]
    keys: list[Key]
    texts: list[str]

    def __len__(self) -> int:
        return len(self.subject_id)


def _integers(table: pa.Table, name: str) -> NDArray[np.int64]:
    column = table.column(name)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us")).cast(pa.int64())
    filled = column.combine_chunks() if column.null_count == 0 else column.fill_null(NULL_US)
    return np.ascontiguousarray(filled.to_numpy(), dtype=np.int64)


def read_events(events: pa.Table) -> EventColumns:
    """Flat arrays of an event table.

    Args:
        events: columns of `chronoward.schema.event_schema`; strings may be dictionary-encoded.

    Raises:
        DataError: a column is missing, or subjects do not ascend (not whole and contiguous).
    """
    missing = [name for name in event_schema().names if name not in events.column_names]
    if missing:
        message = f"event table lacks the columns {missing}"
        raise DataError(message)
    subject_id = _integers(events, "subject_id")
    falls = np.flatnonzero(np.diff(subject_id) < 0)
    if len(falls):
        message = f"events row {falls[0] + 1}: subjects must be contiguous and ascending"
        raise DataError(message)
    role = np.ascontiguousarray(events.column("role").to_numpy(), dtype=np.uint8)
    if len(role) and role.max() > max(Role):
        message = f"events row {int(np.argmax(role > max(Role)))}: unknown role"
        raise DataError(message)
    key, keys = _combine(events, role)
    text, texts = numbers_of(events["text_value"])
    value = events.column("numeric_value").fill_null(np.float32(np.nan)).to_numpy()
    time_us = _integers(events, "time")
    available_us = _integers(events, "available_time")
    return EventColumns(
        subject_id=subject_id,
        time_us=time_us,
        available_us=np.where(available_us == NULL_US, time_us, available_us),
        role=role,
        key=key,
        value=np.ascontiguousarray(value, dtype=np.float32),
        text=text,
        visit_id=_integers(events, "visit_id"),
        end_us=_integers(events, "end_time"),
        keys=keys,
        texts=texts,
    )


def _combine(events: pa.Table, role: NDArray[np.uint8]) -> tuple[NDArray[np.int32], list[Key]]:
    """One key per (role, table, code, unit) that occurs, and what it stands for."""
    tables, table_names = numbers_of(events["table"])
    codes, code_names = numbers_of(events["code"])
    units, unit_names = numbers_of(events["unit"])
    n_tables, n_codes, n_units = len(table_names), len(code_names), len(unit_names) + 1
    present, key = distinct_keys(role, tables, codes, units, n_tables, n_codes, n_units - 1)
    keys: list[Key] = []
    for number in present.tolist():
        rest, unit = divmod(number, n_units)
        rest, code = divmod(rest, n_codes)
        kind, table = divmod(rest, n_tables)
        name = unit_names[unit - 1] if unit else None
        keys.append((kind, table_names[table], code_names[code], name))
    return key, keys
