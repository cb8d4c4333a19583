"""Arrow event tables as flat arrays: strings become small keys once a batch, never per event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from chronoward._core import KeyIndex
from chronoward.dictionary import encoded
from chronoward.errors import DataError
from chronoward.schema import Role, event_schema

if TYPE_CHECKING:
    from numpy.typing import NDArray

NULL_US: Final = -(2**63)

Key = tuple[int, str, str, "str | None"]  # role, table, code, unit


@dataclass(frozen=True, eq=False)
class EventColumns:
    """Events of whole subjects, (N,) each; `key` indexes `keys`, `text` indexes `texts` (-1 none);
    both are the reader's, which grow.

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
    if len(column) and column.null_count == len(column):
        return np.full(len(column), NULL_US)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us")).cast(pa.int64())
    filled = column.combine_chunks() if column.null_count == 0 else column.fill_null(NULL_US)
    return np.ascontiguousarray(filled.to_numpy(), dtype=np.int64)


class EventReader:
    """Reads batches of one event table; numbers of keys and texts mean the same in all of them."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.texts: list[str] = []
        self._index = KeyIndex()
        self._numbers = {name: _TextNumbers() for name in ("table", "code", "unit", "text_value")}

    def read(self, events: pa.Table) -> EventColumns:
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
        if (subject_id[1:] < subject_id[:-1]).any():
            row = int(np.argmax(subject_id[1:] < subject_id[:-1])) + 1
            message = f"events row {row}: subjects must be contiguous and ascending"
            raise DataError(message)
        role = np.ascontiguousarray(events.column("role").to_numpy(), dtype=np.uint8)
        if len(role) and role.max() > max(Role):
            message = f"events row {int(np.argmax(role > max(Role)))}: unknown role"
            raise DataError(message)
        numbers = {name: which.of(events[name]) for name, which in self._numbers.items()}
        text = numbers.pop("text_value")
        key = self._index.number(role, *numbers.values())
        self._name_keys()
        self.texts = self._numbers["text_value"].texts
        time_us, available_us = (_integers(events, name) for name in ("time", "available_time"))
        if events["available_time"].null_count:
            available_us = np.where(available_us == NULL_US, time_us, available_us)
        value = events.column("numeric_value").fill_null(np.float32(np.nan)).to_numpy()
        return EventColumns(
            subject_id=subject_id,
            time_us=time_us,
            available_us=available_us,
            role=role,
            key=key,
            value=np.ascontiguousarray(value, dtype=np.float32),
            text=text,
            visit_id=_integers(events, "visit_id"),
            end_us=_integers(events, "end_time"),
            keys=self.keys,
            texts=self.texts,
        )

    def _name_keys(self) -> None:
        tables, codes, units = (self._numbers[name].texts for name in ("table", "code", "unit"))
        for role, table, code, unit in self._index.keys(len(self.keys)):
            name = None if unit < 0 else units[unit]
            self.keys.append((role, tables[table], codes[code], name))


class _TextNumbers:
    """Numbers of a column's texts in order of first sight; a dictionary is looked through once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._number: dict[str, int] = {}
        self._last: tuple[pa.Array, NDArray[np.int32]] | None = None

    def of(self, column: pa.ChunkedArray) -> NDArray[np.int32]:
        """Numbers of a column, -1 for null."""
        if column.null_count == len(column):
            return np.full(len(column), -1, np.int32)
        indices, texts = encoded(column)
        return np.asarray(self._translation(texts)[indices])

    def _translation(self, dictionary: pa.Array) -> NDArray[np.int32]:
        """The number of each text of a dictionary; its last element serves -1."""
        if self._last is not None and _is_same(self._last[0], dictionary):
            return self._last[1]
        number = np.full(len(dictionary) + 1, -1, np.int32)
        for i, text in enumerate(dictionary.to_pylist()):
            if text not in self._number:
                self._number[text] = len(self.texts)
                self.texts.append(text)
            number[i] = self._number[text]
        self._last = (dictionary, number)
        return number


def _is_same(a: pa.Array, b: pa.Array) -> bool:
    """Whether two dictionaries lie at the same place in memory, as those of a file's batches do."""

    def place(array: pa.Array) -> list[Any]:
        buffers = (None if b is None else (b.address, b.size) for b in array.buffers())
        return [len(array), array.offset, *buffers]

    return place(a) == place(b)
